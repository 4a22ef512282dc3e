"""Which session belongs to whom, and how one ends: the only writer of `SignIn`, the only place a session ends."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime

from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.models import Session
from django.db import IntegrityError, transaction
from django.utils import timezone

from visa.accounts.models import Identity, SignIn, SpentLogoutToken, User
from visa.accounts.sessions import LIFE, SessionStore
from visa.accounts.signals import session_ended
from visa.accounts.tokens import LogoutOrder
from visa.audit import trail
from visa.audit.trail import Deed


class AlreadySpent(Exception):
    """This log-out token was used before."""


def begin(session: SessionBase, identity: Identity, *, sid: str, began_at: datetime) -> SignIn:
    """Write down that this saved session is a sign-in of `identity`; `sid` is the provider's name for its session."""
    with transaction.atomic():
        row = SignIn.objects.create(
            session_key=session.session_key or "",
            identity=identity,
            sid=sid,
            began_at=began_at,
            ends_at=began_at + LIFE,
        )
        person = identity.user.public_id
        detail = {"sign_in": row.pk, "issuer": identity.issuer}
        trail.record("sign_in", kind="person", object_id=person, actor=person, detail=detail)
    return row


def end(session_keys: Iterable[str], *, cause: str, by: User | None = None) -> int:
    """End these sessions for good, and tell who listens once it is so; how many sign-ins there were.

    `cause` is a word for the audit trail; `by` the person who ended them, where it was one.
    """
    keys = sorted(set(session_keys))
    if not keys:
        return 0
    with transaction.atomic():
        Session.objects.filter(session_key__in=keys).delete()
        ending = list(
            SignIn.objects.select_for_update(of=("self",))
            .filter(session_key__in=keys)
            .order_by("pk")
            .values_list("pk", "identity__user__public_id")
        )
        SignIn.objects.filter(pk__in=[key for key, _person in ending]).delete()
        trail.record_all(
            [
                Deed(
                    action="sign_out",
                    kind="person",
                    object_id=person,
                    actor=by.public_id if by else "",
                    reason=cause,
                    detail={"sign_in": key},
                )
                for key, person in ending
            ]
        )
        transaction.on_commit(lambda: _tell(keys))
    return len(ending)


def hold(session_key: str) -> bool:
    """Whether the session lives, and if so, that it ends only after the caller's transaction.

    What is granted in the same transaction is then found by whoever hears of the session's end.
    """
    living = Session.objects.filter(session_key=session_key, expire_date__gt=timezone.now())
    return living.select_for_update().first() is not None


def _tell(keys: Iterable[str]) -> None:
    for key in keys:
        # robust: one listener's trouble must not keep the next session's desktops open
        session_ended.send_robust(sender=SignIn, session_key=key)


def end_all_of(user: User, *, cause: str, by: User | None = None) -> int:
    """End every session of this person, at whichever provider it began."""
    return end(SignIn.objects.filter(identity__user=user).values_list("session_key", flat=True), cause=cause, by=by)


def end_overdue() -> int:
    """End the sessions whose absolute life is over, whether or not their browser ever comes back; how many.

    The rows of sessions that ended by idleness are cleared too. Nobody is told of those: a desktop has its own measure
    of idleness, and who works on one for an hour without loading a page is not away.
    """
    SessionStore.clear_expired()
    over = SignIn.objects.filter(ends_at__lte=timezone.now())
    return end(over.values_list("session_key", flat=True), cause="over")


@transaction.atomic
def obey(order: LogoutOrder) -> int:
    """End the sessions a provider's log-out token names; how many. Raises `AlreadySpent` at its second use."""
    now = timezone.now()
    SpentLogoutToken.objects.filter(expires_at__lt=now).delete()
    try:
        with transaction.atomic():
            SpentLogoutToken.objects.create(
                issuer=order.issuer,
                jti_digest=hashlib.sha256(order.jti.encode()).hexdigest(),
                expires_at=datetime.fromtimestamp(order.expires_at, UTC),
            )
    except IntegrityError as error:
        raise AlreadySpent(order.jti[:60]) from error
    sign_ins = SignIn.objects.filter(identity__issuer=order.issuer)
    if order.subject:
        sign_ins = sign_ins.filter(identity__subject=order.subject)
    if order.sid:
        sign_ins = sign_ins.filter(sid=order.sid)
    return end(sign_ins.values_list("session_key", flat=True), cause="by the provider")
