"""API calls with an access token: which tokens count, whom they stand for, and what is asked how often."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings
from redis import Redis
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView
from time_machine import TimeMachineFixture

from tests.visa.accounts.op import SECRET, Answer, OpenProvider
from visa.accounts.bearer import BearerAuthentication
from visa.accounts.models import Identity, User

Arrive = Callable[..., HttpResponse]


class WhoAmI(APIView):
    """Says who asks."""

    authentication_classes = (BearerAuthentication,)

    def get(self, request: Request) -> Response:
        return Response({"name": str(request.user)})


def ask(header: str = "Bearer opaque") -> Response:
    headers = {"authorization": header} if header else {}
    answer: Response = WhoAmI.as_view()(APIRequestFactory().get("/api/v1/me/", headers=headers))
    return answer


def valid(**more: Any) -> dict[str, Any]:
    facts = {
        "active": True,
        "sub": "somebody",
        "client_id": "tool",
        "exp": int(time.time()) + 300,
        "token_type": "Bearer",
    }
    return {name: value for name, value in {**facts, **more}.items() if value is not None}


@pytest.fixture
def known(op: OpenProvider, arrive: Arrive) -> User:
    """Somebody who signed in here before; and a provider that vouches for their token."""
    arrive(Client())
    cache.clear()
    op.asked.clear()
    op.answers["/introspect"] = Answer(valid())
    return User.objects.get()


def test_a_token_of_a_listed_client_stands_for_its_person(known: User, op: OpenProvider) -> None:
    answer = ask()

    form = next(form for path, form in op.asked if path == "/introspect")
    assert (answer.status_code, answer.data) == (200, {"name": known.name})
    assert form == {"token": "opaque", "token_type_hint": "access_token", "client_id": "visa", "client_secret": SECRET}


@pytest.mark.parametrize(
    "change",
    [
        {"active": False},
        {"active": None},
        {"active": "true"},
        {"active": 1},
        {"client_id": "another-tool"},
        {"client_id": None},
        {"client_id": ["tool"]},
        {"exp": None},
        {"exp": 1},
        {"exp": "4000000000"},
        {"exp": True},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "some\0body"},
        {"sub": "SOMEBODY"},
        {"sub": "nobody"},
        {"iss": "https://other.example.org"},
        {"token_type": "DPoP"},
        {"token_type": "refresh_token"},
        {"token_type": 7},
        {"cnf": {"jkt": "a"}},
    ],
)
def test_any_other_token_stands_for_nobody(change: dict[str, Any], known: User, op: OpenProvider) -> None:
    op.answers["/introspect"] = Answer(valid(**change))

    answer = ask()

    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="api", error="invalid_token"'
    assert User.objects.count() == 1


def test_without_a_token_the_answer_says_what_is_wanted(db: None) -> None:
    answer = ask("")

    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, 'Bearer realm="api"')


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer a b", "Bearer é", "Bearer " + "x" * 5000, "bearer \t"])
def test_a_malformed_token_is_asked_of_nobody(header: str, known: User, op: OpenProvider) -> None:
    assert ask(header).status_code == 401
    assert op.asked == []


def test_a_closed_account_has_no_tokens(known: User) -> None:
    User.objects.update(is_active=False)

    assert ask().status_code == 401


def test_the_same_subject_at_another_issuer_is_somebody_else(known: User) -> None:
    Identity.objects.update(issuer="https://other.example.org")

    assert ask().status_code == 401


def test_an_answer_is_believed_for_a_minute_at_most_and_kept_in_this_process_alone(
    known: User, op: OpenProvider, settings: Settings, time_machine: TimeMachineFixture
) -> None:
    def asked() -> int:
        return [path for path, _form in op.asked].count("/introspect")

    for _ in range(3):
        assert ask().status_code == 200
    assert asked() == 1
    with Redis.from_url(settings.REDIS_URL) as redis:
        # what is kept decides who somebody is; Redis is written to by others than us
        assert redis.keys("*bearer*") == []

    time_machine.move_to(time.time() + 61)

    assert ask().status_code == 200
    assert asked() == 2


def test_no_answer_outlives_its_token(known: User, op: OpenProvider, time_machine: TimeMachineFixture) -> None:
    op.answers["/introspect"] = Answer(valid(exp=int(time.time()) + 20))
    assert ask().status_code == 200
    op.answers["/introspect"] = Answer({"active": False})

    time_machine.move_to(time.time() + 21)

    assert ask().status_code == 401


def test_a_provider_that_is_away_is_no_wrong_token(known: User, op: OpenProvider) -> None:
    op.answers["/introspect"] = Answer(b"", status=500)

    answer = ask()

    assert (answer.status_code, answer.data["code"]) == (503, "unavailable")


def test_a_token_that_names_its_issuer_is_shown_to_no_other(known: User, op: OpenProvider, settings: Settings) -> None:
    with OpenProvider() as other:
        settings.ENVIRONMENT = replace(settings.ENVIRONMENT, providers=(other.config("other"), op.config()))
        other.answers["/introspect"] = Answer({"active": False})
        token = jwt.encode({"iss": op.issuer}, "k" * 32)

        assert ask(f"Bearer {token}").status_code == 200
        assert "/introspect" not in [path for path, _form in other.asked]
        assert ask().status_code == 200
        assert "/introspect" in [path for path, _form in other.asked]


def test_a_provider_without_introspection_vouches_for_nobody(known: User, op: OpenProvider, settings: Settings) -> None:
    op.answers["/.well-known/openid-configuration"] = Answer(op.document(introspection_endpoint=None))
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, providers=(op.config(label="Fresh"),))

    assert ask().status_code == 401
