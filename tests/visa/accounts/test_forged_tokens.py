"""Forged ID tokens, one way after the other, from a live provider: none lets anybody in, none breaks anything."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.contrib.sessions.models import Session
from django.http import HttpResponse
from django.test import Client

from tests.visa.accounts.op import CURVE, GOOD, SECOND, SECRET, STRANGE, WEAK, Answer, OpenProvider, published
from visa.accounts.models import SignIn, User

Arrive = Callable[..., HttpResponse]
Claims = dict[str, Any]
Forge = Callable[[OpenProvider, Claims], object]


def _raw(header: object, payload: object, key: Any = GOOD) -> str:
    """A token with whatever parts, under a good signature; PyJWT would not write most of them."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(signed, key)
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def _hmac(secret: bytes, header: Claims, claims: Claims) -> str:
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims))
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signed, secret)
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


HEADER = {"alg": "RS256", "kid": "k1", "typ": "JWT"}
PEM = GOOD.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def said(**more: Any) -> Forge:
    """A good signature over claims that are not; None leaves a claim out, a function gets what a good one would say."""

    def forge(op: OpenProvider, claims: Claims) -> str:
        new = {name: value(claims) if callable(value) else value for name, value in more.items()}
        return op.sign({name: value for name, value in {**claims, **new}.items() if value is not None})

    return forge


def raw(**more: Any) -> Forge:
    """The same for values that PyJWT refuses to write."""
    return lambda op, claims: _raw(HEADER, {**claims, **more})


def headed(**more: Any) -> Forge:
    return lambda op, claims: _raw({**HEADER, **more}, claims)


FORGERIES: dict[str, Forge] = {
    # algorithms and keys
    "alg none": lambda op, claims: _raw({**HEADER, "alg": "none"}, claims).rpartition(".")[0] + ".",
    "alg None in other letters": lambda op, claims: _raw({**HEADER, "alg": "NonE"}, claims).rpartition(".")[0] + ".",
    "alg none with a signature": headed(alg="none"),
    "HMAC with the public key": lambda op, claims: _hmac(PEM, {**HEADER, "alg": "HS256"}, claims),
    "HMAC with the client secret": lambda op, claims: _hmac(SECRET.encode(), {"alg": "HS256", "kid": "k1"}, claims),
    "HMAC with a key of the key set": lambda op, claims: _hmac(
        b"secret-secret-secret-secret-secret", {"alg": "HS256", "kid": "oct"}, claims
    ),
    "another key under a good kid": lambda op, claims: op.sign(claims, key=STRANGE),
    "unknown kid": lambda op, claims: op.sign(claims, kid="k9"),
    "no kid where several keys fit": lambda op, claims: op.sign(claims, kid=None),
    "kid that is no text": headed(kid=1),
    "kid of two keys": lambda op, claims: op.sign(claims, kid="twin"),
    "key too short": lambda op, claims: _raw({**HEADER, "kid": "weak"}, claims, WEAK),
    "key for encryption": lambda op, claims: op.sign(claims, key=SECOND, kid="enc"),
    "key whose private half is public": lambda op, claims: op.sign(claims, key=STRANGE, kid="leaked"),
    "algorithm the issuer does not announce": lambda op, claims: op.sign(claims, algorithm="RS512"),
    "elliptic algorithm with an RSA key": headed(alg="ES256"),
    "RSA algorithm with an elliptic key": headed(kid="e1"),
    "elliptic signature under another kid": lambda op, claims: op.sign(claims, key=CURVE, algorithm="ES256", kid="k2"),
    "key brought along": lambda op, claims: op.sign(claims, key=STRANGE, jwk=published(STRANGE, "k1")),
    "address of keys brought along": lambda op, claims: op.sign(claims, key=STRANGE, jku=f"{op.issuer}/keys"),
    # header
    "unknown crit": headed(crit=["exp2"]),
    "crit b64": headed(crit=["b64"], b64=True),
    "empty crit": headed(crit=[]),
    "type of an access token": headed(typ="at+jwt"),
    "type of a log-out token": headed(typ="logout+jwt"),
    "header that is no object": lambda op, claims: _raw([HEADER], claims),
    "algorithm missing": lambda op, claims: _raw({"kid": "k1"}, claims),
    "algorithm that is a list": headed(alg=["RS256"]),
    # form
    "no token": lambda op, claims: None,
    "a number": lambda op, claims: 7,
    "empty": lambda op, claims: "",
    "not a token": lambda op, claims: "good",
    "five parts": lambda op, claims: "a.b.c.d.e",
    "no signature": lambda op, claims: op.sign(claims).rpartition(".")[0] + ".",
    "signature of other claims": lambda op, claims: ".".join(
        [*op.sign({**claims, "sub": "boss"}).split(".")[:2], op.sign(claims).split(".")[2]]
    ),
    "claims that are a list": lambda op, claims: _raw(HEADER, [claims]),
    "claims that are no JSON": lambda op, claims: _raw(HEADER, b"{'sub': 'boss'}"),
    "claims nested very deep": lambda op, claims: _raw(HEADER, b'{"a":' + b"[" * 5000),
    "a megabyte": said(padding="x" * 600_000),
    "characters beyond ASCII": lambda op, claims: op.sign(claims) + "é",
    # issuer, audience, party
    "another issuer": said(iss="https://other.example.org"),
    "issuer with a slash": said(iss=lambda claims: claims["iss"] + "/"),
    "issuer in a list": raw(iss=["a"]),
    "no issuer": said(iss=None),
    "another audience": said(aud="somebody-else"),
    "audience in other letters": said(aud="VISA"),
    "no audience": said(aud=None),
    "empty audience": said(aud=[]),
    "audience that is an object": raw(aud={"visa": True}),
    "several audiences without a party": said(aud=["visa", "somebody-else"]),
    "another party": said(azp="somebody-else"),
    "several audiences, another party": said(aud=["visa", "somebody-else"], azp="somebody-else"),
    # times
    "no end": said(exp=None),
    "ended": said(exp=lambda claims: claims["iat"] - 61),
    "end that is text": said(exp=lambda claims: str(claims["exp"])),
    "end that is true": raw(exp=True),
    "end beyond all numbers": lambda op, claims: _raw(
        HEADER, json.dumps(claims).replace(f'"exp": {claims["exp"]}', '"exp": 1e999').encode()
    ),
    "end that is no number": lambda op, claims: _raw(
        HEADER, json.dumps(claims).replace(f'"exp": {claims["exp"]}', '"exp": NaN').encode()
    ),
    "no beginning": said(iat=None),
    "from the future": said(iat=lambda claims: claims["iat"] + 120),
    "from last year": said(iat=lambda claims: claims["iat"] - 365 * 86400),
    "beginning that is text": raw(iat="yesterday"),
    "not valid yet": said(nbf=lambda claims: claims["iat"] + 120),
    # this request, this person
    "no nonce": said(nonce=None),
    "another nonce": said(nonce="x" * 43),
    "empty nonce": said(nonce=""),
    "nonce in a list": said(nonce=lambda claims: [claims["nonce"]]),
    "no subject": said(sub=None),
    "subject that is a number": raw(sub=7),
    "empty subject": said(sub=""),
    "subject too long": said(sub="x" * 256),
    "subject with a NUL": said(sub="some\0body"),
    "hash of another access token": said(at_hash="x" * 22),
}


def test_there_are_enough_forgeries() -> None:
    assert len(FORGERIES) >= 40


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_token_lets_nobody_in(name: str, client: Client, op: OpenProvider, arrive: Arrive) -> None:
    forge = FORGERIES[name]
    op.make_id_token = lambda claims: forge(op, claims)

    answer = arrive(client)

    assert answer.status_code == 403
    assert User.objects.count() == SignIn.objects.count() == Session.objects.count() == 0
    op.make_id_token = op.sign
    assert arrive(client).status_code == 302


def test_a_token_of_an_earlier_sign_in_does_not_serve_again(client: Client, op: OpenProvider, arrive: Arrive) -> None:
    kept: list[str] = []

    def sign_and_keep(claims: Claims) -> str:
        kept.append(op.sign(claims))
        return kept[0]

    op.make_id_token = sign_and_keep

    first, second = arrive(Client()), arrive(client)

    assert (first.status_code, second.status_code) == (302, 403)


@pytest.mark.parametrize("subject", ["boss", "SOMEBODY", "", None, 7, ["somebody"]])
def test_userinfo_about_another_person_is_refused(subject: object, op: OpenProvider, arrive: Arrive) -> None:
    op.answers["/userinfo"] = Answer({"sub": subject, "name": "B. Oss"})

    answer = arrive(Client())

    assert (answer.status_code, User.objects.count()) == (403, 0)


@pytest.mark.parametrize(
    "tokens",
    [
        {},
        {"access_token": "a", "token_type": "Bearer"},
        {"access_token": 7, "token_type": "Bearer", "id_token": "a"},
        {"access_token": "a\nb: c", "token_type": "Bearer", "id_token": "a"},
        {"access_token": "a", "token_type": "mac", "id_token": "a"},
        {"access_token": "a", "token_type": ["Bearer"], "id_token": "a"},
        {"access_token": None, "token_type": None, "id_token": None},
    ],
)
def test_tokens_of_another_shape_let_nobody_in(tokens: Claims, op: OpenProvider, arrive: Arrive) -> None:
    op.answers["/token"] = Answer(tokens)

    assert arrive(Client()).status_code in {403, 503}
    assert User.objects.count() == 0


@pytest.mark.parametrize(
    "forge",
    [
        said(),
        said(aud=["visa"]),
        said(aud=["visa", "other"], azp="visa"),
        said(exp=lambda claims: claims["iat"] - 30),  # clocks may be a minute apart
        said(iat=lambda claims: claims["iat"] + 30),
        lambda op, claims: op.sign(claims, key=CURVE, algorithm="ES256", kid="e1"),
        lambda op, claims: op.sign(claims, key=CURVE, algorithm="ES256", kid=None),  # the only one that fits
        lambda op, claims: op.sign({**claims, "at_hash": "oFYf1knNtrqnhAVfBRuteQ"}),  # of "access"
    ],
)
def test_a_good_token_in_any_of_its_shapes_lets_its_person_in(forge: Forge, op: OpenProvider, arrive: Arrive) -> None:
    op.make_id_token = lambda claims: forge(op, claims)

    assert arrive(Client()).status_code == 302


def test_a_new_key_is_found_and_an_old_one_forgotten(op: OpenProvider, arrive: Arrive) -> None:
    arrive(Client())
    op.keys = [published(STRANGE, "new", alg="RS256")]
    op.make_id_token = lambda claims: op.sign(claims, key=STRANGE, kid="new")

    renewed = arrive(Client())
    op.make_id_token = op.sign
    outdated = arrive(Client())

    assert (renewed.status_code, outdated.status_code) == (302, 403)


def test_unknown_keys_do_not_make_us_fetch_the_key_set_each_time(op: OpenProvider, arrive: Arrive) -> None:
    op.make_id_token = lambda claims: op.sign(claims, kid=f"k{time.monotonic_ns()}")

    for _ in range(5):
        assert arrive(Client()).status_code == 403

    assert [path for path, _form in op.asked].count("/keys") == 2
