"""A course begins: `python -m tests.benchmarks.herd`.

First a bare loop with the cloud's own library makes 200 servers, as fast as the cloud takes them, and waits until all
run. Then 200 people, each with a session of their own, launch a machine within 60 s through the web, and all must run
too: not later than 1.2 times what the loop took, none twice, and each launch accepted within a second (p95). Both are
counted from their first request. `--ports` has a second loop make each server's port before the server, as whoever is
to find again what was ordered has to: what that alone costs this cloud. `--short` is 12 of each; what this machine's
speed decides is then told, and not judged.
"""

import argparse
import sys
import threading
import time
from collections import Counter
from typing import Any

import requests

from deploy.demo_platform import as_interrupt
from tests.benchmarks.kills import quantile
from tests.faults.site import Site, a_site, until


def _bare(site: Site, number: int, *, ports: bool = False) -> float:
    """Seconds until so many servers run that a loop has made, each on a port that it made before where `ports`."""
    sdk = site.sdk()
    network = sdk.network.find_network("visa").id
    image, flavour = sdk.image.find_image("visa-desktop").id, sdk.compute.find_flavor("visa.small").id
    metadata = {"visa_environment": f"{site.environment}-bare", "visa_instance": "bare"}
    began = time.monotonic()
    made = []
    for place in range(number):
        place_on: dict[str, str] = {"uuid": network}
        if ports:
            made.append(sdk.network.create_port(network_id=network, name=f"bare-{place}").id)
            place_on = {"port": made[-1]}
        sdk.compute.create_server(
            name=f"bare-{place}", image_id=image, flavor_id=flavour, networks=[place_on], metadata=metadata
        )

    def mine() -> list[Any]:
        found = sdk.compute.servers(details=True)
        return [one for one in found if (one.metadata or {}).get("visa_environment") == metadata["visa_environment"]]

    def all_run() -> bool:
        return [one.status for one in mine()].count("ACTIVE") == number

    until(all_run, 60 + 20 * number, "all servers of the loop run", every=1)
    took = time.monotonic() - began
    for server in mine():
        sdk.compute.delete_server(server.id)
    until(lambda: not mine(), 60 + 20 * number, "the loop's servers are gone", every=1)
    for port in made:
        sdk.network.delete_port(port)
    return took


class Student:
    """A person with a session, made past the sign-in so that it takes no time."""

    def __init__(self, site: Site) -> None:
        from django.conf import settings
        from django.test import Client

        from tests import factories

        browser = Client()
        browser.force_login(site.person(), backend="visa.accounts.oidc.Backend")
        self.doi = factories.make_dataset().minted
        self.url = site.platform.url
        self.session = requests.Session()
        self.session.trust_env = False
        name = settings.SESSION_COOKIE_NAME
        self.session.cookies.set(name, browser.cookies[name].value)
        self.session.get(f"{self.url}/launch/{self.doi}", timeout=30)  # the page they stand on, with its form's token
        self.took = 0.0
        self.status = 0
        self.machine = ""

    def launch(self) -> None:
        token = self.session.cookies.get("visa-csrf") or ""
        headers = {"Referer": self.url, "Origin": self.url, "X-CSRFToken": token}
        began = time.monotonic()
        body = {"doi": self.doi, "flavour": "small"}
        answer = self.session.post(f"{self.url}/api/v1/instances/", json=body, headers=headers, timeout=60)
        self.took, self.status = time.monotonic() - began, answer.status_code
        if answer.status_code == 202:
            self.machine = answer.json()["id"]


def _herd(site: Site, students: list[Student], within: float) -> float:
    """Seconds until the machines of all run. They press the button evenly over `within` seconds."""
    from instances.models import Instance

    began = time.monotonic()
    threads = []
    for place, student in enumerate(students):
        time.sleep(max(0.0, began + within * place / len(students) - time.monotonic()))
        threads.append(threading.Thread(target=student.launch))
        threads[-1].start()
    for thread in threads:
        thread.join()
    machines = [student.machine for student in students if student.machine]

    def all_run() -> bool:
        made = Instance.objects.filter(id__in=machines, state="active").count()
        return made == len(students)

    until(all_run, 60 + 20 * len(students), "all machines run", every=0.5)
    return time.monotonic() - began


def main() -> int:
    """Prints the figures; 1 where one is not reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.herd", description=__doc__)
    parser.add_argument("--launches", type=int, default=200)
    parser.add_argument("--within", type=float, default=60.0, help="seconds in which all are asked for")
    parser.add_argument("--creates", type=int, default=20, help="VISA_CLOUD_CREATES")
    parser.add_argument("--ports", action="store_true", help="a second loop, which makes ports first")
    parser.add_argument("--short", action="store_true", help="12 launches in 4 s")
    asked = parser.parse_args()
    number, within = (12, 4.0) if asked.short else (asked.launches, asked.within)
    as_interrupt()
    with a_site(scale=1.0, creates=asked.creates) as site:
        site.stop_drivers()  # the loop has the machine for itself
        bare = _bare(site, number)
        with_ports = _bare(site, number, ports=True) if asked.ports else 0.0
        site.start_drivers()
        students = [Student(site) for _ in range(number)]
        site.sound([], seconds=60)
        herd = _herd(site, students, within)
        trouble = site.violations([student.machine for student in students])
        counted = Counter(server.metadata["visa_instance"] for server in site.servers())
        doubled = [one for one, count in counted.items() if count > 1]
    took = [student.took for student in students]
    refused = [student.status for student in students if student.status != 202]
    print(f"{number} people launch within {within:g} s")
    print(f"  accepted: p50 {quantile(took, 0.5):.2f} s, p95 {quantile(took, 0.95):.2f} s, max {max(took):.2f} s")
    print(f"  refused: {len(refused)}; two servers for one machine: {len(doubled)}; {trouble or 'all invariants hold'}")
    print(f"  all run after {herd:.0f} s; a bare loop took {bare:.0f} s: {herd / bare:.2f} times")
    if with_ports:
        print(
            f"  a loop that makes ports first took {with_ports:.0f} s; all run after {herd / with_ports:.2f} times that"
        )
    slow = herd > 1.2 * bare or quantile(took, 0.95) >= 1
    return 1 if refused or doubled or trouble or (slow and not asked.short) else 0


if __name__ == "__main__":
    sys.exit(main())
