"""Signing in with OpenID Connect: mozilla-django-oidc's backend, subclassed until it is strict.

As it comes (5.0.2) it matches people by e-mail, checks neither `iss` nor `aud`, waits for ever and lets errors escape.
So each of its steps that touches a token, a claim or a row is replaced here; a test holds that none of its own is left.
"""

import logging
import secrets
import time
from typing import Any, NoReturn

from django.contrib.auth import get_user_model
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from mozilla_django_oidc.auth import OIDCAuthenticationBackend
from typing_extensions import override

from visa.accounts import people
from visa.accounts.claims import ClaimsUnusable, person_from
from visa.accounts.flow import Flow
from visa.accounts.models import Arrival, Identity, User
from visa.accounts.providers import OpenIDProvider, ProviderAway, ProviderRefused
from visa.accounts.tokens import TokenRefused, verify_id_token
from visa.audit import trail
from visa.errors import NotAllowed, Refusal, Unavailable

log = logging.getLogger(__name__)


class SignInRefused(NotAllowed):
    """Nobody was signed in; the page names a number that stands in the log with the reason."""

    code, title = "sign_in_refused", gettext_noop("You are not signed in")


class ProviderUnavailable(Unavailable):
    """Nobody can sign in with this provider now."""

    code, title = "provider_unavailable", gettext_noop("Sign-in is not available right now")


def refused(
    provider: OpenIDProvider, reason: object, message: str = "", way_out: str = "", *, recorded: bool = True
) -> Refusal:
    """The refusal of a sign-in, logged with its reason. The person reads `message`, never the provider's words.

    Not `recorded` in the audit trail is what anybody can cause by the thousand with no sign-in under way.
    """
    number = secrets.token_hex(4)
    log.warning("sign-in %s with %s refused: %r", number, provider.config.slug, str(reason)[:300])
    if recorded:
        trail.record(
            "sign_in.refuse",
            kind="provider",
            object_id=provider.config.slug,
            text=str(reason)[:300],
            detail={"number": number},
        )
    return SignInRefused(
        message or _("The reply of %(provider)s could not be trusted.") % {"provider": provider.config.label},
        way_out=way_out
        or _("Start again from this site. If it happens twice, tell us the number %(number)s.") % {"number": number},
        detail={"number": number},
    )


def away(provider: OpenIDProvider, reason: object) -> Refusal:
    """The refusal because of a provider that is down or talks nonsense, logged with its reason."""
    number = secrets.token_hex(4)
    log.warning("sign-in %s: %s is away: %r", number, provider.config.slug, str(reason)[:300])
    return ProviderUnavailable(
        _("%(provider)s does not answer as it should.") % {"provider": provider.config.label},
        way_out=_("Try again in a minute. Whoever is signed in stays signed in. (Number %(number)s)")
        % {"number": number},
        detail={"number": number},
    )


class Backend(OIDCAuthenticationBackend):  # type: ignore[misc] # the package carries no types
    """Authenticates the reply to one sign-in under way (`Flow`) at one provider, and nothing else."""

    def __init__(self) -> None:
        # not super(): that reads one provider's endpoints from the settings, and we have several, by discovery
        self.UserModel = get_user_model()
        self.provider: OpenIDProvider
        self.flow: Flow

    @override
    def authenticate(self, request: HttpRequest | None, **credentials: Any) -> User | None:
        """The person of the code in `request`; keywords `provider`, `flow`, `redirect_uri`. None for any others.

        The person carries what this sign-in brought, as `arrival`. Raises a `Refusal`.
        """
        provider, flow = credentials.get("provider"), credentials.get("flow")
        if request is None or not isinstance(provider, OpenIDProvider) or not isinstance(flow, Flow):
            return None
        self.request, self.provider, self.flow = request, provider, flow
        try:
            tokens = self.get_token({"code": request.GET["code"], "redirect_uri": credentials["redirect_uri"]})
            access_token, id_token = tokens["access_token"], tokens["id_token"]
            payload = self.verify_token(id_token, access_token=access_token)
            identity = self.get_or_create_user(access_token, id_token, payload)
        except TokenRefused as error:
            raise refused(provider, error) from error
        except ProviderRefused as error:
            message = _("%(provider)s no longer knows this sign-in.") % {"provider": provider.config.label}
            raise refused(provider, error, message) from error
        except ProviderAway as error:
            raise away(provider, error) from error
        except ClaimsUnusable as error:
            message = _("%(provider)s did not say who you are in a way we can use.") % {
                "provider": provider.config.label
            }
            raise refused(provider, error, message) from error
        except people.IdentityContested as error:
            message = _("Your identifier at %(provider)s belongs to another account here.") % {
                "provider": provider.config.label
            }
            raise refused(provider, repr(error), message) from error
        user = identity.user
        if not self.user_can_authenticate(user):
            message = _("Your account on this site is closed.")
            raise refused(provider, f"{user.public_id} is not active", message, _("Ask the people who run this site."))
        sid = payload.get("sid")
        if not isinstance(sid, str) or len(sid) > 255 or not sid.isascii() or not sid.isprintable():
            sid = ""
        user.arrival = Arrival(identity, sid, id_token)
        return user

    @override
    def get_token(self, payload: dict[str, Any]) -> dict[str, Any]:
        tokens = self.provider.redeem(payload["code"], self.flow.verifier, payload["redirect_uri"])
        kind = tokens.get("token_type")
        access_token = tokens.get("access_token")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise ProviderAway("it gave a token that is no bearer token")
        if not isinstance(access_token, str) or not access_token.isascii() or not access_token.isprintable():
            raise ProviderAway("it gave no access token")
        if not isinstance(tokens.get("id_token"), str):
            raise TokenRefused("no ID token in the answer")
        return tokens

    @override
    def verify_token(self, token: str, **kwargs: Any) -> dict[str, Any]:
        return verify_id_token(
            token,
            issuer=self.provider.config.issuer,
            client_id=self.provider.config.client_id,
            nonce=self.flow.nonce,
            access_token=kwargs["access_token"],
            algorithms=self.provider.metadata().algorithms,
            key_for=self.provider.key_for,
            now=time.time(),
        )

    @override
    def get_userinfo(self, access_token: str, id_token: str, payload: dict[str, Any]) -> dict[str, Any]:
        claims = self.provider.userinfo(access_token)
        # OpenID Connect Core 5.3.2: without this, somebody else's access token could be slipped in
        if claims.get("sub") != payload["sub"]:
            raise TokenRefused("userinfo is about another person (sub)")
        return claims

    @override
    def get_or_create_user(self, access_token: str, id_token: str, payload: dict[str, Any]) -> Identity:
        claims = self.get_userinfo(access_token, id_token, payload)
        person = person_from(
            claims,
            issuer=self.provider.config.issuer,
            preset=self.provider.preset,
            namespaces=self.provider.config.namespaces,
            acr=payload.get("acr", ""),
        )
        return people.welcome(person)

    @override
    def get_user(self, user_id: int) -> User | None:
        # the parent's lets a closed account's sessions go on
        return User.objects.filter(pk=user_id, is_active=True).first()

    # What the parent would do at these places is never right here: it goes by e-mail, by settings or without checks.

    def _never(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError("people are found by issuer and subject, tokens are verified in visa.accounts.tokens")

    filter_users_by_claims = describe_user_by_claims = verify_claims = create_user = update_user = get_username = _never
    retrieve_matching_jwk = _verify_jws = get_payload_data = store_tokens = raise_token_response_error = (
        get_settings
    ) = _never
