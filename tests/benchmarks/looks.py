"""What a look costs the cloud: `python -m tests.benchmarks.looks`.

Against the OpenStack of deploy/openstack on this machine: for each kind of question about one server, how long it takes
and how much processor time Nova's API, Neutron and the database spend on it, each asked so many times (40).
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.faults.site import STATE

#: whose processor time is told, by what stands in their command line
SERVICES = ("nova-api", "neutron-server", "mariadb")
NAME = "visa-looked-at"


def _spent() -> dict[str, float]:
    """Processor seconds of each service so far."""
    spent = dict.fromkeys(SERVICES, 0.0)
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command, fields = (place / "cmdline").read_text(), (place / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        for name in SERVICES:
            if name in command:
                spent[name] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def _cost(ask: Callable[[], Any], times: int) -> tuple[float, Mapping[str, float]]:
    """Milliseconds each, and of them each service's processor time."""
    ask()
    before, began = _spent(), time.monotonic()
    for _ in range(times):
        ask()
    took, after = time.monotonic() - began, _spent()
    return 1000 * took / times, {name: 1000 * (after[name] - before[name]) / times for name in SERVICES}


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.looks", description=__doc__)
    parser.add_argument("--times", type=int, default=40)
    asked = parser.parse_args()
    os.environ["OS_CLIENT_CONFIG_FILE"] = str(STATE / "clouds.yaml")
    from openstack.connection import Connection

    sdk = Connection(cloud="visa-user", compute_default_microversion="2.90")
    image: Any = sdk.image.find_image("visa-desktop", ignore_missing=False)
    flavour: Any = sdk.compute.find_flavor("visa.small", ignore_missing=False)
    network: Any = sdk.network.find_network("visa", ignore_missing=False)
    server = sdk.compute.create_server(
        name=NAME,
        image_id=image.id,
        flavor_id=flavour.id,
        networks=[{"uuid": network.id}],
        tags=["visa:one", "visa:other"],
    )
    try:
        sdk.compute.wait_for_server(server, wait=120)
        questions = {
            "by name, with details": f"/servers/detail?name=^{NAME}$",
            "by name and two tags, with details": f"/servers/detail?name=^{NAME}$&tags=visa:one,visa:other",
            "by name, without details": f"/servers?name=^{NAME}$",
            "by name, with details, and there is none": "/servers/detail?name=^visa-not-there$",
            "by its id": f"/servers/{server.id}",
        }
        for words, path in questions.items():
            took, spent = _cost(lambda path=path: sdk.compute.get(path), asked.times)  # type: ignore[misc]
            told = ", ".join(f"{name} {one:.0f}" for name, one in spent.items())
            print(f"{words:<42} {took:4.0f} ms; processor time, ms: {told}", flush=True)
    finally:
        sdk.compute.delete_server(server.id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
