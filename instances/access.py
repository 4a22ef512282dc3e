"""The only door from a person to a machine. Answers with frozen values; a no looks like "there is none"."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from django.db.models import Count, Prefetch, Q, QuerySet, Subquery
from django.db.models.functions import Now
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from instances import pacing
from instances.faults import Fault, faults_of, step_of
from instances.lifecycle import PERMISSIONS, Holder, Permission, Seen, State, Wanted, may
from instances.models import Connection, ConsoleExcerpt, Instance, InstanceEvent, Watch
from instances.pace import pace
from instances.reports import CONSOLE_KEPT, Step
from visa.accounts.claims import Role
from visa.accounts.models import User
from visa.errors import NotAllowed, NotFound

#: how many finished launches the usual time is worked out from
HISTORY = 50
#: how many lines of a machine's story are told
STORY_LINES = 60
#: machines on one page of the list of all
ROLL_PAGE = 50


class NoSuchMachine(NotFound):
    """There is no such machine, or none this person may know of."""

    code: ClassVar[str] = "no_such_machine"


@dataclass(frozen=True, kw_only=True)
class ProgressStep:
    """One step of a start: `done_at` is when it was over, `current` is where the machine is now, `fault` what the
    machine says is the matter with it."""

    key: str
    words: str
    done_at: datetime | None
    current: bool
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class EventView:
    """One line of a machine's story."""

    at: datetime
    kind: str
    words: str
    by: str


@dataclass(frozen=True, kw_only=True)
class ConsoleView:
    """The end of a machine's serial console, as hostile as all a machine says. `waiting`: it was asked for and not read
    since. `read_at` is None where nothing is kept."""

    text: str
    read_at: datetime | None
    waiting: bool


@dataclass(frozen=True, kw_only=True)
class MountView:
    """Data in the machine: where it stands there. Always read-only."""

    target: str
    source: str


@dataclass(frozen=True, kw_only=True)
class InstanceView:
    """A machine as its pages and the API show it. Sizes in MiB, times in seconds."""

    id: UUID
    name: str
    state: State
    state_words: str
    reason_code: str
    reason: str
    way_out: str
    created_at: datetime
    ready_at: datetime | None
    seen_at: datetime | None
    dataset_title: str
    dataset_doi: str
    flavour: str
    flavour_name: str
    cores: int
    memory_mib: int
    gpus: int
    image_name: str
    owner_name: str
    is_owner: bool
    mounts: tuple[MountView, ...]
    may: frozenset[Permission]
    starting: bool
    seconds_so_far: int
    #: what it was when it was last seen; the same as `state` unless that is UNKNOWN
    known_state: State
    #: its place in the line, 1 for who is next; None where it does not wait
    place: int | None = None
    #: since when the cloud does not answer, and since when its own desktop does not
    cloud_away_since: datetime | None = None
    silent_since: datetime | None = None
    #: what the machine says is missing in it, while its desktop answers
    faults: tuple[Fault, ...] = ()
    #: for those who may inspect it
    console: ConsoleView | None = field(default=None, repr=False)
    progress: tuple[ProgressStep, ...] = ()
    usual_seconds: int | None = None
    events: tuple[EventView, ...] = field(default=(), repr=False)
    open_desktops: int = 0

    @property
    def can_connect(self) -> bool:
        # A desktop needs no cloud to answer for it: it stays open while the cloud's interface is away.
        return self.known_state in {State.ACTIVE, State.REBOOTING} and Permission.CONNECT in self.may

    @property
    def can_start(self) -> bool:
        again = self.state is State.ERROR and self.reason_code not in {"build_failed", "no_room", "cloud_error"}
        off = {State.STOPPED, State.STOPPING, State.PAUSED, State.SHELVED}
        return (again or self.known_state in off) and Permission.OPERATE in self.may

    @property
    def can_stop(self) -> bool:
        return (
            self.known_state in {State.ACTIVE, State.STARTING, State.BUILDING, State.REBOOTING}
            and Permission.OPERATE in self.may
        )

    @property
    def can_reboot(self) -> bool:
        return self.state is State.ACTIVE and Permission.OPERATE in self.may

    @property
    def can_delete(self) -> bool:
        return self.state not in {State.DELETING, State.DELETED} and Permission.DELETE in self.may


def holder_of(person: User, instance: Instance) -> Holder:
    """What the person is to the machine."""
    if not person.is_active:
        return Holder.NOBODY
    if instance.owner_id == person.id:
        return Holder.OWNER
    if person.has_role(Role.ADMINISTRATOR):
        return Holder.ADMINISTRATOR
    if person.has_role(Role.SUPPORT):
        return Holder.SUPPORT
    return Holder.NOBODY


def looks_after_all(person: User) -> bool:
    """Whether the machines of this site are this person's to look after."""
    return person.is_active and (person.has_role(Role.SUPPORT) or person.has_role(Role.ADMINISTRATOR))


def instance_for(person: User, instance_id: UUID, *, to: Permission = Permission.SEE) -> InstanceView:
    """The machine, for somebody who may do `to` with it.

    Raises NoSuchMachine where there is none, where it was deleted, or where the person may not even see it (the three
    look the same); NotAllowed where the person may see it and not more.
    """
    instance = _rows().filter(id=instance_id).prefetch_related(_story()).first()
    if instance is None:
        raise NoSuchMachine(
            _("There is no such machine."), way_out=_("It may have been deleted. Your machines are on the home page.")
        )
    holder = holder_of(person, instance)
    if not may(holder, Permission.SEE):
        raise NoSuchMachine(
            _("There is no such machine."), way_out=_("It may have been deleted. Your machines are on the home page.")
        )
    if not may(holder, to):
        raise NotAllowed(_("Only its owner may do this with the machine."), way_out=_("Ask the owner."))
    return _view(
        instance,
        holder,
        _sky([instance]),
        events=tuple(reversed(instance.story)),  # type: ignore[attr-defined]  # prefetched under this name
        usual_seconds=usual_seconds(instance.flavour_id, instance.image_id),
        open_desktops=Connection.objects.filter(grant__instance_id=instance.id, closed_at=None).count(),
        console=_console(instance) if may(holder, Permission.INSPECT) else None,
    )


def _console(instance: Instance) -> ConsoleView:
    """What is kept of the console: for some minutes, and no longer than the machine."""
    kept = ConsoleExcerpt.objects.filter(instance_id=instance.id).first()
    if kept is None:
        return ConsoleView(text="", read_at=None, waiting=False)
    waiting = kept.asked_at is not None and (kept.read_at is None or kept.read_at < kept.asked_at)
    fresh = kept.read_at is not None and instance.now - kept.read_at < CONSOLE_KEPT  # type: ignore[attr-defined]
    return ConsoleView(text=kept.text if fresh else "", read_at=kept.read_at if fresh else None, waiting=waiting)


def instances_visible_to(person: User) -> list[InstanceView]:
    """The person's own machines, newest first. A constant number of queries."""
    rows = list(_rows().filter(owner=person).prefetch_related(_story()))
    sky = _sky(rows)
    return [_view(row, holder_of(person, row), sky, events=tuple(reversed(row.story))) for row in rows]  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Roll:
    """Machines of the whole site, newest first. `after` begins the next page, None at the end.

    `counts` says how many there are in each state, with the same words for people.
    """

    machines: tuple[InstanceView, ...]
    after: UUID | None
    counts: tuple[tuple[State, str, int], ...]


def roll_for(person: User, *, state: State | None = None, owner: str = "", after: UUID | None = None) -> Roll:
    """One page of all machines, for those who look after them: in `state`, of people whose name holds `owner`.

    A constant number of queries, however many machines there are. Raises NotAllowed.
    """
    if not looks_after_all(person):
        raise NotAllowed(
            _("Only support and administrators of this site see everybody’s machines."),
            way_out=_("Your own machines are on the home page."),
        )
    named = _rows().filter(owner__name__icontains=owner) if owner else _rows()
    counted = dict(named.order_by().values_list("state").annotate(Count("id")))
    rows = named.filter(state=state) if state else named
    if after is not None:
        last = Instance.objects.filter(id=after).values("created_at")[:1]
        rows = rows.filter(Q(created_at__lt=Subquery(last)) | Q(created_at=Subquery(last), id__lt=after))
    page = list(rows.order_by("-created_at", "-id")[: ROLL_PAGE + 1])
    shown = page[:ROLL_PAGE]
    sky = _sky(shown)
    return Roll(
        machines=tuple(_view(row, holder_of(person, row), sky) for row in shown),
        after=shown[-1].id if len(page) > ROLL_PAGE else None,
        counts=tuple((one, _(_STATE_WORDS[one]), counted[one]) for one in State if one in counted),
    )


def live_instance_of(person: User, dataset_id: int) -> InstanceView | None:
    """The person's machine for a dataset, where there is one that is not being deleted."""
    row = _rows().filter(owner=person, dataset_id=dataset_id).exclude(wanted=Wanted.DELETED).first()
    return None if row is None else _view(row, Holder.OWNER, _sky([row]))


def usual_seconds(flavour_id: int, image_id: int) -> int | None:
    """How long a start of this size and software usually took at this site: the median of the last ones, in seconds."""
    times = [
        (ready - made).total_seconds()
        for made, ready in Instance.objects.filter(flavour_id=flavour_id, image_id=image_id, ready_at__isnull=False)
        .order_by("-created_at")
        .values_list("created_at", "ready_at")[:HISTORY]
        if ready is not None
    ]
    return max(1, round(statistics.median(times))) if times else None


def _rows() -> QuerySet[Instance]:
    rows = Instance.objects.filter(deleted_at=None).select_related("owner", "dataset", "flavour", "image")
    # The database's clock: sights are written by it, and a web server's own may be minutes off.
    rows = rows.annotate(now=Now(), watched_at=Subquery(Watch.objects.values("changes_at")[:1]))
    return rows.prefetch_related("reports")


@dataclass(frozen=True, kw_only=True)
class _Sky:
    """What is so for all machines: since when the cloud is away, whether it asked us to wait, and who waits where."""

    away_since: datetime | None
    creates_away_since: datetime | None
    busy: bool
    creates_busy: bool
    places: Mapping[UUID, int]


def _sky(rows: Sequence[Instance]) -> _Sky:
    """One query, and a second where one of the rows waits in line."""
    gate = pacing.gate()
    opened = {name: one.opened_at for name, one in gate.services.items() if one.opened_at is not None}
    away = [opened[one] for one in pacing.FOR_ALL if one in opened]
    creates_away = [opened[one] for one in _FOR_ONE_TO_BE_MADE if one in opened]
    waiting = [row.id for row in rows if row.state == State.WAITING]
    return _Sky(
        away_since=min(away, default=None),
        creates_away_since=min(creates_away, default=None),
        busy=not gate.held.isdisjoint(pacing.FOR_ALL),
        creates_busy=not gate.held.isdisjoint(_FOR_ONE_TO_BE_MADE),
        places=pacing.places(waiting) if waiting else {},
    )


_FOR_ONE_TO_BE_MADE = (*pacing.FOR_ALL, *pacing.FOR_CREATES)
#: states that say nothing of the cloud as it is now
_OURS = frozenset({State.WAITING, State.ERROR, State.GONE, State.DELETING, State.DELETED})
#: states that end when the cloud has done something
_WAITS_FOR_CLOUD = frozenset(
    {State.WAITING, State.BUILDING, State.STARTING, State.STOPPING, State.REBOOTING, State.DELETING}
)


def _story() -> Prefetch[str, QuerySet[InstanceEvent], str]:
    """The last lines of each machine's story, newest first, so that a long life costs no more than a short one."""
    latest = InstanceEvent.objects.select_related("by").order_by("-at", "-id")[:STORY_LINES]
    return Prefetch("events", queryset=latest, to_attr="story")


_STATE_WORDS: dict[State, str] = {
    State.WAITING: gettext_noop("Waiting for its turn"),
    State.BUILDING: gettext_noop("Being made"),
    State.STARTING: gettext_noop("Starting"),
    State.ACTIVE: gettext_noop("Ready"),
    State.STOPPING: gettext_noop("Stopping"),
    State.STOPPED: gettext_noop("Stopped"),
    State.REBOOTING: gettext_noop("Restarting"),
    State.DELETING: gettext_noop("Being deleted"),
    State.DELETED: gettext_noop("Deleted"),
    State.ERROR: gettext_noop("Failed"),
    State.GONE: gettext_noop("Gone"),
    State.PAUSED: gettext_noop("Paused"),
    State.SHELVED: gettext_noop("Set aside"),
    State.RESIZING: gettext_noop("Being resized or moved"),
    State.UNKNOWN: gettext_noop("Not seen for a while"),
}

_EVENT_WORDS: dict[str, str] = {
    "wanted.running": gettext_noop("Start asked for"),
    "wanted.stopped": gettext_noop("Stop asked for"),
    "wanted.deleted": gettext_noop("Deletion asked for"),
    "wanted.reboot": gettext_noop("Restart asked for"),
    "seen.absent": gettext_noop("No server in the cloud"),
    "seen.building": gettext_noop("The cloud makes the machine"),
    "seen.booting": gettext_noop("The machine boots"),
    "seen.ready": gettext_noop("The desktop answers"),
    "seen.stopped": gettext_noop("The machine is off"),
    "seen.failed": gettext_noop("The cloud reports an error"),
    "seen.paused": gettext_noop("The machine is paused"),
    "seen.shelved": gettext_noop("The machine is set aside"),
    "seen.resizing": gettext_noop("The machine is being resized or moved"),
    "stopped.outside": gettext_noop("Stopped outside this platform"),
    "started.outside": gettext_noop("Started outside this platform"),
    "resized": gettext_noop("The cloud gave the machine another size"),
    "moved": gettext_noop("The cloud moved the machine to another host"),
    "build.lost": gettext_noop("The cloud could not make it; what was made is deleted"),
    "delete.stuck": gettext_noop("The deletion takes long; the administrators were told"),
    "desktop.silent": gettext_noop("The desktop does not answer"),
    "desktop.back": gettext_noop("The desktop answers again"),
    "failed": gettext_noop("A step failed"),
    "gone": gettext_noop("The machine no longer exists"),
    "deleted": gettext_noop("Deleted"),
}

_WAYS_OUT: dict[str, str] = {
    "build_failed": gettext_noop("Delete it and launch again; if it fails again, tell your support."),
    "no_room": gettext_noop("Delete it and choose a smaller size, or try again later."),
    "too_slow": gettext_noop("Wait a little, or delete it and launch again."),
    "gone": gettext_noop("Delete it here and launch again. The dataset itself is untouched."),
    "cloud_full": gettext_noop("Delete it and choose a smaller size, or try later."),
    "cloud_error": gettext_noop("Tell your support before you delete it: what is on its disk may be saved."),
    "step_broke": gettext_noop("It is tried again by itself. If it lasts, tell your support."),
    "held": gettext_noop("Nothing of yours is touched meanwhile. If it lasts, tell your support."),
    "desktop_silent": gettext_noop("Wait a little, or restart it. Its files are kept."),
}

_READY = frozenset({"seen.ready"})
#: the steps of a start, in their order: the sights that end each, and the machine's own reports that end it earlier
_STEPS: tuple[tuple[str, str, frozenset[str], frozenset[Step]], ...] = (
    ("accepted", gettext_noop("Your place is reserved"), frozenset({"wanted.running", "wanted.reboot"}), frozenset()),
    ("building", gettext_noop("The cloud makes your machine"), _READY | {"seen.booting"}, frozenset({Step.BOOTED})),
    ("booting", gettext_noop("The machine boots"), _READY, frozenset({Step.BOOTED})),
    ("network", gettext_noop("The machine reaches this platform"), _READY, frozenset({Step.NETWORK})),
    ("data", gettext_noop("Data and software are mounted"), _READY, frozenset({Step.MOUNTS, Step.SOFTWARE})),
    ("desktop", gettext_noop("The desktop answers"), _READY, frozenset({Step.DESKTOP})),
)


def _progress(instance: Instance, events: Iterable[InstanceEvent]) -> tuple[ProgressStep, ...]:
    """The steps since the last time somebody asked for a start, each with the time it was over."""
    since = list(events)
    asked = [index for index, event in enumerate(since) if event.kind in {"wanted.running", "wanted.reboot"}]
    since = since[asked[-1] :] if asked else since
    steps: list[ProgressStep] = []
    current_taken = False
    reports = list(instance.reports.all()) if since else []
    is_restart = bool(since) and since[0].kind == "wanted.reboot"
    for key, words, over, said in _STEPS:
        if is_restart and key == "building":
            continue  # the cloud has it already
        told_at, fault = step_of(reports, said, since[0].at) if reports else (None, "")
        done_at = next((event.at for event in since if event.kind in over), None) or told_at
        # What is missing holds up nothing: the next step is under way.
        current = done_at is None and not fault and not current_taken
        current_taken = current_taken or current
        steps.append(ProgressStep(key=key, words=_(words), done_at=done_at, current=current, fault=fault))
    return tuple(steps)


def _view(
    instance: Instance,
    holder: Holder,
    sky: _Sky,
    *,
    events: tuple[InstanceEvent, ...] = (),
    usual_seconds: int | None = None,
    open_desktops: int = 0,
    console: ConsoleView | None = None,
) -> InstanceView:
    known = State(instance.state)
    now: datetime = instance.now  # type: ignore[attr-defined]  # annotated under this name
    # What the watch found nothing to say about was seen as well.
    sights = [at for at in (instance.seen_at, instance.watched_at) if at is not None]  # type: ignore[attr-defined]
    seen_at = max(sights) if instance.seen_at is not None else None
    unseen = seen_at is not None and now - seen_at > pace().stale and known not in _OURS
    state = State.UNKNOWN if unseen else known
    unmade = instance.seen == Seen.ABSENT and not instance.had_server
    away = sky.creates_away_since if unmade else sky.away_since
    busy = known in _WAITS_FOR_CLOUD and (sky.creates_busy if unmade else sky.busy)
    if known in {State.ERROR, State.GONE}:
        away = None  # what is said of it is said for good
    code, reason = instance.reason_code, instance.reason
    if away or busy:
        code = "cloud_silent" if away else "cloud_busy"
        reason = pacing.SKY[code]
    starting = (
        instance.wanted == Wanted.RUNNING
        and not instance.failed
        and not instance.gone
        and (instance.seen != Seen.READY or instance.reboot_wanted_at is not None)
    )
    asked_at = instance.reboot_wanted_at or instance.wanted_at
    faults = faults_of(instance.reports.all()) if known in {State.ACTIVE, State.REBOOTING} and not starting else ()
    size = instance.specification["size"]
    return InstanceView(
        id=instance.id,
        name=instance.name,
        state=state,
        state_words=_("Ready, but not all of it") if faults and state is State.ACTIVE else _(_STATE_WORDS[state]),
        known_state=known,
        faults=faults,
        place=sky.places.get(instance.id),
        cloud_away_since=away,
        silent_since=instance.silent_since,
        reason_code=code,
        reason=_(reason) if reason else "",
        way_out=_(_WAYS_OUT[code]) if code in _WAYS_OUT else "",
        created_at=instance.created_at,
        ready_at=instance.ready_at,
        seen_at=seen_at,
        dataset_title=instance.dataset.title if instance.dataset else "",
        dataset_doi=instance.dataset.minted if instance.dataset else "",
        flavour=instance.flavour.slug,
        flavour_name=size["name"],
        cores=size["cores"],
        memory_mib=size["memory_mib"],
        gpus=size["gpus"],
        image_name=instance.image.name,
        owner_name=instance.owner.name,
        is_owner=holder is Holder.OWNER,
        mounts=tuple(
            MountView(target=mount["target"], source=mount["source"])
            for mount in instance.specification.get("mounts", [])
        ),
        may=PERMISSIONS[holder],
        starting=starting,
        seconds_so_far=max(0, int((now - asked_at).total_seconds())) if starting else 0,
        progress=_progress(instance, events) if starting else (),
        usual_seconds=usual_seconds if instance.ready_at is None else None,
        events=tuple(
            EventView(
                at=event.at,
                kind=event.kind,
                words=_(event.text) if event.text else _(_EVENT_WORDS.get(event.kind, event.kind)),
                by=event.by.name if event.by else "",
            )
            for event in events
        ),
        open_desktops=open_desktops,
        console=console,
    )
