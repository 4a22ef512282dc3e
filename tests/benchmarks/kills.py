"""Drivers killed at random while machines are made and ended: `python -m tests.benchmarks.kills`.

500 launches and 500 deletes before a real OpenStack, and 200 times SIGKILL to a process of a worker or the reconciler:
at a named checkpoint, or at any moment to one that holds a lease. Who is killed is started again. At the end nothing
may be left over, doubled or lost (the invariants of `tests.faults.oracle`); and how long a machine whose driver was
killed waited for the next one to have done its step is told, apart for those of which nobody could know whether a
request was executed. `--short` is 24 launches and 12 kills, half of them under a lease at least; how long recovery took
is then told, and not judged.
"""

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from deploy.demo_platform import as_interrupt
from tests.faults.kills import Point
from tests.faults.site import NotSo, Site, a_site

#: machines there are at once
AT_ONCE = 30
#: an armed checkpoint that nobody comes by is given up after so many seconds
ARMED = 8.0


@dataclass(frozen=True, kw_only=True)
class Orphaned:
    """A machine whose driver was killed."""

    id: Any
    fence: int
    killed: float
    unsure: bool


@dataclass
class Tally:
    """What has happened so far."""

    launched: list[Any] = field(default_factory=list)
    deleted: set[Any] = field(default_factory=set)
    kills: Counter[str] = field(default_factory=Counter)
    held: int = 0
    waiting: list[Orphaned] = field(default_factory=list)
    recovered: list[float] = field(default_factory=list)
    recovered_unsure: list[float] = field(default_factory=list)
    doubled: set[str] = field(default_factory=set)


class Run:
    """One run on one site."""

    def __init__(self, site: Site, *, launches: int, kills: int, seed: int) -> None:
        self.site, self.launches, self.kills = site, launches, kills
        self.chance = random.Random(seed)  # noqa: S311 - chooses victims
        self.people = [site.person() for _ in range(20)]
        self.tally = Tally()
        self._point: Point | None = None
        self._name, self._armed = "", 0.0
        self._looked = 0.0

    def go(self) -> None:
        """Until all launches, deletes and kills are done; as long as kills are missing, more launches follow."""
        while self._more or len(self.tally.deleted) < len(self.tally.launched):
            self._wishes()
            if sum(self.tally.kills.values()) < self.kills:
                self._kill()
            self.site.start_drivers()
            self._follow()
            time.sleep(0.1)
        self._disarm()

    @property
    def _more(self) -> bool:
        return len(self.tally.launched) < self.launches or sum(self.tally.kills.values()) < self.kills

    def rest(self, seconds: float) -> None:
        """Until whatever was orphaned is recovered."""
        end = time.monotonic() + seconds
        while self.tally.waiting and time.monotonic() < end:
            self.site.start_drivers()
            self._follow()
            time.sleep(0.2)

    def _wishes(self) -> None:
        from instances import actions
        from instances.models import Instance

        tally = self.tally
        alive = len(tally.launched) - len(tally.deleted)
        if self._more and alive < AT_ONCE:
            tally.launched.append(self.site.launch(by=self.chance.choice(self.people)))
        rows = Instance.objects.filter(id__in=tally.launched).exclude(id__in=tally.deleted).select_related("owner")
        ready = [row for row in rows if row.state in {"active", "error", "gone"}]
        # Most are ended when they are ready, some in the middle of being made.
        mortal = ready or list(rows)[:1]
        if mortal and self.chance.random() < (0.9 if ready and (not self._more or len(ready) > AT_ONCE / 3) else 0.02):
            row = self.chance.choice(mortal)
            actions.delete(row.id, by=row.owner)
            tally.deleted.add(row.id)

    def _kill(self) -> None:
        from instances import checkpoints

        if self._point is None:
            # One in five at any moment; the others at a named point, at all of which but one a lease is held.
            self._name = self.chance.choice(checkpoints.ALL) if self.chance.random() < 0.8 else ""
            self._armed = time.monotonic()
            if self._name:
                self._point = Point(self.site.platform.directory / "checkpoints", self._name)
        if self._point is not None:
            try:
                pid = self._point.pid(0.05)
            except TimeoutError:
                if time.monotonic() - self._armed > ARMED:
                    self._disarm()
                return
            self._point.arrived.unlink(missing_ok=True)
            self._strike(pid, self._name)
            self._disarm()
            return
        holder = self._holder()
        if holder:
            self._strike(holder, "between points")
        elif self.chance.random() < 0.01:
            self._strike(self.site.running("reconciler").pid, "at rest")

    def _disarm(self) -> None:
        if self._point is not None:
            self._point.close()
        self._point = None

    def _leases(self) -> Any:
        from django.db.models.functions import Now

        from instances.models import Instance

        return Instance.objects.filter(lease_until__gt=Now()).exclude(lease_owner="")

    def _holder(self) -> int:
        """A process that holds a lease now, 0 where none does."""
        owners = list(self._leases().values_list("lease_owner", flat=True))
        pids = [int(owner.rpartition(":")[2]) for owner in owners]
        pids = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]  # noqa: PTH110 - a process, no file
        return self.chance.choice(pids) if pids else 0

    def _strike(self, pid: int, where: str) -> None:
        tally = self.tally
        try:
            # It stands still first, so that what it holds can be read and is what it held when it died.
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.02)
            held = list(self._leases().filter(lease_owner__endswith=f":{pid}"))
            if where == "between points" and not held:
                os.kill(pid, signal.SIGCONT)  # too late; the next one
                return
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        now = time.monotonic()
        tally.kills[where] += 1
        tally.held += bool(held)
        # A machine whose second driver is killed as well waits anew, for a third.
        ids = {row.id for row in held}
        tally.waiting = [one for one in tally.waiting if one.id not in ids]
        for row in held:
            unsure = row.intent_at is not None or row.port_intent_at is not None
            tally.waiting.append(Orphaned(id=row.id, fence=row.fence, killed=now, unsure=unsure))

    def _follow(self) -> None:
        """Whose step was done by somebody else meanwhile; and whether a machine has two servers."""
        from instances.models import Instance

        tally = self.tally
        rows = Instance.objects.in_bulk([one.id for one in tally.waiting])
        for one in list(tally.waiting):
            row = rows[one.id]
            if row.fence > one.fence and row.lease_until is None:
                took = time.monotonic() - one.killed
                (tally.recovered_unsure if one.unsure else tally.recovered).append(took)
                tally.waiting.remove(one)
        if time.monotonic() - self._looked > 5:
            self._looked = time.monotonic()
            live = Counter(
                server.metadata["visa_instance"]
                for server in self.site.servers()
                if server.status == "ACTIVE" and server.task_state != "deleting"
            )
            tally.doubled |= {instance for instance, number in live.items() if number > 1}


def quantile(values: list[float], share: float) -> float:
    """The value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> int:
    """Prints the figures; 1 where something was left over, doubled or lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kills", description=__doc__)
    parser.add_argument("--launches", type=int, default=500)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--scale", type=float, default=1.0, help="of the platform's waiting times (1)")
    parser.add_argument("--short", action="store_true", help="24 launches, 12 kills, half the waiting times")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    asked = parser.parse_args()
    launches, kills, scale = (24, 12, 0.5) if asked.short else (asked.launches, asked.kills, asked.scale)
    as_interrupt()
    with a_site(scale=scale) as site:
        run, began = Run(site, launches=launches, kills=kills, seed=asked.seed), time.monotonic()
        run.go()
        run.rest(400 * scale)
        tally, trouble = run.tally, ""
        try:
            site.sound(tally.launched, seconds=120 + 600 * scale)
        except NotSo as error:
            trouble = str(error)
        took = time.monotonic() - began
        swept = _swept()
    number = sum(tally.kills.values())
    made, ended = len(tally.launched), len(tally.deleted)
    print(f"{made} launches, {ended} deletes, {number} kills in {took:.0f} s, seed {asked.seed}")
    print(f"  {tally.held} of {number} kills while a lease was held ({100 * tally.held / max(1, number):.0f} %)")
    for name, count in tally.kills.most_common():
        print(f"    {name:<24} {count:4}  {'#' * count}")
    print(f"  left over, or lost: {trouble or 'none'}")
    print(f"  doubled machines: {len(tally.doubled)}; swept: {swept}; never recovered: {len(tally.waiting)}")
    for words, values in (("unambiguous", tally.recovered), ("unsure", tally.recovered_unsure)):
        if values:
            most = f"p95 {quantile(values, 0.95):.1f} s, max {max(values):.1f} s"
            print(f"  recovery, {words} ({len(values)}): {most}, where a lease is {60 * scale:g} s and a tick 5 s")
    # Of a dozen kills one more or less decides a share; and a busy machine decides a time.
    few = tally.held < (0.5 if asked.short else 0.8) * number
    late = quantile(tally.recovered, 0.95) > 65 * scale or max(tally.recovered, default=0) > 75 * scale
    # What the sweeper had to delete was an orphan.
    wrong = trouble or tally.doubled or tally.waiting or swept
    return 1 if wrong or few or (late and not asked.short) else 0


def _swept() -> int:
    from instances.models import Sighting

    return Sighting.objects.filter(verdict=Sighting.Verdict.SWEPT).count()


if __name__ == "__main__":
    sys.exit(main())
