"""What the sweeps found, for whoever looks after the site, and the release of a hold. Knows no cloud.

Beside it, which part of the site itself is silent: `alarms`.

The only door to sweeps, sightings and holds for people: administrators and support read, administrators release.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from instances.models import Sighting, Sweep, SweepHold, Watch
from instances.pace import pace
from instances.strays import DOUBTS, Doubt
from visa.accounts.claims import Role
from visa.accounts.models import User
from visa.audit import trail
from visa.errors import NotAllowed, NotFound

#: how many sweeps the page shows
SHOWN_SWEEPS = 60
SHOWN_SIGHTINGS = 100
#: what waits for a decision or for its time
OPEN = (Sighting.Verdict.SIGHTED, Sighting.Verdict.QUARANTINED, Sighting.Verdict.HELD)
#: the timetable's tick comes each five seconds, however short a test makes all other times
SHORTEST_MISSING: Final = timedelta(seconds=20)


class Part(StrEnum):
    """A part of the site itself that may fall silent: Celery's timetable, the reconciler, Redis."""

    TICK = "tick"
    RECONCILER = "reconciler"
    REDIS = "redis"


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A part that is silent, and since when. `at` is the database's now."""

    part: Part
    since: datetime
    at: datetime

    @property
    def words(self) -> str:
        match self.part:
            case Part.TICK:
                return _("No tick of the timetable reaches a worker.")
            case Part.RECONCILER:
                return _("The reconciler takes no turn.")
            case Part.REDIS:
                return _("Redis is away, or stores nothing.")


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """One sweep: how much there was, and what came of it. `held` is empty where no brake was on."""

    at: datetime
    rows: int
    servers: int
    ports: int
    volumes: int
    strays: int
    swept: int
    ghosts: int
    held: str


@dataclass(frozen=True, kw_only=True)
class SightingView:
    """Something in the cloud that no row explained."""

    kind: str
    kind_words: str
    provider_id: str
    name: str
    instance_id: str
    made_at: datetime | None
    first_seen_at: datetime
    last_seen_at: datetime
    verdict: str
    verdict_words: str
    why: str

    @property
    def open(self) -> bool:
        return self.verdict in OPEN


@dataclass(frozen=True, kw_only=True)
class HoldView:
    """Why sweeps only report. `vanished`: machines are missing, and a release calls them gone."""

    id: int
    vanished: bool
    since: datetime
    why: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it. `sweeps` and `sightings` are newest first; `at` is the database's now."""

    at: datetime
    sweeps: tuple[SweepView, ...]
    sightings: tuple[SightingView, ...]
    holds: tuple[HoldView, ...]
    alarms: tuple[Alarm, ...]
    may_release: bool

    @property
    def late(self) -> bool:
        """Whether nobody has swept for several times the usual pause."""
        return not self.sweeps or self.at - self.sweeps[0].at > patience()


def patience() -> timedelta:
    """After so long without a sweep something is wrong."""
    return 5 * pace().sweep


def report_for(person: User) -> Report:
    """What the last sweeps found. Raises NotAllowed for people who do not look after this site's machines."""
    if not _looks_after(person):
        message = _("Only administrators and support of this site may see this page.")
        raise NotAllowed(message, way_out=_("Your own machines are on the home page."))
    return report(may_release=_administrates(person))


def report(*, may_release: bool = False) -> Report:
    """The same for commands and examinations, which ask for nobody."""
    recent = Sweep.objects.order_by("-at", "-id")[:SHOWN_SWEEPS]
    # What waits comes first; of what is over, only the last.
    waiting = list(Sighting.objects.filter(verdict__in=OPEN)[:SHOWN_SIGHTINGS])
    over = Sighting.objects.exclude(verdict__in=OPEN)[: SHOWN_SIGHTINGS - len(waiting)]
    return Report(
        at=database_now(),
        sweeps=tuple(
            SweepView(
                at=one.at,
                rows=one.rows,
                servers=one.servers,
                ports=one.ports,
                volumes=one.volumes,
                strays=one.strays,
                swept=one.swept,
                ghosts=one.ghosts,
                held=_(one.held) if one.held else "",
            )
            for one in recent
        ),
        sightings=tuple(_sighting(one) for one in (*waiting, *over)),
        holds=tuple(
            HoldView(
                id=one.id,
                vanished=one.why == DOUBTS[Doubt.VANISHED],
                since=one.since,
                why=_(one.why),
                detail=one.detail,
            )
            for one in SweepHold.objects.filter(released_at=None).order_by("since", "id")
        ),
        alarms=alarms(),
        may_release=may_release,
    )


def alarms() -> tuple[Alarm, ...]:
    """What of the site itself is silent for too long. One query. A driver that never took a turn is not missed."""
    state = Watch.objects.annotate(now=Now()).first()
    if state is None:
        return ()
    known = {
        Part.TICK: (state.tick_at, missing()),
        Part.RECONCILER: (state.reconciler_at, missing()),
        Part.REDIS: (state.redis_silent_since, pace().refused),
    }
    return tuple(
        Alarm(part=part, since=since, at=state.now)
        for part, (since, patience) in known.items()
        if since is not None and state.now - since > patience
    )


def missing() -> timedelta:
    """A driver that took no turn for so long is missing."""
    return max(pace().missing, SHORTEST_MISSING)


def release(hold_id: int, *, by: User) -> bool:
    """Lets the sweeps delete again, as far as this hold goes. False where it was released before."""
    if not _looks_after(by):
        raise NotFound(_("There is no such page."))
    if not _administrates(by):
        message = _("Only administrators release sweeps.")
        raise NotAllowed(message, way_out=_("Ask one; the page tells them what to look at first."))
    return bool(_release(Q(id=hold_id), by=by))


def release_all() -> int:
    """The same for whoever has a shell on this host: how many holds were released."""
    return _release(Q(), by=None)


def _release(which: Q, *, by: User | None) -> int:
    with transaction.atomic():
        holds = list(SweepHold.objects.select_for_update().filter(which, released_at=None))
        SweepHold.objects.filter(id__in=[one.id for one in holds]).update(released_at=Now(), released_by=by)
        trail.record_all(
            [
                trail.Deed(
                    action="sweep.release",
                    kind="sweep_hold",
                    object_id=one.id,
                    actor=by.public_id if by else "",
                    detail={"why": one.why, "told": one.detail},
                )
                for one in holds
            ]
        )
    return len(holds)


def database_now() -> datetime:
    """The database's clock: hosts may disagree, and it is what every age here is told by."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def _sighting(one: Sighting) -> SightingView:
    return SightingView(
        kind=one.kind,
        kind_words=one.get_kind_display(),
        provider_id=one.provider_id,
        name=one.name,
        instance_id=str(one.instance_id or ""),
        made_at=one.made_at,
        first_seen_at=one.first_seen_at,
        last_seen_at=one.last_seen_at,
        verdict=one.verdict,
        verdict_words=one.get_verdict_display(),
        why=_(one.why) if one.why else "",
    )


def _administrates(person: User) -> bool:
    return person.is_active and person.has_role(Role.ADMINISTRATOR)


def _looks_after(person: User) -> bool:
    return person.is_active and (person.has_role(Role.SUPPORT) or person.has_role(Role.ADMINISTRATOR))
