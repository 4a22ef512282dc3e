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


class AlreadySpent(Exception):
    """This log-out token was used before."""


def begin(session: SessionBase, identity: Identity, *, sid: str, began_at: datetime) -> SignIn:
    """Write down that this saved session is a sign-in of `identity`; `sid` is the provider's name for its session."""
    return SignIn.objects.create(
        session_key=session.session_key or "", identity=identity, sid=sid, began_at=began_at, ends_at=began_at + LIFE
    )


def end(session_keys: Iterable[str]) -> int:
    """End these sessions for good, and tell who listens once it is so; how many sign-ins there were."""
    keys = sorted(set(session_keys))
    if not keys:
        return 0
    with transaction.atomic():
        Session.objects.filter(session_key__in=keys).delete()
        ended, _rows = SignIn.objects.filter(session_key__in=keys).delete()
        transaction.on_commit(lambda: _tell(keys))
    return ended


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


def end_all_of(user: User) -> int:
    """End every session of this person, at whichever provider it began."""
    return end(SignIn.objects.filter(identity__user=user).values_list("session_key", flat=True))


def end_overdue() -> int:
    """End the sessions whose absolute life is over, whether or not their browser ever comes back; how many.

    The rows of sessions that ended by idleness are cleared too. Nobody is told of those: a desktop has its own measure
    of idleness, and who works on one for an hour without loading a page is not away.
    """
    SessionStore.clear_expired()
    return end(SignIn.objects.filter(ends_at__lte=timezone.now()).values_list("session_key", flat=True))


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
    return end(sign_ins.values_list("session_key", flat=True))
