"""Worker side: holds, which say that rows and cloud may not belong together, and what waits while one stands.

A hold is opened by whoever finds the sign of it, the sweeper or a step, and released by an administrator
(`instances.sweeps`). While one stands nothing is deleted that nobody asked to be deleted, and where machines vanished
at once, none is called gone. Deletions that people asked for go on.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction
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


def vanished(cloud: Cloud) -> str:
    """Whether more than half of all machines are missing from the cloud's whole list, in words; "" where not.

    One that is missing by itself was removed; many at once tell of the wrong project, or the wrong tag. Opens the
    hold. Raises CloudError where the list is not answered in full.
    """
    why = DOUBTS[Doubt.VANISHED]
    standing = SweepHold.objects.filter(why=why, released_at=None).first()
    if standing is not None:
        return standing.detail
    if SweepHold.objects.filter(why=why, released_at__gt=Now() - RELEASED).exists():
        return ""  # somebody looked, and they are gone
    known = set(
        Instance.objects.filter(deleted_at=None, had_server=True, gone=False, server_id__isnull=False)
        .exclude(wanted=Wanted.DELETED)
        .values_list("server_id", flat=True)
    )
    there = known & {server.id for server in cloud.list()}
    times = pace()
    if not strays.shrank(len(there), len(known), Rules(age=times.sweep_age, apart=times.sweep_apart)):
        return ""
    told = f"{len(known) - len(there)} of {len(known)} machines are missing"
    hold(Doubt.VANISHED, told, at=sweeps.database_now())
    return told
