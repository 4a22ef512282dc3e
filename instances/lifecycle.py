"""The life of a machine as data: what is wanted, what is seen, and the one next step. Pure.

`decide` is total: every combination of wish and sight has a step, so a machine can never be in a situation nobody
thought of. `state_of` is the one word people see; it is derived, and stored only to be searched.
"""

from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum
from typing import Any


class Wanted(StrEnum):
    """What the person wants."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


class Seen(StrEnum):
    """What was last seen in the cloud."""

    ABSENT = "absent"  #: no server carries our name and tag
    BUILDING = "building"  #: the cloud is making it
    BOOTING = "booting"  #: the server runs, its desktop does not answer yet
    READY = "ready"  #: the desktop answers
    STOPPED = "stopped"  #: the server is shut off
    PAUSED = "paused"  #: an operator froze it
    SHELVED = "shelved"  #: put aside by an operator; its disk is kept
    RESIZING = "resizing"  #: it is moved or resized, and off meanwhile
    FAILED = "failed"  #: the cloud says ERROR
    UNKNOWN = "unknown"  #: the cloud did not answer, or said something we do not know: never a reason to act


class State(StrEnum):
    """The one word for a machine."""

    WAITING = "waiting"  #: accepted; its turn to be made has not come
    BUILDING = "building"
    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    STOPPED = "stopped"
    REBOOTING = "rebooting"
    PAUSED = "paused"
    SHELVED = "shelved"
    RESIZING = "resizing"
    DELETING = "deleting"
    DELETED = "deleted"
    ERROR = "error"
    GONE = "gone"
    UNKNOWN = "unknown"  #: not seen for a while


class Step(StrEnum):
    """The one thing to do next."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    REBOOT = "reboot"
    DELETE = "delete"
    WAIT = "wait"  #: on the way; look again soon
    REST = "rest"  #: as wanted; look again later
    FOLLOW = "follow"  #: what was wanted came about, and somebody else changed it since: the wish becomes what is
    DISCARD = "discard"  #: delete a server that never became a machine, so that another can be made
    FAIL = "fail"  #: say why, and let the person choose
    MARK_GONE = "mark_gone"  #: it had a server and the cloud has none any more
    FORGET = "forget"  #: deletion is complete


class Permission(StrEnum):
    """What somebody may do with a machine."""

    SEE = "see"
    CONNECT = "connect"
    OPERATE = "operate"  #: start, stop, reboot
    DELETE = "delete"
    INSPECT = "inspect"  #: read the end of its serial console, to find out what is the matter


class Holder(StrEnum):
    """What somebody is to a machine."""

    OWNER = "owner"
    SUPPORT = "support"
    ADMINISTRATOR = "administrator"
    NOBODY = "nobody"


PERMISSIONS: dict[Holder, frozenset[Permission]] = {
    Holder.OWNER: frozenset(Permission) - {Permission.INSPECT},
    # Support sees what it is responsible for; entering somebody's desktop needs a knock, which is not built yet.
    Holder.SUPPORT: frozenset({Permission.SEE, Permission.OPERATE, Permission.INSPECT}),
    # What somebody left behind has to end one day; nobody's desktop is entered for that.
    Holder.ADMINISTRATOR: frozenset({Permission.SEE, Permission.OPERATE, Permission.DELETE, Permission.INSPECT}),
    Holder.NOBODY: frozenset(),
}


def may(holder: Holder, permission: Permission) -> bool:
    """Whether `holder` has `permission`."""
    return permission in PERMISSIONS[holder]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Every time that has to outwait another, in one place: tests shorten all of them by one factor.

    `quiet` must exceed the longest time a create may still be executed after its caller gave up; `lease` the `budget`
    of one claim; the sweeper's ages the quiet period.
    """

    #: a claim holds so long; all calls of one claim begin within `budget`; one call takes at most `call`
    lease: timedelta = timedelta(seconds=60)
    budget: timedelta = timedelta(seconds=30)
    call: timedelta = timedelta(seconds=10)
    quiet: timedelta = timedelta(seconds=120)
    tick: timedelta = timedelta(seconds=5)

    #: what is on its way is looked at after `soon`, then ever later up to `meanwhile`. The watch wakes what boots and
    #: what is made when that is over: by itself the first is looked at each `meanwhile`, and the second, of which
    #: nothing can be heard, each `making`. What rests, each `rest`
    soon: timedelta = timedelta(seconds=1)
    meanwhile: timedelta = timedelta(seconds=15)
    making: timedelta = timedelta(seconds=30)
    rest: timedelta = timedelta(hours=1)
    longest_wait: timedelta = timedelta(minutes=5)
    #: between the builds of one machine, after each that was lost
    rebuild: tuple[timedelta, ...] = (timedelta(seconds=10), timedelta(seconds=60), timedelta(seconds=300))
    #: a deletion that takes longer raises an alarm
    stuck: timedelta = timedelta(minutes=10)

    #: the watch: what changed, while something is on its way and while nothing is; everything; and the desktops
    watch_busy: timedelta = timedelta(seconds=2)
    watch_idle: timedelta = timedelta(seconds=15)
    watch_full: timedelta = timedelta(minutes=5)
    #: between two clocks; and between a change at the cloud and when its lists show it
    watch_overlap: timedelta = timedelta(minutes=2)
    watch_late: timedelta = timedelta(seconds=30)
    greet_booting: timedelta = timedelta(seconds=0.7)
    greet_ready: timedelta = timedelta(seconds=4)
    #: not seen for longer than this is shown as unknown
    stale: timedelta = timedelta(minutes=3)

    #: the breaker opens at five failures within `breaker_window`, and lets a probe through each `breaker_probe`
    breaker_window: timedelta = timedelta(seconds=30)
    breaker_probe: timedelta = timedelta(seconds=10)

    #: the sweeper: how often, how old a stray must be, and how far apart its two sightings
    sweep: timedelta = timedelta(seconds=60)
    sweep_age: timedelta = timedelta(minutes=10)
    sweep_apart: timedelta = timedelta(minutes=5)

    #: what the deadlines of the sights are multiplied by
    deadlines: float = 1.0

    #: alarms: a driver notes its turn this often; one that noted none for `missing`, and a Redis that took nothing for
    #: `refused`, are told of. `missing` holds the longest step of a reconciler and the longest tick of a busy worker
    turn: timedelta = timedelta(seconds=15)
    missing: timedelta = timedelta(minutes=2)
    refused: timedelta = timedelta(seconds=30)

    def deadline(self, seen: "Seen", *, build: timedelta | None = None) -> timedelta:
        """How long this sight may last while it is not what is wanted; `build` is what this size's builds may."""
        usual = build if seen is Seen.BUILDING and build is not None else DEADLINES[seen]
        return usual if usual == timedelta.max else usual * self.deadlines

    def on_its_way(self, age: timedelta) -> timedelta:
        """When to look again at what began `age` ago: soon at first, then after as long as it took so far."""
        return min(max(age, self.soon), self.meanwhile)

    def scaled(self, factor: float) -> "Pace":
        """The same times, each multiplied by `factor`."""

        def scale(value: Any) -> Any:
            return tuple(one * factor for one in value) if isinstance(value, tuple) else value * factor

        return Pace(**{one.name: scale(getattr(self, one.name)) for one in fields(self)})


#: how long each sight may last while it is not what is wanted; after that the machine has failed, with a reason
DEADLINES: dict[Seen, timedelta] = {
    # Counted from when its turn came: waiting in line is no fault.
    Seen.ABSENT: timedelta(minutes=30),
    Seen.BUILDING: timedelta(minutes=15),
    Seen.BOOTING: timedelta(minutes=15),
    Seen.READY: timedelta(minutes=10),
    Seen.STOPPED: timedelta(minutes=10),
    Seen.PAUSED: timedelta(minutes=10),
    Seen.SHELVED: timedelta(minutes=30),
    # A resize or a move of an operator's takes as long as it takes.
    Seen.RESIZING: timedelta.max,
    Seen.FAILED: timedelta.max,
    Seen.UNKNOWN: timedelta.max,
}

#: sights of a server that is off, and keeps its disk
OFF = frozenset({Seen.STOPPED, Seen.PAUSED, Seen.SHELVED})
#: sights of a server that runs
ON = frozenset({Seen.BOOTING, Seen.READY})
#: builds of one machine that may end in ERROR, and that may never end
BUILDS = 3
STUCK_BUILDS = 2


def fulfilled(wanted: Wanted, seen: Seen) -> bool:
    """Whether the wish has come about: from then on it follows what the cloud does."""
    return (wanted is Wanted.RUNNING and seen is Seen.READY) or (wanted is Wanted.STOPPED and seen in OFF)


def settled(wanted: Wanted, seen: Seen) -> bool:
    """Whether looking at the machine now and then is enough."""
    return fulfilled(wanted, seen) or (seen is Seen.FAILED and wanted is not Wanted.DELETED)


def decide(
    wanted: Wanted,
    seen: Seen,
    *,
    had_server: bool,
    overdue: bool,
    reboot: bool = False,
    followed: bool = False,
    was_ready: bool = False,
    discarding: bool = False,
    builds_left: bool = True,
    failed: bool = False,
    doubled: bool = False,
) -> Step:
    """The one next step.

    `had_server`: the cloud once showed a server for this machine. `overdue`: the current step has passed its deadline.
    `reboot`: the person asked for one that has not been sent yet. `followed`: this wish came about once already.
    `was_ready`: its desktop once answered, so that somebody's work may be on it. `discarding`: its server is being
    deleted because it never became a machine; `builds_left`: another may be made then. `failed`: it failed for good,
    and the person has not chosen yet. `doubled`: two servers were made for it.
    """
    if seen is Seen.UNKNOWN:
        # Unreachable is not absent: never fail, create or delete on silence.
        return Step.WAIT
    if wanted is Wanted.DELETED:
        return Step.FORGET if seen is Seen.ABSENT else Step.DELETE
    if seen is Seen.ABSENT:
        if had_server and not discarding:
            return Step.MARK_GONE
        if failed:
            return Step.REST
        return Step.FAIL if overdue or not builds_left else Step.CREATE
    if discarding or (doubled and not was_ready):
        # The port they were both made on is lost to both of them (docs/decisions/0008): none becomes a machine.
        return Step.DISCARD
    if seen is Seen.FAILED:
        # Never by itself where somebody's work may be on it.
        return Step.FAIL if was_ready else Step.DISCARD
    if seen is Seen.RESIZING:
        return Step.WAIT
    if seen is Seen.BUILDING:
        if not overdue:
            return Step.WAIT
        return Step.FAIL if was_ready else Step.DISCARD
    if fulfilled(wanted, seen) and not (reboot and wanted is Wanted.RUNNING):
        return Step.REST
    if followed and ((wanted is Wanted.RUNNING and seen in OFF) or (wanted is Wanted.STOPPED and seen in ON)):
        return Step.FOLLOW
    if wanted is Wanted.STOPPED:
        return Step.FAIL if overdue else Step.STOP
    if seen in OFF:
        return Step.FAIL if overdue else Step.START
    if reboot:
        return Step.REBOOT
    return Step.FAIL if overdue else Step.WAIT


def state_of(
    wanted: Wanted,
    seen: Seen,
    *,
    failed: bool,
    gone: bool,
    rebooting: bool,
    deleted: bool = False,
    waiting: bool = False,
) -> State:
    """The one word people see.

    `failed`: a step failed for good. `gone`: the server ended outside. `rebooting`: a reboot was asked for and the
    desktop has not answered since. `deleted`: its deletion is proven. `waiting`: its turn to be made has not come.
    """
    if wanted is Wanted.DELETED:
        return State.DELETED if deleted else State.DELETING
    if gone:
        return State.GONE
    if failed:
        return State.ERROR
    if waiting:
        return State.WAITING
    if seen is Seen.RESIZING:
        return State.RESIZING
    if wanted is Wanted.STOPPED:
        return {Seen.STOPPED: State.STOPPED, Seen.PAUSED: State.PAUSED, Seen.SHELVED: State.SHELVED}.get(
            seen, State.STOPPING
        )
    if seen is Seen.READY:
        return State.REBOOTING if rebooting else State.ACTIVE
    if seen is Seen.BOOTING or seen in OFF:
        return State.REBOOTING if rebooting else State.STARTING
    return State.BUILDING
