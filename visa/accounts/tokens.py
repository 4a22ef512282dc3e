"""Signed tokens of a provider, checked to the letter: pure but for PyJWT; keys and `now` are arguments.

ID tokens by OpenID Connect Core 3.1.3.7, log-out tokens by OpenID Connect Back-Channel Logout 1.0, 2.6. PyJWT checks
the signature; what a token says is checked here, types included, because PyJWT reads `"exp": "9999999999"` as a number.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

#: algorithms with a public key; a provider's list is cut to these. Never HMAC: its key would be our secret.
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: how far clocks may be apart, in seconds
LEEWAY = 60
#: an ID token answers a request of minutes ago, a log-out token one of now; seconds
OLDEST_ID_TOKEN = 3600
OLDEST_LOGOUT_TOKEN = 600
LONGEST = 16_384
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"

Claims = dict[str, Any]
#: (kid, alg) to the key; raises TokenRefused where there is none
KeyFor = Callable[[str | None, str], jwt.PyJWK]


class TokenRefused(Exception):
    """This token proves nothing; the text says why, for the log and never for the page."""


@dataclass(frozen=True, kw_only=True)
class LogoutOrder:
    """Whose sessions end: those of `subject`, of the provider's session `sid`, or of both where both are told."""

    issuer: str
    subject: str
    sid: str
    jti: str
    expires_at: int


def choose_key(keys: tuple[Mapping[str, Any], ...], kid: str | None, algorithm: str) -> jwt.PyJWK | None:
    """The one key of a key set (RFC 7517) that fits a token with this header; None where none or several do."""
    fitting = []
    for key in keys:
        if kid is not None and key.get("kid") != kid:
            continue
        if key.get("kty") not in {"RSA", "EC", "OKP"} or key.get("use", "sig") != "sig":
            continue
        if key.get("alg", algorithm) != algorithm:
            continue
        try:
            candidate = jwt.PyJWK(dict(key), algorithm=algorithm)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if isinstance(candidate.key, RSAPublicKey) and candidate.key.key_size < 2048:
            continue
        # a key set is public; a private key in it is a key everybody has
        if "d" not in key:
            fitting.append(candidate)
    return fitting[0] if len(fitting) == 1 else None


def _signed(token: object, *, algorithms: tuple[str, ...], key_for: KeyFor, types: tuple[str, ...]) -> Claims:
    """The claims of a token whose signature holds; nothing in them is checked yet."""
    if not isinstance(token, str) or len(token) > LONGEST or not token.isascii():
        raise TokenRefused("not a token")
    try:
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if "crit" in header:
            raise TokenRefused("header demands an extension (crit)")
        if algorithm not in algorithms or algorithm not in ASYMMETRIC:
            raise TokenRefused(f"algorithm {str(algorithm)[:20]!r} is not one of this issuer's")
        if str(header.get("typ", "JWT")).lower().removeprefix("application/") not in types:
            raise TokenRefused("token of another kind (typ)")
        if kid is not None and not isinstance(kid, str):
            raise TokenRefused("kid is not a text")
        payload = jwt.decode(
            token,
            key_for(kid, algorithm),
            algorithms=[algorithm],
            # the claims are ours to check, below
            options={
                "verify_signature": True,
                "verify_aud": False,
                "verify_iss": False,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_sub": False,
                "verify_jti": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TokenRefused(f"{type(error).__name__}: {str(error)[:100]}") from error
    return dict(payload)


def _number(claims: Claims, name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise TokenRefused(f"{name} is missing or no time")
    return value


def _text(claims: Claims, name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]{1,255}", value):
        raise TokenRefused(f"{name} is missing or malformed")
    return value


def _check_common(claims: Claims, *, issuer: str, client_id: str, now: float, oldest: int) -> None:
    """iss, aud, azp, exp, iat, nbf."""
    if claims.get("iss") != issuer:
        raise TokenRefused("from another issuer (iss)")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or client_id not in audiences:
        raise TokenRefused("for another client (aud)")
    if len(audiences) > 1 and "azp" not in claims:
        raise TokenRefused("several audiences and no authorized party (azp)")
    if "azp" in claims and claims["azp"] != client_id:
        raise TokenRefused("issued to another client (azp)")
    if _number(claims, "exp") <= now - LEEWAY:
        raise TokenRefused("expired (exp)")
    issued = _number(claims, "iat")
    if issued > now + LEEWAY:
        raise TokenRefused("issued in the future (iat)")
    if issued < now - oldest:
        raise TokenRefused("issued too long ago (iat)")
    if "nbf" in claims and _number(claims, "nbf") > now + LEEWAY:
        raise TokenRefused("not valid yet (nbf)")


def _access_token_hash(access_token: str, algorithm: str) -> str:
    """OpenID Connect Core 3.1.3.6: the left half of the hash that the algorithm's name ends with."""
    digest = hashlib.new(
        f"sha{algorithm[-3:]}" if algorithm[-3:].isdigit() else "sha512", access_token.encode()
    ).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


def verify_id_token(
    token: object,
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str,
    algorithms: tuple[str, ...],
    key_for: KeyFor,
    now: float,
) -> Claims:
    """The claims of an ID token that is for us, from this issuer, for this very request. Raises `TokenRefused`."""
    claims = _signed(token, algorithms=algorithms, key_for=key_for, types=("jwt",))
    _check_common(claims, issuer=issuer, client_id=client_id, now=now, oldest=OLDEST_ID_TOKEN)
    _text(claims, "sub")
    told = claims.get("nonce")
    if not nonce or not isinstance(told, str) or not hmac.compare_digest(told.encode(), nonce.encode()):
        raise TokenRefused("answers another request (nonce)")
    if "at_hash" in claims:
        algorithm = jwt.get_unverified_header(str(token))["alg"]
        if claims["at_hash"] != _access_token_hash(access_token, algorithm):
            raise TokenRefused("belongs to another access token (at_hash)")
    return claims


def verify_logout_token(
    token: object, *, issuer: str, client_id: str, algorithms: tuple[str, ...], key_for: KeyFor, now: float
) -> LogoutOrder:
    """What a log-out token orders. Raises `TokenRefused`. Whether its `jti` was seen before is the caller's to know."""
    claims = _signed(token, algorithms=algorithms, key_for=key_for, types=("logout+jwt", "jwt"))
    _check_common(claims, issuer=issuer, client_id=client_id, now=now, oldest=OLDEST_LOGOUT_TOKEN)
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise TokenRefused("no log-out event (events)")
    if "nonce" in claims:
        raise TokenRefused("a log-out token has no nonce; this is another kind of token")
    subject = _text(claims, "sub") if "sub" in claims else ""
    sid = _text(claims, "sid") if "sid" in claims else ""
    if not subject and not sid:
        raise TokenRefused("names neither a person (sub) nor a session (sid)")
    # kept until a token with this jti would be refused for its age alone
    expires_at = int(_number(claims, "iat")) + OLDEST_LOGOUT_TOKEN + LEEWAY
    return LogoutOrder(issuer=issuer, subject=subject, sid=sid, jti=_text(claims, "jti"), expires_at=expires_at)
