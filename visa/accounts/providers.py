"""The OpenID providers of this site as neighbours: discovery, keys, token, userinfo and introspection endpoints.

Everything fails closed and in bounded time: five seconds for an exchange in all, one megabyte of answer, no redirects.
What a provider published is cached in this process. One that does not answer is left alone for a while, so that a
neighbour's trouble never holds our own threads; sessions that exist go on without it.
"""

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlsplit

import jwt
import requests
from django.conf import settings

from visa import environment
from visa.accounts.claims import PRESETS, Preset
from visa.accounts.tokens import ASYMMETRIC, TokenRefused, choose_key

log = logging.getLogger(__name__)
T = TypeVar("T")

#: seconds for one exchange with a provider, from the first byte out to the last byte in
DEADLINE = 5.0
#: bytes of an answer that are read
LONGEST_ANSWER = 1 << 20
#: seconds: how long facts are fresh, how long they serve while the provider is away, how long a failure is believed
FRESH, STALE, AWAY = 3600.0, 86_400.0, 5.0
#: seconds for which a provider that answered is believed to be there: nobody's browser is sent to one that is not
THERE = 20.0
#: seconds between two fetches of a key set that unknown key ids may cause
FORCED = 5.0
#: exchanges with one provider at a time, in this process
AT_ONCE = 16


class ProviderAway(Exception):
    """The provider did not answer, or with nothing that makes sense. For the log; the page has words of its own."""


class ProviderRefused(Exception):
    """The provider answered, and the answer is no."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a provider publishes of itself (OpenID Connect Discovery 1.0, 3; RFC 8414), as far as it is used here."""

    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str
    jwks_uri: str
    introspection_endpoint: str
    end_session_endpoint: str
    algorithms: tuple[str, ...]
    basic: bool
    #: replies carry `iss` (RFC 9207)
    names_itself: bool


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    kind: str
    body: bytes

    def json(self) -> dict[str, Any]:
        """The JSON object of the body. Raises `ProviderAway` where there is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ProviderAway("answered something that is not JSON") from error
        if not isinstance(value, dict):
            raise ProviderAway("answered JSON that is not an object")
        return value


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "127.0.0.1", "::1"}


def _address(document: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    """An endpoint of the discovery document: https, or plain http on loopback."""
    value = document.get(name)
    if value is None and not required:
        return ""
    if isinstance(value, str):
        try:
            parts = urlsplit(value)
            host = parts.hostname or ""
        except ValueError:
            host = ""
        if host and not parts.username and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
            return value
    raise ProviderAway(f"its {name} is missing or no https address")


def _words(document: Mapping[str, Any], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = document.get(name, list(default))
    if not isinstance(value, list):
        raise ProviderAway(f"its {name} is no list")
    return tuple(word for word in value if isinstance(word, str))


def metadata_from(document: Mapping[str, Any], issuer: str) -> Metadata:
    """The metadata in a discovery document. Raises `ProviderAway` where it is another issuer's or of no use."""
    if document.get("issuer") != issuer:
        raise ProviderAway("it calls itself by another issuer name than the one configured")
    if "code" not in _words(document, "response_types_supported", ("code",)):
        raise ProviderAway("it does not offer the authorization code flow")
    if "S256" not in _words(document, "code_challenge_methods_supported", ("S256",)):
        raise ProviderAway("it does not offer PKCE with S256")
    told = _words(document, "id_token_signing_alg_values_supported", ("RS256",))
    algorithms = tuple(name for name in ASYMMETRIC if name in told)
    if not algorithms:
        raise ProviderAway("it signs with nothing but shared secrets")
    methods = _words(document, "token_endpoint_auth_methods_supported", ("client_secret_basic",))
    return Metadata(
        authorization_endpoint=_address(document, "authorization_endpoint"),
        token_endpoint=_address(document, "token_endpoint"),
        userinfo_endpoint=_address(document, "userinfo_endpoint"),
        jwks_uri=_address(document, "jwks_uri"),
        introspection_endpoint=_address(document, "introspection_endpoint", required=False),
        end_session_endpoint=_address(document, "end_session_endpoint", required=False),
        algorithms=algorithms,
        basic="client_secret_basic" in methods or "client_secret_post" not in methods,
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


class _Fact:
    """Something a provider publishes, fetched when needed and kept."""

    def __init__(self) -> None:
        self.value: Any = None
        self.fetched = float("-inf")


class OpenIDProvider:
    """One configured provider. Safe to share among threads."""

    def __init__(self, config: environment.Provider) -> None:
        self.config = config
        self.preset: Preset = PRESETS[config.preset]
        self._metadata, self._keys = _Fact(), _Fact()
        self._forced = self._failed = float("-inf")
        self._places = threading.BoundedSemaphore(AT_ONCE)

    @property
    def scopes(self) -> str:
        return self.config.scopes or " ".join(self.preset.scopes)

    # -- what it publishes ------------------------------------------------------------------------------------------

    def metadata(self, *, there: bool = False) -> Metadata:
        """Its metadata, at most an hour old, or a day while it is away; with `there`, only if it answered just now.

        Raises `ProviderAway`.
        """

        def fetch() -> Metadata:
            answer = self._exchange("GET", self.config.issuer.rstrip("/") + "/.well-known/openid-configuration")
            return metadata_from(_fine(answer).json(), self.config.issuer)

        return self._kept(self._metadata, fetch, *((THERE, 0.0) if there else (FRESH, STALE)))

    def key_for(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """The key a token names; an unknown one causes one fetch of the key set.

        Raises `TokenRefused`, `ProviderAway`.
        """
        key = choose_key(self._key_set(), kid, algorithm)
        now = time.monotonic()
        if key is None and now - self._forced >= FORCED:
            self._forced = now
            self._keys.fetched = float("-inf")
            key = choose_key(self._key_set(), kid, algorithm)
        if key is None:
            raise TokenRefused("no key of this issuer fits (kid)")
        return key

    def _key_set(self) -> tuple[Mapping[str, Any], ...]:
        def fetch() -> tuple[Mapping[str, Any], ...]:
            keys = _fine(self._exchange("GET", self.metadata().jwks_uri)).json().get("keys")
            if not isinstance(keys, list):
                raise ProviderAway("its key set has no keys")
            return tuple(key for key in keys[:100] if isinstance(key, dict))

        return self._kept(self._keys, fetch)

    def _kept(self, fact: _Fact, fetch: Callable[[], T], fresh: float = FRESH, stale: float = STALE) -> T:
        age = time.monotonic() - fact.fetched
        if fact.value is None or age > fresh:
            try:
                fact.value, fact.fetched = fetch(), time.monotonic()
            except ProviderAway:
                # -inf marks a key set that was asked for again: the keys before it are still the issuer's
                if fact.value is None or stale < age < float("inf"):
                    raise
        value: T = fact.value
        return value

    # -- what it is asked -------------------------------------------------------------------------------------------

    def redeem(self, code: str, verifier: str, redirect_uri: str) -> dict[str, Any]:
        """The tokens for a code (RFC 6749, 4.1.3). Raises `ProviderRefused`, `ProviderAway`."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        return self._ask_as_client(self.metadata().token_endpoint, form)

    def introspect(self, token: str) -> dict[str, Any]:
        """What the provider knows of an access token (RFC 7662). Raises `ProviderRefused`, `ProviderAway`."""
        endpoint = self.metadata().introspection_endpoint
        if not endpoint:
            raise ProviderRefused("it offers no introspection")
        return self._ask_as_client(endpoint, {"token": token, "token_type_hint": "access_token"})

    def userinfo(self, access_token: str) -> dict[str, Any]:
        """The claims of the person (OpenID Connect Core 5.3), as JSON. Raises `ProviderRefused`, `ProviderAway`."""
        answer = self._exchange(
            "GET", self.metadata().userinfo_endpoint, headers={"Authorization": f"Bearer {access_token}"}
        )
        if not answer.kind.startswith("application/json"):
            raise ProviderAway("its userinfo is not JSON")
        return _fine(answer).json()

    def _ask_as_client(self, address: str, form: dict[str, str]) -> dict[str, Any]:
        headers = {"Accept": "application/json"}
        if self.metadata().basic:
            # RFC 6749, 2.3.1: id and secret are form-encoded before they are joined
            pair = f"{quote_plus(self.config.client_id)}:{quote_plus(self.config.client_secret)}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": self.config.client_id, "client_secret": self.config.client_secret}
        return _fine(self._exchange("POST", address, headers=headers, form=form)).json()

    # -- how it is reached ------------------------------------------------------------------------------------------

    def _exchange(
        self,
        method: str,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """One HTTP exchange, bounded as a whole. Raises `ProviderAway`."""
        now = time.monotonic()
        if now - self._failed < AWAY:
            raise ProviderAway("it did not answer a moment ago")
        if not self._places.acquire(blocking=False):
            raise ProviderAway("too many exchanges with it are under way")
        result: list[Answer | Exception] = []

        # requests bounds each read, not the whole: a server that sends one byte a second would hold us for hours. So
        # the exchange runs beside us, and we leave when the time is over; it ends by itself and gives its place back.
        def run() -> None:
            try:
                result.append(_read(method, address, headers, form, now + DEADLINE))
            except Exception as error:  # noqa: BLE001 (handed to the thread that waits)
                result.append(error)
            finally:
                self._places.release()

        thread = threading.Thread(target=run, daemon=True, name=f"provider-{self.config.slug}")
        thread.start()
        thread.join(DEADLINE)
        outcome = result[0] if result else TimeoutError("no answer in time")
        if isinstance(outcome, ProviderAway):
            raise outcome
        if isinstance(outcome, Exception):
            self._failed = time.monotonic()
            raise ProviderAway(f"{type(outcome).__name__} at {address}") from outcome
        return outcome


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from putting a password of ~/.netrc in the place of our own header."""
    return request


def _read(
    method: str, address: str, headers: Mapping[str, str] | None, form: Mapping[str, str] | None, deadline: float
) -> Answer:
    # a session of its own for each exchange: no cookies; this machine's proxy and authorities, but not for loopback
    with requests.Session() as session:
        session.trust_env = not _is_loopback(urlsplit(address).hostname or "")
        with session.request(
            method,
            address,
            headers=headers,
            data=form,
            auth=_unchanged,
            timeout=DEADLINE,
            allow_redirects=False,
            stream=True,
        ) as response:
            body = b""
            for chunk in response.iter_content(8192):
                body += chunk
                if len(body) > LONGEST_ANSWER or time.monotonic() > deadline:
                    raise ProviderAway("its answer is too long, or comes too slowly")
            return Answer(response.status_code, response.headers.get("content-type", "").lower(), body)


def _fine(answer: Answer) -> Answer:
    if answer.status == 200:
        return answer
    if answer.status in {400, 401, 403}:
        error = ""
        if answer.kind.startswith("application/json"):
            error = str(answer.json().get("error", ""))[:60]
        raise ProviderRefused(f"it answered {answer.status} {error!r}")
    raise ProviderAway(f"it answered {answer.status}")


@lru_cache(maxsize=64)
def _provider(config: environment.Provider) -> OpenIDProvider:
    return OpenIDProvider(config)


def every() -> tuple[OpenIDProvider, ...]:
    """All providers of this site, in its order."""
    return tuple(_provider(config) for config in settings.ENVIRONMENT.providers)


def named(slug: str) -> OpenIDProvider | None:
    """The provider with this short name; None where there is none."""
    return next((provider for provider in every() if provider.config.slug == slug), None)
