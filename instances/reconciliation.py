"""Worker side: rows against the whole cloud. Strays are sighted, quarantined and swept; ghosts are made due.

One sweep at a time for the whole site: whoever drives, an advisory lock and the last sweep's row decide. The lists are
read whole, and the rows after them, so that nothing in a list can be younger than what is known. What is thought of it
is decided in `instances.strays`; this room reads, writes it down, and orders the deletions that were decided. Every
sweep that deletes something tells of a defect elsewhere: it is logged, audited, and shown until somebody has explained
it.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max, Q
from django.db.models.functions import Greatest, Now

from instances import holds, notices, pacing, strays, sweeps
from instances.cloud.protocol import Cloud, CloudError, CloudUnreachable, Service
from instances.lifecycle import Seen, Wanted
from instances.models import DatabaseIdentity, Instance, Sighting, Sweep, SweepHold
from instances.outcomes import unanswered
from instances.pace import pace
from instances.strays import Assessment, Books, Counts, Kind, Past, Row, Rules, Sight, Stray, Thing, Verdict
from quotas import allowances
from quotas.models import Reservation
from visa.audit import trail
from visa.environment import SweepMode

log = logging.getLogger(__name__)

#: the advisory lock of the one who sweeps: "visa" in ASCII, and its number here
LOCK = 0x76697361_00000001
#: how long sweeps are remembered, and strays that are no longer there, for the page and for the brakes
KEPT = timedelta(days=7)
#: what a sweep asks
ASKED = (Service.KEYSTONE, Service.NOVA, Service.NEUTRON, Service.CINDER)


@dataclass(frozen=True, kw_only=True)
class Ghost:
    """A row that says it has a server, which the whole list does not show."""

    instance_id: UUID
    name: str
    server_id: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The cloud's things beside the rows, and what is thought of it. Nothing was changed."""

    books: Books
    past: Past
    assessment: Assessment
    ghosts: tuple[Ghost, ...]

    @property
    def agrees(self) -> bool:
        return not self.assessment.strays and not self.ghosts


def sweep_if_due(cloud: Cloud) -> bool:
    """One sweep, where the last one is old enough and nobody else is at it. True where this call swept.

    A cloud that does not answer in full is not compared with anything: nothing is written, and the next call tries.
    """
    gate = pacing.gate()
    if not _due() or not gate.passes(*ASKED):
        return False
    try:
        swept = sweep(cloud, due=_due) is not None
    except CloudError as error:
        log.warning("nothing was swept: %s answers in part or not at all: %s", error.service, error)
        unanswered(error)
        return False
    if swept:
        pacing.answered(gate, ASKED)
    return swept


def sweep(cloud: Cloud, *, due: Callable[[], bool] | None = None, deleting: bool | None = None) -> Comparison | None:
    """Compares, writes down what was found, and deletes what the rules allow. None where another one is at it.

    `due` is asked once more behind the lock, where one is given. `deleting` overrides VISA_SWEEP. Raises CloudError
    where the cloud cannot be listed in full; then nothing was written.
    """
    with _alone() as alone:
        if not alone or (due is not None and not due()):
            return None
        comparison = compare(cloud, deleting=_may_delete() if deleting is None else deleting)
        swept = _write_down(comparison)
        _give_no_serial_twice(comparison.books)
        done = list(_delete_all(cloud, comparison.assessment.orders))
        Sweep.objects.filter(id=swept.id).update(swept=len(_fresh(comparison.past, done)))
        return comparison


def compare(cloud: Cloud, *, deleting: bool = True) -> Comparison:
    """Rows against the cloud, changing nothing. Raises CloudError where the cloud cannot be listed in full."""
    things = tuple(_things(cloud))
    rows, ghosts = _rows(things)
    identity, newest = holds.database()
    at = sweeps.database_now()
    books = Books(at=at, things=things, rows=rows, accepted=Instance.objects.count(), newest=newest, identity=identity)
    times = pace()
    rules = Rules(age=times.sweep_age, apart=times.sweep_apart)
    past = _past(at - rules.age - rules.apart, [thing.id for thing in things])
    assessment = strays.assess(books, past, rules, deleting=deleting)
    return Comparison(books=books, past=past, assessment=assessment, ghosts=ghosts)


def compare_allowances() -> tuple[str, ...]:
    """Where the counters of allowances and the reservations behind them differ, one sentence each; alarms, and repairs
    nothing.
    """
    told = [f"{one.person} is counted {one.used} and has reserved {one.reserved}" for one in allowances.differences()]
    live = Instance.objects.filter(deleted_at=None).values("id")
    told += [
        f"{one.person} has reserved {one.resources} for {one.holder}, which is no machine"
        for one in Reservation.objects.exclude(holder__in=live)[:100]
    ]
    for sentence in told:
        log.error("allowances do not add up: %s", sentence)
    return tuple(told)


# --- reading -----------------------------------------------------------------------------------------------------


def _things(cloud: Cloud) -> Iterator[Thing]:
    for server in cloud.list():
        yield Thing(
            kind=Kind.SERVER,
            id=server.id,
            name=server.name,
            instance_id=server.instance_id,
            made_at=server.created_at,
            serial=server.serial,
        )
    for kind, kept in ((Kind.PORT, cloud.ports()), (Kind.VOLUME, cloud.volumes())):
        for one in kept:
            yield Thing(
                kind=kind,
                id=one.id,
                name=one.name,
                instance_id=one.instance_id,
                made_at=one.created_at,
                used_by=one.server_id,
            )


def _rows(things: Iterable[Thing]) -> tuple[Mapping[UUID, Row], tuple[Ghost, ...]]:
    """The rows of all live machines and of all things, and the live ones whose server is not there."""
    servers = [thing for thing in things if thing.kind is Kind.SERVER]
    there = {thing.id for thing in servers} | {thing.instance_id for thing in servers}
    rows, ghosts = {}, []
    wanted = Q(deleted_at=None) | Q(id__in={thing.instance_id for thing in things})
    fields = ("id", "name", "server_id", "port_id", "deleted_at", "wanted", "seen", "gone")
    for one in Instance.objects.filter(wanted).only(*fields):
        live = one.deleted_at is None
        rows[one.id] = Row(live=live, gone=one.gone, server_id=one.server_id, port_id=one.port_id)
        # A machine that is being deleted, or is known to be away, is no ghost.
        known = one.gone or one.wanted == Wanted.DELETED or one.seen == Seen.ABSENT
        if live and one.server_id and not known and not {one.server_id, one.id} & there:
            ghosts.append(Ghost(instance_id=one.id, name=one.name, server_id=one.server_id))
    return rows, tuple(ghosts)


def _past(back_to: datetime, ids: list[str]) -> Past:
    known = Sighting.objects.filter(Q(verdict__in=sweeps.OPEN) | Q(provider_id__in=ids))
    noted = DatabaseIdentity.objects.filter(id=1).first()
    last = Sweep.objects.order_by("-at", "-id").first()
    return Past(
        sights={
            (Kind(one.kind), one.provider_id): Sight(
                first_seen_at=one.first_seen_at,
                quarantined_at=one.quarantined_at,
                verdict=Verdict(one.verdict),
                times=one.times_seen,
            )
            for one in known
        },
        counts=tuple(_counts(one) for one in Sweep.objects.filter(at__gte=back_to))
        or ((_counts(last),) if last else ()),
        accepted=last.accepted if last else 0,
        told_at=SweepHold.objects.aggregate(latest=Greatest(Max("since"), Max("released_at")))["latest"],
        held=holds.stands(),
        identity=noted.system if noted else None,
    )


def _counts(one: Sweep) -> Counts:
    things = {Kind.SERVER: one.servers, Kind.PORT: one.ports, Kind.VOLUME: one.volumes}
    return Counts(rows=one.rows, accepted=one.accepted, things=things)


# --- writing -----------------------------------------------------------------------------------------------------


def _write_down(comparison: Comparison) -> Sweep:
    """All that a sweep found, in one transaction, before anything is ordered: what was meant outlives its process."""
    books, assessment = comparison.books, comparison.assessment
    counts = books.counts
    with transaction.atomic():
        for doubt, told in assessment.doubts.items():
            holds.hold(doubt, told, at=books.at)
        holds.found_again([one.id for one in books.things if one.kind is Kind.SERVER], at=books.at)
        DatabaseIdentity.objects.update_or_create(
            id=1, defaults={"system": books.identity}, create_defaults={"system": books.identity, "noted_at": books.at}
        )
        _note_sightings(comparison)
        Instance.objects.filter(
            id__in=[ghost.instance_id for ghost in comparison.ghosts], deleted_at=None, due_at__gt=Now()
        ).update(due_at=Now())
        Sweep.objects.filter(at__lt=books.at - KEPT).delete()
        Sighting.objects.filter(last_seen_at__lt=books.at - KEPT).exclude(verdict__in=sweeps.OPEN).delete()
        swept = Sweep.objects.create(
            at=books.at,
            rows=counts.rows,
            accepted=counts.accepted,
            servers=counts.things[Kind.SERVER],
            ports=counts.things[Kind.PORT],
            volumes=counts.things[Kind.VOLUME],
            strays=len(assessment.strays),
            swept=len(_fresh(comparison.past, assessment.orders)),
            ghosts=len(comparison.ghosts),
            held=strays.BRAKES[assessment.brake] if assessment.brake else "",
        )
        if swept.swept:
            notices.tell_swept(swept)
    return swept


def _note_sightings(comparison: Comparison) -> None:
    at, found = comparison.books.at, comparison.assessment.strays
    Sighting.objects.bulk_create(
        [
            Sighting(
                kind=one.thing.kind.value,
                provider_id=one.thing.id,
                name=one.thing.name[:255],
                instance_id=one.thing.instance_id,
                made_at=one.thing.made_at,
                first_seen_at=one.sight.first_seen_at,
                last_seen_at=at,
                times_seen=one.sight.times,
                quarantined_at=one.sight.quarantined_at,
                verdict=one.sight.verdict.value,
                why=one.why,
            )
            for one in found
        ],
        update_conflicts=True,
        unique_fields=["kind", "provider_id"],
        update_fields=["name", "first_seen_at", "last_seen_at", "times_seen", "quarantined_at", "verdict", "why"],
    )
    # What is no stray any more has found its row, or went by itself; what was swept stays told as swept.
    Sighting.objects.filter(verdict__in=sweeps.OPEN, last_seen_at__lt=at).update(verdict=Verdict.EXPLAINED)
    fresh = _fresh(comparison.past, comparison.assessment.orders)
    for one in fresh:
        log.warning(
            "%s %s (%s) is swept: %s A defect to explain.", one.thing.kind, one.thing.name, one.thing.id, one.why
        )
    trail.record_all(
        [
            trail.Deed(
                action="sweep.delete",
                kind=one.thing.kind.value,
                object_id=one.thing.id,
                reason=one.mismatch.value,
                detail={"instance": str(one.thing.instance_id), "made_at": one.thing.made_at.isoformat()},
            )
            for one in fresh
        ]
    )


def _fresh(past: Past, orders: Iterable[Stray]) -> list[Stray]:
    """Orders given for the first time. What was ordered before and is still there was counted and told then."""
    before = {key for key, sight in past.sights.items() if sight.verdict is Verdict.SWEPT}
    return [one for one in orders if (one.thing.kind, one.thing.id) not in before]


def _delete_all(cloud: Cloud, orders: Iterable[Stray]) -> Iterator[Stray]:
    """Orders these deletions; those that were taken. Ends where one is not answered: the next sweep goes on."""
    for stray in orders:
        try:
            if _delete(cloud, stray):
                yield stray
        except CloudUnreachable as error:
            log.warning("%s %s may not be deleted: %s", stray.thing.kind, stray.thing.id, error)
            unanswered(error)
            return


def _delete(cloud: Cloud, stray: Stray) -> bool:
    """Orders one deletion. An order the cloud refused begins the quarantine anew, behind all others.

    Raises CloudUnreachable, after which it may have been executed.
    """
    thing = stray.thing
    note = Sighting.objects.filter(kind=thing.kind.value, provider_id=thing.id)
    if _named_meanwhile(thing):
        note.update(verdict=Verdict.EXPLAINED)
        return False
    try:
        match thing.kind:
            case Kind.SERVER:
                cloud.delete(thing.id)
            case Kind.PORT:
                cloud.delete_port(thing.id)
            case Kind.VOLUME:
                cloud.delete_volume(thing.id)
    except CloudUnreachable:
        raise
    except CloudError as error:
        log.warning("%s %s was not deleted: %s", thing.kind, thing.id, error)
        note.update(verdict=Verdict.QUARANTINED, quarantined_at=Now())
        return False
    return True


def _named_meanwhile(thing: Thing) -> bool:
    """Whether a live machine took it between our reading and this moment."""
    live = Instance.objects.filter(deleted_at=None)
    match thing.kind:
        case Kind.SERVER:
            return live.filter(server_id=thing.id).exists()
        case Kind.PORT:
            return live.filter(port_id=thing.id).exists()
        case Kind.VOLUME:
            return live.filter(id=thing.instance_id).exists()


def _give_no_serial_twice(books: Books) -> None:
    """Serials that the cloud knows and the database does not were given before it was put back. Comes after the hold
    that tells of them is committed: a sequence remembers what a rolled-back transaction forgets.
    """
    highest = max((thing.serial for thing in books.things), default=0)
    if highest > books.newest:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT setval('instances_instance_serial', greatest(%s, last_value)) FROM instances_instance_serial",
                [highest],
            )


# --- one at a time -----------------------------------------------------------------------------------------------


def _due() -> bool:
    return not Sweep.objects.filter(at__gt=Now() - pace().sweep).exists()


@contextmanager
def _alone() -> Iterator[bool]:
    """Whether this is the only one who sweeps now. The lock goes with the connection: nobody can leave it behind."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
        alone = bool(cursor.fetchone()[0])
    try:
        yield alone
    finally:
        if alone and connection.is_usable():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def _may_delete() -> bool:
    cloud = settings.ENVIRONMENT.cloud
    return cloud is not None and cloud.sweep is SweepMode.DELETE
