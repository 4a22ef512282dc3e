"""Links what was recorded into one chain of hashes, and tells its head to the outside: the only writer of seals.

Recording waits for nobody; this comes after the commits, in whatever order they became visible, one pass at a time
under an advisory lock. So no transaction of a person stands in a line for the chain (docs/decisions/0010). Any number
of workers may call `keep` as often as they like.
"""

import fcntl
import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet

from visa.audit import canonical
from visa.audit.models import AuditEvent, AuditHead, AuditSeal

log = logging.getLogger(__name__)

#: the advisory lock of the chain: whoever holds it seals
LOCK = 0x5649534141554454
#: the longest a row may take from its insertion to its commit. What turns up later was not there, and is not sealed.
WINDOW = timedelta(hours=1)
#: rows read and written at once
BATCH = 1000


def keep() -> int:
    """Seals what waits and tells the hour's head; how many rows were sealed. Safe to call at any time, by anybody."""
    sealed = seal()
    tell_head()
    return sealed


@transaction.atomic
def seal() -> int:
    """Gives every committed row its place, oldest id first; how many. 0 also where somebody else is at it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s), clock_timestamp()", [LOCK])
        held, now = cursor.fetchone()
    if not held:
        return 0
    last = AuditSeal.objects.order_by("-number").first()
    waiting = unsealed()
    if last is not None:
        waiting = waiting.filter(at__gte=last.sealed_at - WINDOW)
        # All rows of a pass share its moment, and passes stand in order even where the clock does not.
        now = max(now, last.sealed_at + timedelta(microseconds=1))
    number, previous = (last.number, last.hash) if last else (0, canonical.GENESIS)
    day = max(now.astimezone(UTC).date(), last.day) if last else now.astimezone(UTC).date()
    sealed, after = 0, 0
    while rows := list(waiting.filter(id__gt=after).order_by("id")[:BATCH]):
        seals = []
        for row in rows:
            try:
                digest = canonical.sealed(facts(row), number=number + 1, day=day, sealed_at=now, previous=previous)
            except ValueError:
                # Not written by us: `trail` refuses such. The others must not wait for it; verify_audit will name it.
                log.exception("row %s of the audit trail has no canonical spelling and stays outside the chain", row.id)
                continue
            number += 1
            seals.append(AuditSeal(number=number, event=row, day=day, sealed_at=now, previous=previous, hash=digest))
            previous = digest
        AuditSeal.objects.bulk_create(seals)
        sealed, after = sealed + len(seals), rows[-1].id
    return sealed


def tell_head() -> AuditHead | None:
    """Tells the chain's end to the log once an hour, and to the file in VISA_AUDIT_HEADS; the head of this hour.

    The file takes whatever heads it does not have yet, so one that could not be written is made good later.
    """
    last = AuditSeal.objects.order_by("-number").first()
    if last is None:
        return None
    with connection.cursor() as cursor:
        cursor.execute("SELECT date_trunc('hour', clock_timestamp(), 'UTC')")
        (hour,) = cursor.fetchone()
    head, new = AuditHead.objects.get_or_create(hour=hour, defaults={"number": last.number, "hash": last.hash})
    if new:
        log.info("audit head: %s", line_of(head))
    if settings.ENVIRONMENT.audit_heads:
        try:
            _append(Path(settings.ENVIRONMENT.audit_heads) / "heads.jsonl")
        except OSError as error:
            log.error("the audit trail's head cannot be written down: %s", error)  # noqa: TRY400 - says it all
    return head


def line_of(head: AuditHead) -> str:
    """A head as the log and the file have it: one line of JSON."""
    return json.dumps({"hour": canonical.moment(head.hour), "number": head.number, "hash": head.hash})


def unsealed() -> QuerySet[AuditEvent]:
    """The rows that have no place in the chain yet."""
    return AuditEvent.objects.filter(seal__isnull=True)


def facts(row: AuditEvent) -> dict[str, object]:
    """All that the chain holds of an event."""
    return {field.attname: getattr(row, field.attname) for field in AuditEvent._meta.concrete_fields}


def _append(path: Path) -> None:
    """Adds the heads the file does not have. Two processes may do so at once: the second waits, then finds them."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        written = file.read()
        newer = AuditHead.objects.order_by("hour")
        last = next(filter(None, map(_hour_of, reversed(written.splitlines()))), None)
        if last is not None:
            newer = newer.filter(hour__gt=last)
        if lines := "".join(f"{line_of(head)}\n" for head in newer):
            # A line that was torn off, by a full disk or a power cut, stays what it is: the next begins after it.
            torn = written and not written.endswith(b"\n")
            file.write(("\n" * bool(torn) + lines).encode())
        file.flush()
        os.fsync(file.fileno())


def _hour_of(line: bytes) -> datetime | None:
    """The hour of a head as the file has it; None of a line that was not written to its end."""
    try:
        return datetime.fromisoformat(json.loads(line)["hour"])
    except (ValueError, KeyError, TypeError):
        return None
