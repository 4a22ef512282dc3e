"""What the platform adds to the cloud's own time: `python -m tests.benchmarks.added_time`.

For each of 30 launches before a real OpenStack: from the launch's acceptance to the POST that asks Nova for the server,
as seen at the wire; and from the desktop's first greeting, as seen by a prober that knows nothing of the platform, to
the row that says so. Desktops begin to answer at a moment of the test's choice after the server runs. `--short` is 3,
of which ten seconds (p50) are too much: this machine's speed decides as well.
"""

import argparse
import random
import socket
import sys
import threading
import time

from typing_extensions import override

from deploy.demo_platform import as_interrupt
from tests.benchmarks.herd import Student
from tests.benchmarks.kills import quantile
from tests.faults.site import Site, a_site, until


def _greets(host: str) -> bool:
    try:
        with socket.create_connection((host, 5901), timeout=1) as connection:
            return connection.recv(12).startswith(b"RFB")
    except OSError:
        return False


class Prober(threading.Thread):
    """Asks one address for a greeting all the time; `seen` is when it first came."""

    def __init__(self, host: str) -> None:
        super().__init__(daemon=True)
        self.host, self.seen = host, 0.0
        self.start()

    @override
    def run(self) -> None:
        while not self.seen:
            if _greets(self.host):
                self.seen = time.time()
            time.sleep(0.02)


def _one(site: Site, chance: random.Random) -> tuple[float, float]:
    """Seconds before the POST, and after the greeting."""
    from instances.models import Instance, InstanceEvent

    student = Student(site)
    nova = site.wires["nova"]
    before = len(nova.calls)
    student.launch()
    accepted = time.time()
    assert student.status == 202, student.status

    def posted() -> float:
        for (method, path), at in zip(nova.calls[before:], nova.times[before:], strict=False):
            if method == "POST" and path.endswith("/servers"):
                return at
        return 0.0

    sent = until(posted, 120, "Nova is asked for the server", every=0.02)

    def address() -> str:
        for server in site.servers():
            if server.metadata["visa_instance"] == student.machine and server.status == "ACTIVE":
                return next((one["addr"] for nets in server.addresses.values() for one in nets), "")
        return ""

    host = until(address, 120, "the server runs", every=0.3)
    prober = Prober(host)
    time.sleep(chance.uniform(2, 6))  # a machine boots, for as long as it takes
    assert site.desks.only is not None
    site.desks.only.add(host)
    until(lambda: prober.seen, 30, "the desktop greets", every=0.02)
    active = Instance.objects.filter(id=student.machine, state="active")
    until(active.exists, 60, "the row says so", every=0.05)
    told = InstanceEvent.objects.filter(instance_id=student.machine, kind="seen.ready").get().at.timestamp()
    return max(0.0, sent - accepted), max(0.0, told - prober.seen)


def main() -> int:
    """Prints the figures; 1 where one is not reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.added_time", description=__doc__)
    parser.add_argument("--launches", type=int, default=30)
    parser.add_argument("--short", action="store_true", help="3 launches")
    asked = parser.parse_args()
    number = 3 if asked.short else asked.launches
    as_interrupt()
    chance = random.Random(7)  # noqa: S311 - when desktops open
    with a_site(scale=1.0) as site:
        site.desks.only = set()
        found = []
        for place in range(number):
            found.append(_one(site, chance))
            before, after = found[-1]
            print(f"  {place + 1:3}: {before:.2f} s before the POST, {after:.2f} s after the greeting", flush=True)
    both = [before + after for before, after in found]
    for words, values in (
        ("accepted to POST", [before for before, _after in found]),
        ("greeting to ready", [after for _before, after in found]),
        ("both", both),
    ):
        middle, most = quantile(values, 0.5), quantile(values, 0.95)
        print(f"{words:<18} p50 {middle:.2f} s, p95 {most:.2f} s, max {max(values):.2f} s")
    most, rarely = (10.0, 30.0) if asked.short else (1.5, 3.0)
    return 1 if quantile(both, 0.5) >= most or quantile(both, 0.95) >= rarely else 0


if __name__ == "__main__":
    sys.exit(main())
