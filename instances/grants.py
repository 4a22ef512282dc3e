"""Who may see which desktop right now: grants, the tickets that open one connection, and the end of both.

The gateway asks here and nowhere else. A grant belongs to one person, one machine and one web session; whatever ends
one of the three ends the grant, and the gateway, which asks each second, cuts; where a grant is revoked, it is told so
and asks at once.
"""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from uuid import UUID

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from instances import credentials, revocations, transitions
from instances.lifecycle import Seen, Wanted
from instances.models import AccessGrant, Connection, DesktopTicket
from visa.accounts.models import User
from visa.audit import trail
from visa.audit.trail import Deed

#: the longest a desktop may stay open under one grant
GRANT_LIFE = timedelta(hours=12)
PER_PERSON = 8
PER_MACHINE = 20
#: a connection not heard of for this long has lost its gateway
SILENT = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Opens one desktop connection, once, within `expires_in` seconds."""

    token: str = field(repr=False)
    expires_in: int


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What the gateway needs to open a desktop: where it is, how it proves itself, and under which grant."""

    grant_id: UUID
    epoch: int
    role: str
    person_id: int
    instance_id: UUID
    connection_id: UUID
    host: str
    port: int
    password: str = field(repr=False)
    certificate_pem: str


class TooMany(Exception):
    """The person or the machine has as many open desktops as it may."""


class NotThere(Exception):
    """The ticket is good, but the machine has no desktop now."""


def issue(instance_id: UUID, person: User, *, session_key: str) -> Ticket:
    """A ticket for one connection, under this session's grant on the machine (made where there is none)."""
    session_hash = hash_of(session_key) if session_key else ""
    with transaction.atomic():
        grant = _live().filter(instance_id=instance_id, person=person, session_hash=session_hash).first()
        if grant is None:
            grant = AccessGrant.objects.create(
                instance_id=instance_id, person=person, session_hash=session_hash, ends_at=timezone.now() + GRANT_LIFE
            )
            trail.record(
                "grant.issue",
                kind="instance",
                object_id=instance_id,
                actor=person.public_id,
                detail={"grant": str(grant.id), "role": grant.role},
            )
        token = secrets.token_urlsafe(32)
        DesktopTicket.objects.filter(expires_at__lt=Now()).delete()
        DesktopTicket.objects.create(ticket_hash=hash_of(token), grant=grant, expires_at=Now() + DesktopTicket.LIFE)
    return Ticket(token=token, expires_in=int(DesktopTicket.LIFE.total_seconds()))


def redeem(token: str, instance_id: UUID) -> Pass | None:
    """Uses a ticket up and opens a connection under its grant. None where ticket, grant or machine do not fit.

    Raises TooMany, NotThere. The ticket is used up in every case: of many who present it at once, one wins.
    """
    with transaction.atomic():
        ticket = (
            DesktopTicket.objects.select_for_update().filter(ticket_hash=hash_of(token), expires_at__gt=Now()).first()
        )
        if ticket is None:
            return None
        ticket.delete()
    grant = _live().filter(id=ticket.grant_id, instance_id=instance_id).select_related("instance").first()
    if grant is None:
        return None
    instance = grant.instance
    if instance.seen != Seen.READY or not instance.desktop_host or not instance.desktop_port:
        raise NotThere
    try:
        secret = credentials.unseal(instance.desktop_secret, settings.ENVIRONMENT.machine_keys)
    except InvalidToken as error:
        raise NotThere from error
    with transaction.atomic():
        # One at a time per machine and person, so that the caps hold under any concurrency.
        person = User.objects.select_for_update().get(id=grant.person_id)
        open_now = Connection.objects.filter(closed_at=None, seen_at__gt=Now() - SILENT)
        if open_now.filter(grant__person_id=grant.person_id).count() >= PER_PERSON:
            raise TooMany
        if open_now.filter(grant__instance_id=instance.id).count() >= PER_MACHINE:
            raise TooMany
        connection = Connection.objects.create(grant=grant, seen_at=timezone.now())
        # Before the first byte: who watches is written down, or does not watch.
        trail.record(
            "desktop.open",
            kind="instance",
            object_id=instance.id,
            actor=person.public_id,
            detail={"connection": str(connection.id), "grant": str(grant.id), "role": grant.role},
        )
    return Pass(
        grant_id=grant.id,
        epoch=grant.epoch,
        role=grant.role,
        person_id=grant.person_id,
        instance_id=instance.id,
        connection_id=connection.id,
        host=instance.desktop_host,
        port=instance.desktop_port,
        password=secret.password,
        certificate_pem=secret.certificate,
    )


def still_good(grant_ids: Collection[UUID]) -> set[UUID]:
    """Which of these grants hold now: one query, asked each second for all connections of a process."""
    return set(_live().filter(id__in=grant_ids).values_list("id", flat=True))


def seen(connection_ids: Collection[UUID]) -> None:
    """Notes that these connections are open."""
    Connection.objects.filter(id__in=connection_ids, closed_at=None).update(seen_at=Now())


def closed(connection_id: UUID, cause: str) -> None:
    """Notes the end of a connection."""
    with transaction.atomic():
        ended = Connection.objects.filter(id=connection_id, closed_at=None).update(closed_at=Now(), cause=cause[:40])
        if not ended:
            return
        row = Connection.objects.select_related("grant__person").get(id=connection_id)
        trail.record(
            "desktop.close",
            kind="instance",
            object_id=row.grant.instance_id,
            actor=row.grant.person.public_id,
            reason=cause,
            detail={"connection": str(connection_id), "grant": str(row.grant_id)},
        )


def not_answering(instance_id: UUID) -> None:
    """Has a worker look at a machine whose desktop could not be opened, or broke off. Says nothing of it by itself."""
    transitions.look_again(instance_id)


def revoke_machine(instance_id: UUID, *, cause: str) -> int:
    """Ends every grant on a machine; how many there were."""
    return _revoke(AccessGrant.objects.filter(instance_id=instance_id), cause)


def revoke_session(session_key: str, *, cause: str) -> int:
    """Ends every grant made in a web session; how many there were."""
    return _revoke(AccessGrant.objects.filter(session_hash=hash_of(session_key)), cause)


def hash_of(secret: str) -> str:
    """SHA-256 in hex: all that is kept of a ticket or a session key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _live() -> QuerySet[AccessGrant]:
    return AccessGrant.objects.filter(
        revoked_at=None,
        ends_at__gt=Now(),
        person__is_active=True,
        instance__wanted=Wanted.RUNNING,
        instance__deleted_at=None,
    )


def _revoke(grants: QuerySet[AccessGrant], cause: str) -> int:
    with transaction.atomic():
        living = grants.filter(revoked_at=None).select_for_update(of=("self",)).select_related("person")
        rows = list(living.order_by("id"))
        if not rows:
            return 0
        AccessGrant.objects.filter(id__in=[row.id for row in rows]).update(
            revoked_at=Now(), cause=cause, epoch=F("epoch") + 1
        )
        trail.record_all(
            [
                Deed(
                    action="grant.revoke",
                    kind="instance",
                    object_id=row.instance_id,
                    on_behalf_of=row.person.public_id,
                    reason=cause,
                    detail={"grant": str(row.id)},
                )
                for row in rows
            ]
        )
        # Robust: a hint that cannot be given takes nothing back.
        transaction.on_commit(partial(revocations.say, [row.id for row in rows]), robust=True)
        return len(rows)
