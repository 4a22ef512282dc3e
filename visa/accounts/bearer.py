"""API calls with an access token: the provider that issued it is asked (RFC 7662), and nobody is made by it.

mozilla-django-oidc's own class asks UserInfo, which answers for a token of any client, and creates whoever it names.
"""

import hashlib
import re
import time
from typing import Any

import jwt
from django.core.cache import cache
from django.utils.translation import gettext as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from typing_extensions import override

from visa.accounts import people, providers
from visa.accounts.models import User
from visa.accounts.providers import OpenIDProvider, ProviderAway, ProviderRefused
from visa.errors import Unavailable

#: seconds an answer is believed: so long a revoked token may still work, and an unknown one is not asked for again
BELIEVED, DISBELIEVED = 60, 10
#: b64token (RFC 6750, 2.1)
_TOKEN = re.compile(rb"[A-Za-z0-9\-._~+/]{1,4096}=*")


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer <access token>` (RFC 6750), checked by introspection."""

    @override
    def authenticate(self, request: Request) -> tuple[User, dict[str, Any]] | None:
        scheme, _space, token = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        if not _TOKEN.fullmatch(token):
            raise AuthenticationFailed(_("The access token is malformed."))
        facts = _facts_of(token.decode())
        if facts is None:
            raise AuthenticationFailed(_("The access token is not valid here, or no longer."))
        identity = people.find(facts["issuer"], facts["sub"])
        if identity is None or not identity.user.is_active:
            raise AuthenticationFailed(_("Sign in to this site with your browser once before you use its API."))
        return identity.user, facts

    @override
    def authenticate_header(self, request: Request) -> str:
        header = 'Bearer realm="api"'
        # RFC 6750, 3.1: the error is named only to who sent a token
        return f'{header}, error="invalid_token"' if get_authorization_header(request) else header


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call] # no types for its metaclass
    """How the API's description tells of it."""

    target_class = "visa.accounts.bearer.BearerAuthentication"
    name = "bearer"

    @override
    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "An access token of one of this site's OpenID providers.",
        }


def _facts_of(token: str) -> dict[str, Any] | None:
    """Issuer, subject, client and end of a token that is valid now; None for any other. Raises `Unavailable`."""
    key = "bearer:" + hashlib.sha256(token.encode()).hexdigest()
    known: dict[str, Any] | None = cache.get(key)
    if known is None:
        known = _ask(token)
        left = known["exp"] - time.time() if known else DISBELIEVED
        cache.set(key, known, max(1, int(min(BELIEVED, left))))
    # an answer may outlive the token by the second in which it was stored
    return known if known and known["exp"] > time.time() else None


def _ask(token: str) -> dict[str, Any]:
    """The facts of a token as its provider tells them, empty for one that nobody vouches for. Raises `Unavailable`."""
    missing = []
    for provider in _candidates(token):
        try:
            answer = provider.introspect(token)
        except ProviderRefused:
            continue
        except ProviderAway:
            missing.append(provider.config.label)
            continue
        facts = facts_from(answer, provider, time.time())
        if facts:
            return facts
    if missing:
        message = _("Your access token cannot be checked: %(providers)s does not answer.") % {
            "providers": ", ".join(missing)
        }
        raise Unavailable(message, way_out=_("Try again in a minute."))
    return {}


def _candidates(token: str) -> tuple[OpenIDProvider, ...]:
    """The providers that may have issued a token. One that names its issuer (RFC 9068) is shown to no other."""
    try:
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, ValueError, RecursionError):
        return providers.every()
    return tuple(provider for provider in providers.every() if provider.config.issuer == issuer)


def facts_from(answer: dict[str, Any], provider: OpenIDProvider, now: float) -> dict[str, Any]:
    """What an introspection answer (RFC 7662, 2.2) proves to us at `now`; empty where it proves nothing."""
    config = provider.config
    expires, subject, client = answer.get("exp"), answer.get("sub"), answer.get("client_id")
    kind = answer.get("token_type", "Bearer")
    usable = (
        answer.get("active") is True
        and isinstance(expires, int | float)
        and not isinstance(expires, bool)
        and now < expires < 2**40
        and isinstance(subject, str)
        and 0 < len(subject) <= 255
        and "\0" not in subject
        # a token of any other client of the same provider was given for another purpose
        and client in (config.client_id, *config.api_clients)
        and answer.get("iss", config.issuer) == config.issuer
        # a token bound to a key (RFC 7800) proves nothing without it, and a refresh token is no access token
        and isinstance(kind, str)
        and kind.lower() == "bearer"
        and "cnf" not in answer
    )
    return {"issuer": config.issuer, "sub": subject, "client_id": client, "exp": expires} if usable else {}
