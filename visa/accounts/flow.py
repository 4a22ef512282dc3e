"""One sign-in under way: what has to be remembered between leaving for the provider and coming back.

It is kept in a signed, HttpOnly cookie of ten minutes and not in a session: a visit that never ends in a sign-in
leaves no row behind, and a reply belongs to the browser that asked. Each sign-in has a cookie of its own, so that
several tabs can each finish theirs.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponseBase

LIFE_SECONDS = 600
#: sign-ins that one browser may have under way; beyond it the cookies would outgrow what servers accept
MOST = 8
_SALT = "visa.accounts.flow"


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A sign-in at the provider `slug`; `state`, `nonce` and `verifier` (RFC 7636) are secrets of 256 bits each."""

    slug: str
    state: str
    nonce: str
    verifier: str
    next: str

    @property
    def challenge(self) -> str:
        """The PKCE code challenge, S256 (RFC 7636, 4.2)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def begin(slug: str, then: str) -> Flow:
    """A new sign-in that ends at the path `then`."""
    return Flow(
        slug=slug,
        state=secrets.token_urlsafe(32),
        nonce=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(32),
        next=then,
    )


def _prefix() -> str:
    return "__Host-visa-signin-" if settings.SITE.secure else "visa-signin-"


def _cookie(state: str) -> str:
    return _prefix() + hashlib.sha256(state.encode()).hexdigest()[:16]


def remember(flow: Flow, request: HttpRequest, response: HttpResponseBase) -> None:
    """Put the sign-in into the browser; the oldest ones make room, as far as their order can be told."""
    under_way = [name for name in request.COOKIES if name.startswith(_prefix())]
    for name in under_way[: max(0, len(under_way) - MOST + 1)]:
        response.delete_cookie(name, samesite="Lax")
    response.set_cookie(
        _cookie(flow.state),
        signing.dumps(asdict(flow), salt=_SALT),
        max_age=LIFE_SECONDS,
        secure=settings.SITE.secure,
        httponly=True,
        # Lax: the provider's redirect back is a cross-site navigation, and has to bring the cookie
        samesite="Lax",
    )


def recall(state: str, request: HttpRequest) -> Flow | None:
    """The sign-in this browser began with this state; None where it did not, or began it too long ago."""
    try:
        flow = Flow(**signing.loads(request.COOKIES.get(_cookie(state), ""), salt=_SALT, max_age=LIFE_SECONDS))
    except (signing.BadSignature, TypeError):
        return None
    return flow if hmac.compare_digest(flow.state.encode(), state.encode()) else None


def forget(state: str, response: HttpResponseBase) -> None:
    """The sign-in is over: a state is good for one reply."""
    response.delete_cookie(_cookie(state), samesite="Lax")
