"""The table of faults: what each is, how long its end may take, and the function that makes it happen."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.faults.site import NotSo, Site

#: makes the fault happen and returns how long it took, from its end (or the kill) until all invariants held
Happening = Callable[["Ground"], float]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One line of the matrix.

    `within` is in seconds at the usual pace, and scales with it; the time of its launches (and one more) and two ticks
    of the timetable come on top, which do not.
    """

    id: str
    words: str
    within: float
    happening: Happening


TABLE: dict[str, Fault] = {}
#: two ticks of the timetable, in seconds: they do not scale
TICKS = 10.0


def fault(name: str, words: str, *, within: float) -> Callable[[Happening], Happening]:
    """Puts a function into the table."""

    def put(happening: Happening) -> Happening:
        assert name not in TABLE, name
        TABLE[name] = Fault(id=name, words=words, within=within, happening=happening)
        return happening

    return put


@dataclass
class Ground:
    """What a fault happens on: the site, what was launched there, and how long a launch takes when all is well."""

    site: Site
    usual: float
    fault: Fault
    #: everything that was ever accepted; the invariants are asked of all of it
    accepted: list[Any]
    launches: int = 0

    @property
    def allowed(self) -> float:
        """Seconds until all must be well: the table's time at this pace, and what its launches take at this cloud."""
        return self.fault.within * self.site.scale + (1 + max(1, self.launches)) * self.usual + TICKS

    def launch(self, **how: Any) -> Any:
        made = self.site.launch(**how)
        self.accepted.append(made)
        self.launches += 1
        return made

    def ready(self, **how: Any) -> Any:
        """A machine whose desktop answers."""
        made = self.launch(**how)
        self.site.until_state(made, "active", seconds=30 * self.usual)
        return made

    def delete(self, instance_id: Any) -> None:
        from instances import actions

        actions.delete(instance_id, by=self.site.row(instance_id).owner)

    def sound(self, *, more: float = 0.0) -> float:
        """Waits until every invariant holds, not longer than this fault may take (and `more` seconds)."""
        return self.site.sound(self.accepted, seconds=self.allowed + more)

    def creates(self, instance_id: Any) -> int:
        """How many attempts a machine's row has counted."""
        return int(self.site.row(instance_id).attempt)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one fault."""

    fault: Fault
    took: float
    allowed: float
    trouble: str = ""

    def line(self) -> str:
        said = "holds" if not self.trouble else f"BROKEN: {self.trouble}"
        return f"  {self.fault.id:<6} {self.fault.words:<64} {self.took:6.1f} s of {self.allowed:5.1f}  {said}"


def run(site: Site, names: list[str], say: Callable[[str], None]) -> list[Result]:
    """Every named fault, one after the other on one site, each from a site that is sound."""
    from django.db import connection

    accepted: list[Any] = []
    usual = _usual(site, accepted)
    say(f"  one launch takes {usual:.1f} s here; the platform's times are multiplied by {site.scale:g}")
    results = []
    for name in names:
        ground = Ground(site=site, usual=usual, fault=TABLE[name], accepted=accepted)
        began = time.monotonic()
        try:
            took, trouble = ground.fault.happening(ground), ""
        except (NotSo, AssertionError, TimeoutError) as error:
            took, trouble = time.monotonic() - began, f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 - one line's trouble is not the others'
            took, trouble = time.monotonic() - began, f"{type(error).__name__}: {error}"
        if not trouble and took > ground.allowed:
            trouble = "too late"
        results.append(Result(fault=ground.fault, took=took, allowed=ground.allowed, trouble=trouble[:600]))
        say(results[-1].line())
        connection.close()
        _restore(site, accepted, ground, say)
    return results


def _usual(site: Site, accepted: list[Any]) -> float:
    """How long a launch takes here when nothing is wrong: the second one, the first brings the drivers up."""
    took = 0.0
    for _ in range(2):
        began = time.monotonic()
        accepted.append(site.launch())
        site.sound(accepted, seconds=180)
        took = time.monotonic() - began
    return took


def _restore(site: Site, accepted: list[Any], ground: Ground, say: Callable[[str], None]) -> None:
    """Takes the fault away, and the machines; what cannot be made sound is reported and given up."""
    from instances import actions
    from instances.models import Instance

    for wire in site.wires.values():
        wire.mend()
    site.desks.shut = False
    site.desks.closed.clear()
    site.revive()
    for row in Instance.objects.filter(deleted_at=None).exclude(wanted="deleted").select_related("owner"):
        actions.delete(row.id, by=row.owner)
    try:
        site.sound(accepted, seconds=60 + 300 * site.scale)
    except NotSo as error:
        say(f"         does not come to rest afterwards: {error}"[:600])
        accepted.clear()
        for row in Instance.objects.filter(deleted_at=None):
            say(f"         {row.id} {row.wanted} {row.state} {row.reason_code} {row.reason_detail[:100]}")
