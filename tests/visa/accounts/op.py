"""An OpenID provider that says whatever a test makes it say: real HTTP on loopback, real keys, no honour.

It publishes a good key set with a few keys nobody should trust in between. By default it behaves; a test replaces one
of its answers. The honest, certified one is deploy/identity.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from typing_extensions import override

from visa.environment import Provider

CLIENT, SECRET = "visa", "a secret of the tests & of no one else"

if TYPE_CHECKING:
    from collections.abc import Callable

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

GOOD = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SECOND = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to see it refused
STRANGE = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def published(key: Key, kid: str, **more: Any) -> dict[str, Any]:
    """A key as a key set shows it."""
    if isinstance(key, rsa.RSAPrivateKey):
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": kid, "use": "sig", **more}


@dataclass
class Answer:
    """What is sent for a request; `pause` seconds come before it, and `drip` is the time between two of its bytes."""

    body: object
    status: int = 200
    kind: str = "application/json"
    pause: float = 0
    drip: float = 0
    headers: dict[str, str] = field(default_factory=dict)


class OpenProvider:
    """The provider. Paths are answered by `answers[path]`: an `Answer`, or a function from the form to one."""

    def __init__(self) -> None:
        provider = self
        self.asked: list[tuple[str, dict[str, str]]] = []

        class Asked(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.answer(self, {})

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                provider.answer(self, {name: values[0] for name, values in parse_qs(text).items()})

            @override
            def log_message(self, *args: object) -> None:
                """Nothing: the test knows what it asked."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
        self.server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.keys = [
            published(GOOD, "k1", alg="RS256"),
            published(SECOND, "k2", alg="RS256"),
            published(CURVE, "e1", alg="ES256"),
            published(WEAK, "weak", alg="RS256"),
            published(GOOD, "twin"),
            published(SECOND, "twin"),
            {**published(SECOND, "enc"), "use": "enc"},
            {"kty": "oct", "kid": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"},
            {**RSAAlgorithm.to_jwk(STRANGE, as_dict=True), "kid": "leaked"},
        ]
        self.nonce = ""
        self.subject, self.sid = "somebody", "session-1"
        self.claims: dict[str, Any] = {"name": "S. Omebody", "email": "somebody@example.org"}
        #: makes the ID token from the claims a good one would have
        self.make_id_token: Callable[[dict[str, Any]], object] = self.sign
        self.answers: dict[str, Answer | Callable[[dict[str, str]], Answer]] = {}

    def config(self, slug: str = "op", **more: Any) -> Provider:
        """How the site is told of it."""
        return Provider(
            **{
                "slug": slug,
                "label": "The test provider",
                "preset": "generic",
                "issuer": self.issuer,
                "client_id": CLIENT,
                "client_secret": SECRET,
                "scopes": "",
                "api_clients": ("tool",),
                "namespaces": ("urn:geant:example.org",),
                **more,
            }
        )

    # -- what it says -----------------------------------------------------------------------------------------------

    def document(self, **more: Any) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/keys",
            "introspection_endpoint": f"{self.issuer}/introspect",
            "end_session_endpoint": f"{self.issuer}/leave",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            **more,
        }

    def good_claims(self) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": self.subject,
            "nonce": self.nonce,
            "iat": now,
            "exp": now + 300,
            "sid": self.sid,
        }

    def sign(
        self,
        claims: dict[str, Any],
        *,
        key: Any = GOOD,
        algorithm: str = "RS256",
        kid: str | None = "k1",
        **header: Any,
    ) -> str:
        named = {} if kid is None else {"kid": kid}
        return jwt.encode(claims, key, algorithm=algorithm, headers={**named, **header})

    def logout_token(
        self, *, key: Any = GOOD, kid: str = "k1", header: dict[str, Any] | None = None, **more: Any
    ) -> str:
        """A log-out token; a claim given as None is left out."""
        now = int(time.time())
        event = "http://schemas.openid.net/event/backchannel-logout"
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 120,
            "jti": f"jti-{time.monotonic_ns()}",
            "events": {event: {}},
            "sub": self.subject,
            "sid": "session-1",
            **more,
        }
        said = {name: value for name, value in claims.items() if value is not None}
        return self.sign(said, key=key, kid=kid, **{"typ": "logout+jwt", **(header or {})})

    def _usual(self, path: str, form: dict[str, str]) -> Answer:
        if path == "/.well-known/openid-configuration":
            return Answer(self.document())
        if path == "/keys":
            return Answer({"keys": self.keys})
        if path == "/token":
            token = self.make_id_token(self.good_claims())
            return Answer({"access_token": "access", "token_type": "Bearer", "id_token": token, "expires_in": 60})
        if path == "/userinfo":
            return Answer({"sub": self.subject, **self.claims})
        return Answer({"error": "not_found"}, status=404)

    def answer(self, asked: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        path = urlsplit(asked.path).path
        self.asked.append((path, form))
        planned = self.answers.get(path)
        answer = planned(form) if callable(planned) else planned or self._usual(path, form)
        time.sleep(answer.pause)
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        try:
            asked.send_response(answer.status)
            asked.send_header("content-type", answer.kind)
            asked.send_header("content-length", str(len(body)))
            for name, value in answer.headers.items():
                asked.send_header(name, value)
            asked.end_headers()
            for piece in [body[i : i + 1] for i in range(len(body))] if answer.drip else [body]:
                asked.wfile.write(piece)
                asked.wfile.flush()
                time.sleep(answer.drip)
        except OSError:
            return  # the site had enough

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
