"""Redis loses everything while machines are made: `python -m tests.benchmarks.flush`.

Before a real OpenStack 100 machines are being made or boot when Redis is emptied; from then on their desktops begin to
answer, one a second. Workers and timetable are alone: the reconciler, which needs no Redis, is not there. Told: the
longest that a row which was due waited for anybody to take it, and whether all come to rest. `--short` is 10 launches;
the wait, which this machine's speed decides as well, is then told, and not judged.
"""

import argparse
import sys
import time
from collections import Counter
from typing import Any

import redis

from deploy.demo_platform import as_interrupt
from tests.faults.site import NotSo, Site, a_site, until


def _unattended() -> float:
    """Seconds for which some row has been due and in nobody's hand; what waits in line is not due."""
    from django.db.models import ExpressionWrapper, F, Max, Q, fields
    from django.db.models.functions import Now

    from instances.models import Instance

    free = Instance.objects.filter(Q(lease_until=None) | Q(lease_until__lt=Now()), deleted_at=None, due_at__lte=Now())
    late = ExpressionWrapper(Now() - F("due_at"), output_field=fields.DurationField())
    longest: Any = free.exclude(state="waiting").aggregate(longest=Max(late))["longest"]
    return float(longest.total_seconds()) if longest else 0.0


def _flush(site: Site, number: int, seconds: float) -> tuple[float, float, str]:
    """The longest wait, how long all took, and what is wrong at the end."""
    from instances.models import Instance

    answering: set[str] = set()
    site.desks.only = answering
    people = [site.person() for _ in range(10)]
    machines = [site.launch(by=people[place % 10]) for place in range(number)]
    mine = Instance.objects.filter(id__in=machines)
    until(lambda: not mine.filter(state="waiting").exists(), seconds, "all are being made or boot", every=0.5)
    told = Counter(mine.values_list("state", flat=True))
    print(f"Redis is emptied while of {number} machines {', '.join(f'{n} are {state}' for state, n in told.items())}")
    redis.Redis.from_url(site.running("Redis").facts["url"]).flushall()
    began, longest = time.monotonic(), 0.0
    while mine.exclude(state="active").exists():
        if time.monotonic() - began > seconds:
            break
        hosts = mine.filter(desktop_host__isnull=False).order_by("serial").values_list("desktop_host", flat=True)
        answering |= {host for host in hosts[: int(time.monotonic() - began)] if host}
        longest = max(longest, _unattended())
        time.sleep(0.25)
    took = time.monotonic() - began
    try:
        site.sound(machines, seconds=60)
    except NotSo as error:
        return longest, took, str(error)
    return longest, took, ""


def main() -> int:
    """Prints the figures; 1 where something was lost or waited too long."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.flush", description=__doc__)
    parser.add_argument("--launches", type=int, default=100)
    parser.add_argument("--short", action="store_true", help="10 launches")
    asked = parser.parse_args()
    number = 10 if asked.short else asked.launches
    as_interrupt()
    with a_site(scale=1.0) as site:
        site.stop_drivers("reconciler")  # it needs no Redis; workers and the timetable alone must do
        longest, took, trouble = _flush(site, number, 120 + 15 * number)
    print(f"  longest that a due row waited for anybody: {longest:.1f} s")
    print(f"  all ready after {took:.0f} s; lost: {trouble or 0}")
    return 1 if trouble or (longest >= 15 and not asked.short) else 0


if __name__ == "__main__":
    sys.exit(main())
