"""What settled machines cost: `python -m tests.benchmarks.watching`.

So many machines (1,000) are made before a real OpenStack and left alone; then for some minutes each call to the cloud
is counted at the wire, the processor time of workers, timetable and reconciler is read, and PostgreSQL's transactions.
The same is done with half as many, to tell what grows. Before a cloud with Nova's own pages: `deploy/openstack/up
--fake 2 --pages 1000`. `--short` is 8 machines, once and for 60 s, of which only the calls are judged, but for
those that turn the pages of a list: the pages of a small cloud are as small as it likes.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.demo_platform import as_interrupt
from tests.faults.site import Site, a_site, until


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What so many settled machines cost in a minute: calls by service, share of a core."""

    machines: int
    calls: dict[str, float]
    #: of the calls, those that turned a page of a list
    turned: float
    cpu: float
    transactions: float

    @property
    def asked(self) -> float:
        """Calls a minute."""
        return sum(self.calls.values())

    def line(self) -> str:
        told = ", ".join(f"{name} {number:.1f}" for name, number in sorted(self.calls.items()))
        return (
            f"  {self.machines:5} machines: {self.asked:.1f} calls a minute ({told}; {self.turned:.1f} turned a page); "
            f"{100 * self.cpu:.2f} % of a core; {self.transactions:.0f} transactions a minute"
        )


def _cpu(site: Site) -> float:
    """Processor seconds of the drivers and their children so far."""
    roots = {site.running(name).pid for name in ("worker", "beat", "reconciler")}
    total = 0.0
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = place.parent.name, place.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(pid) in roots or int(rest[1]) in roots:
            total += (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _transactions() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("select xact_commit + xact_rollback from pg_stat_database where datname = current_database()")
        return int(cursor.fetchone()[0])


def measure(site: Site, machines: int, seconds: float) -> Cost:
    """Watches for so long."""
    before = {name: len(wire.calls) for name, wire in site.wires.items()}
    cpu, transactions, began = _cpu(site), _transactions(), time.monotonic()
    time.sleep(seconds)
    minutes = (time.monotonic() - began) / 60
    calls = {name: wire.calls[before[name] :] for name, wire in site.wires.items()}
    return Cost(
        machines=machines,
        calls={name: len(made) / minutes for name, made in calls.items() if made},
        turned=sum("marker=" in path for made in calls.values() for _method, path in made) / minutes,
        cpu=(_cpu(site) - cpu) / (minutes * 60),
        transactions=(_transactions() - transactions) / minutes,
    )


def _fill(site: Site, wanted: int) -> None:
    """As many machines more as make so many, all ready."""
    from instances.models import Instance

    people = [site.person() for _ in range(10)]
    for place in range(Instance.objects.count(), wanted):
        site.launch(by=people[place % 10])
    active = Instance.objects.filter(state="active")
    until(lambda: active.count() == wanted, 120 + 20 * wanted, "all are ready", every=1)


def main() -> int:
    """Prints the figures; 1 where one is not reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.watching", description=__doc__)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=660, help="each time: two full passes (660)")
    parser.add_argument("--short", action="store_true", help="8 machines, 60 s")
    asked = parser.parse_args()
    number, seconds = (8, 60.0) if asked.short else (asked.machines, asked.seconds)
    as_interrupt()
    found: list[Cost] = []
    with a_site(scale=1.0) as site:
        for machines in (number,) if asked.short else (number // 2, number):
            _fill(site, machines)
            time.sleep(20)  # what was on its way has come to rest
            found.append(measure(site, machines, seconds))
    for one in found:
        print(one.line())
    last = found[-1]
    if asked.short:
        return 1 if last.asked - last.turned >= 10 else 0
    # What each tick asks of the database does not grow with the machines.
    costly = last.cpu >= 0.03 or last.transactions > 1.2 * found[0].transactions
    return 1 if costly or last.asked >= 10 else 0


if __name__ == "__main__":
    sys.exit(main())
