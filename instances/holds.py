"""Worker side: holds, which say that rows and cloud may not belong together, and what waits while one stands.

A hold is opened by whoever finds the sign of it, the sweeper or a step, and released by an administrator
(`instances.sweeps`). While one stands nothing is deleted that nobody asked to be deleted, and where machines vanished
at once, none is called gone. Deletions that people asked for go on.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from instances import notices, strays, sweeps
from instances.cloud.protocol import Cloud
from instances.lifecycle import Wanted
from instances.models import DatabaseIdentity, Instance, Sweep, SweepHold
from instances.pace import pace
from instances.strays import DOUBTS, Doubt, Rules
from visa.audit import trail

log = logging.getLogger(__name__)

#: a release of vanished machines stands so long: in that time each is looked at again
RELEASED: Final = timedelta(hours=1)
#: of many that are missing, so many are asked for by their id
ASKED: Final = 2


@dataclass(frozen=True, kw_only=True)
class Doubted:
    """Why a machine that no list shows is not called gone; `held` where a person has to say what is true."""

    told: str
    held: bool


def hold(doubt: Doubt, told: str, *, at: datetime) -> None:
    """Opens a hold with its numbers, or brings those of the one that stands up to date; tells administrators once."""
    with transaction.atomic():
        held, new = SweepHold.objects.get_or_create(
            why=DOUBTS[doubt], released_at=None, defaults={"since": at, "detail": told[:500]}
        )
        if not new:
            SweepHold.objects.filter(id=held.id).update(detail=told[:500])
            return
        log.error("sweeps are held: %s (%s)", held.why, told)
        trail.record("sweep.hold", kind="sweep_hold", object_id=held.id, reason=doubt, detail={"told": told})
        notices.tell_held(held)


def stands() -> bool:
    """Whether any hold stands."""
    return SweepHold.objects.filter(released_at=None).exists()


def database() -> tuple[str, int]:
    """Which database server this is, on which timeline of its history and which database of it; and the newest serial
    it ever gave.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' || d.oid"
            " FROM pg_control_system(), pg_database d WHERE datname = current_database()"
        )
        identity = str(cursor.fetchone()[0])
        cursor.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM instances_instance_serial")
        return identity, int(cursor.fetchone()[0])


def may_discard() -> bool:
    """Whether a server may be deleted that nobody asked to be deleted: a build that was lost, or one made twice.

    In a database put back from a copy, a machine somebody works on may look like one that never came up. So no hold
    may stand, the database must be the one the last sweep noted, and the last sweep must be recent: in an older copy
    it is not, and the next one finds what is newer than the copy.
    """
    if stands():
        return False
    noted = DatabaseIdentity.objects.filter(id=1).first()
    if noted is not None and noted.system != database()[0]:
        return False
    last = Sweep.objects.order_by("-at", "-id").first()
    return last is None or Sweep.objects.filter(id=last.id, at__gt=Now() - sweeps.patience()).exists()


def vanished(cloud: Cloud, *, seen_at: datetime | None) -> Doubted | None:
    """Whether a machine that was seen last at `seen_at` is missing together with more than half of all machines.

    One that is missing by itself was removed; many at once tell of the wrong project, or the wrong tag. Opens the
    hold. Whoever releases it says so of those that were missing then, and of no other. None where nothing is doubted.
    Raises CloudError where the list is not answered in full.
    """
    holds = SweepHold.objects.filter(why=DOUBTS[Doubt.VANISHED])
    standing = holds.filter(released_at=None).first()
    if standing is not None:
        return Doubted(told=standing.detail, held=True)
    known = _known()
    released = holds.filter(released_at__gt=Now() - RELEASED).order_by("-since").first()
    if released is not None:
        if seen_at is None or seen_at <= released.since:
            return None
        known = known.filter(seen_at__gt=released.since)
    ids = set(known.values_list("server_id", flat=True))
    missing = ids - {server.id for server in cloud.list()}
    if not _too_many(len(missing), len(ids)):
        return None
    if any(cloud.known(str(one)) for one in sorted(missing, key=str)[:ASKED]):
        # A part of the cloud is away, with what stands there (docs/decisions/0015): not the wrong project.
        return Doubted(told="the cloud has servers that its list leaves out", held=False)
    told = f"{len(missing)} of {len(ids)} machines are missing"
    hold(Doubt.VANISHED, told, at=sweeps.database_now())
    return Doubted(told=told, held=True)


def found_again(server_ids: Collection[str], *, at: datetime) -> None:
    """Ends the hold of vanished machines where most of them are listed again: what was wrong is mended.

    It goes without a release, which would say that whatever is missing is gone. Not at once: two drivers of which one
    has the wrong settings would open and end it in turn.
    """
    with transaction.atomic():
        held = SweepHold.objects.filter(
            why=DOUBTS[Doubt.VANISHED], released_at=None, since__lte=at - pace().sweep_apart
        ).first()
        if held is None:
            return
        known = set(_known().values_list("server_id", flat=True))
        if _too_many(len(known - set(server_ids)), len(known)):
            return
        trail.record("sweep.found_again", kind="sweep_hold", object_id=held.id, detail={"told": held.detail})
        held.delete()


def _known() -> QuerySet[Instance]:
    """The machines whose server should be there: nobody wished it away, and no build that was lost."""
    return Instance.objects.filter(
        deleted_at=None, had_server=True, gone=False, server_id__isnull=False, discarding_since=None
    ).exclude(wanted=Wanted.DELETED)


def _too_many(missing: int, known: int) -> bool:
    times = pace()
    return strays.shrank(known - missing, known, Rules(age=times.sweep_age, apart=times.sweep_apart))
