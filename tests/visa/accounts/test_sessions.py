"""How a session ends: by itself, by its person, by the provider's word, by an administrator; and who is told."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.sessions.models import Session
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, DjangoCaptureOnCommitCallbacks
from time_machine import TimeMachineFixture

from tests.visa.accounts.op import CURVE, SECOND, STRANGE, Answer, OpenProvider
from visa.accounts import sign_ins
from visa.accounts.models import SignIn, SpentLogoutToken, User
from visa.accounts.signals import session_ended

Arrive = Callable[..., HttpResponse]
EVENT = "http://schemas.openid.net/event/backchannel-logout"


def is_signed_in(client: Client) -> bool:
    return bool(client.get("/signin/").wsgi_request.user.is_authenticated)


@pytest.fixture
def ended() -> Iterator[list[str]]:
    """The session keys that listeners were told of."""
    told: list[str] = []

    def listen(session_key: str, **rest: object) -> None:
        told.append(session_key)

    session_ended.connect(listen)
    yield told
    session_ended.disconnect(listen)


# -- by itself ------------------------------------------------------------------------------------------------------


def test_a_session_ends_after_an_hour_without_a_request(
    client: Client, arrive: Arrive, time_machine: TimeMachineFixture
) -> None:
    start = timezone.now()
    time_machine.move_to(start)
    arrive(client)

    time_machine.move_to(start + timedelta(minutes=50))
    busy = is_signed_in(client)
    time_machine.move_to(start + timedelta(minutes=105))
    still = is_signed_in(client)
    time_machine.move_to(start + timedelta(minutes=170))

    assert (busy, still, is_signed_in(client)) == (True, True, False)


def test_a_session_ends_after_twelve_hours_however_busy(
    client: Client, arrive: Arrive, time_machine: TimeMachineFixture
) -> None:
    start = timezone.now()
    time_machine.move_to(start)
    arrive(client)
    for minutes in range(30, 12 * 60, 30):
        time_machine.move_to(start + timedelta(minutes=minutes))
        assert is_signed_in(client)

    time_machine.move_to(start + timedelta(hours=12, seconds=1))

    assert not is_signed_in(client)


def test_a_request_in_a_fresh_session_writes_nothing(
    client: Client, arrive: Arrive, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    arrive(client)

    with django_assert_num_queries(2) as asked:
        client.get("/signin/")

    assert not [query for query in asked.captured_queries if not query["sql"].startswith("SELECT")]


def test_what_outlived_its_time_is_ended_and_told(
    client: Client,
    arrive: Arrive,
    ended: list[str],
    time_machine: TimeMachineFixture,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    arrive(client)
    key = client.session.session_key
    with django_capture_on_commit_callbacks(execute=True):
        assert sign_ins.end_overdue() == 0
    time_machine.move_to(timezone.now() + timedelta(hours=12, seconds=1))

    with django_capture_on_commit_callbacks(execute=True):
        assert sign_ins.end_overdue() == 1

    assert ended == [key]
    assert not Session.objects.exists()


# -- by its person --------------------------------------------------------------------------------------------------


def test_signing_out_ends_the_session_here_and_leads_to_the_provider(
    client: Client,
    op: OpenProvider,
    arrive: Arrive,
    ended: list[str],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    arrive(client)
    key = client.session.session_key

    with django_capture_on_commit_callbacks(execute=True):
        page = client.post("/signout/")

    address = page.context["url"]
    query = parse_qs(urlsplit(address).query)
    assert address.startswith(f"{op.issuer}/leave?")
    assert query["post_logout_redirect_uri"] == ["http://testserver/"]
    assert query["id_token_hint"][0].count(".") == 2
    assert page.content.decode().count(address.replace("&", "&amp;")) == 2
    assert ended == [key]
    assert not is_signed_in(client)
    assert Session.objects.count() == SignIn.objects.count() == 0


def test_a_copied_cookie_is_worth_nothing_after_signing_out(client: Client, arrive: Arrive) -> None:
    arrive(client)
    copy = Client()
    copy.cookies["visa-session"] = client.cookies["visa-session"].value
    assert is_signed_in(copy)

    client.post("/signout/")

    assert not is_signed_in(copy)


def test_a_visit_to_the_sign_out_page_ends_nothing(client: Client, arrive: Arrive) -> None:
    arrive(client)

    page = client.get("/signout/")

    assert "<form" in page.content.decode()
    assert is_signed_in(client)


def test_signing_out_needs_a_form_of_ours(arrive: Arrive) -> None:
    client = Client(enforce_csrf_checks=True)
    arrive(client)

    answer = client.post("/signout/")

    assert answer.status_code == 403
    assert is_signed_in(client)


def test_signing_out_works_while_the_provider_is_away(client: Client, op: OpenProvider, db: None) -> None:
    op.answers["/.well-known/openid-configuration"] = Answer(b"", status=500)
    user = User.objects.create_person(name="S. Omebody")
    client.force_login(user, backend="visa.accounts.oidc.Backend")
    session = client.session
    session["visa_provider"] = "op"
    session.save()

    answer = client.post("/signout/")

    assert (answer.status_code, answer["location"]) == (302, "/")
    assert not is_signed_in(client)


def test_who_is_not_signed_in_may_sign_out(client: Client, op: OpenProvider, db: None) -> None:
    assert client.post("/signout/")["location"] == "/"


# -- by the provider ------------------------------------------------------------------------------------------------


def send(op: OpenProvider, token: str | None = None) -> Any:
    form = {} if token is None else {"logout_token": token}
    return Client(enforce_csrf_checks=True).post("/signin/op/backchannel/", form)


def test_the_provider_ends_a_session_and_listeners_are_told(
    client: Client,
    op: OpenProvider,
    arrive: Arrive,
    ended: list[str],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    arrive(client)
    key = client.session.session_key

    with django_capture_on_commit_callbacks(execute=True):
        answer = send(op, op.logout_token())

    assert (answer.status_code, "no-store" in answer["cache-control"]) == (200, True)
    assert ended == [key]
    assert not is_signed_in(client)


@pytest.mark.parametrize(
    ("named", "left"),
    [
        ({"sub": "somebody", "sid": "session-1"}, {"b", "c"}),
        ({"sub": "somebody", "sid": None}, {"c"}),
        ({"sub": None, "sid": "session-1"}, {"b", "c"}),
        ({"sub": None, "sid": "session-3"}, {"a", "b"}),
        ({"sub": "another", "sid": None}, {"a", "b"}),
        ({"sub": "another", "sid": "session-1"}, {"a", "b", "c"}),
        ({"sub": "nobody", "sid": None}, {"a", "b", "c"}),
    ],
)
def test_only_the_sessions_it_names_end(
    named: dict[str, Any], left: set[str], op: OpenProvider, arrive: Arrive
) -> None:
    browsers = {}
    for name, subject, op.sid in (
        ("a", "somebody", "session-1"),
        ("b", "somebody", "session-2"),
        ("c", "another", "session-3"),
    ):
        op.subject = subject
        browsers[name] = Client()
        arrive(browsers[name])

    assert send(op, op.logout_token(**named)).status_code == 200
    assert {name for name, browser in browsers.items() if is_signed_in(browser)} == left


def test_a_log_out_token_serves_once(client: Client, op: OpenProvider, arrive: Arrive) -> None:
    token = op.logout_token()
    send(op, token)
    arrive(client)

    answer = send(op, token)

    assert answer.status_code == 400
    assert is_signed_in(client)


def test_spent_tokens_are_forgotten_once_their_age_alone_refuses_them(
    op: OpenProvider, db: None, time_machine: TimeMachineFixture
) -> None:
    start = timezone.now()
    time_machine.move_to(start, tick=False)
    token = op.logout_token(exp=int(start.timestamp()) + 90_000)
    send(op, token)
    time_machine.move_to(start + timedelta(seconds=661), tick=False)

    assert send(op, token).status_code == 400
    send(op, op.logout_token())
    assert SpentLogoutToken.objects.count() == 1


FORGED: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://other.example.org"},
    "another client": {"aud": "somebody-else"},
    "no audience": {"aud": None},
    "no end": {"exp": None},
    "ended": {"exp": 1},
    "no time": {"iat": None},
    "old": {"iat": 1},
    "from the future": {"iat": 4_000_000_000},
    "no jti": {"jti": None},
    "empty jti": {"jti": ""},
    "no events": {"events": None},
    "no event of ours": {"events": {"http://schemas.openid.net/event/other": {}}},
    "events in a list": {"events": [EVENT]},
    "event that is no object": {"events": {EVENT: True}},
    "with a nonce": {"nonce": "a"},
    "nobody named": {"sub": None, "sid": None},
    "subject that is a list": {"sub": ["somebody"]},
    "sid that is a number": {"sid": 1},
    "another key": {"key": STRANGE},
    "key of another kid": {"key": SECOND},
    "unknown kid": {"kid": "k9"},
    "type of an access token": {"header": {"typ": "at+jwt"}},
    "crit": {"header": {"crit": ["x"]}},
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_log_out_token_ends_nothing(name: str, client: Client, op: OpenProvider, arrive: Arrive) -> None:
    arrive(client)

    answer = send(op, op.logout_token(**FORGED[name]))

    assert answer.status_code == 400
    assert is_signed_in(client)
    assert not SpentLogoutToken.objects.exists()


def test_an_id_token_is_no_log_out_token(client: Client, op: OpenProvider, arrive: Arrive) -> None:
    arrive(client)
    id_token = client.session["visa_id_token"]

    assert send(op, id_token).status_code == 400
    assert is_signed_in(client)


@pytest.mark.parametrize("token", [None, "", "a.b.c", "x" * 100_000, "é", "\0"])
def test_what_is_no_token_is_a_bad_request(token: str | None, op: OpenProvider, db: None) -> None:
    assert send(op, token).status_code == 400


def test_a_log_out_token_may_be_signed_with_any_key_of_the_issuer(
    client: Client, op: OpenProvider, arrive: Arrive
) -> None:
    arrive(client)
    now = int(timezone.now().timestamp())
    claims = {
        "iss": op.issuer,
        "aud": "visa",
        "iat": now,
        "exp": now + 60,
        "jti": "a",
        "events": {EVENT: {}},
        "sub": "somebody",
    }

    answer = send(op, op.sign(claims, key=CURVE, algorithm="ES256", kid="e1", typ="logout+jwt"))

    assert (answer.status_code, is_signed_in(client)) == (200, False)


def test_a_log_out_by_get_does_nothing(client: Client, op: OpenProvider, arrive: Arrive) -> None:
    arrive(client)

    assert client.get("/signin/op/backchannel/", {"logout_token": op.logout_token()}).status_code == 405
    assert is_signed_in(client)


def test_keys_that_cannot_be_read_are_no_bad_request(op: OpenProvider, db: None) -> None:
    op.answers["/keys"] = Answer(b"", status=500)

    assert send(op, op.logout_token()).status_code == 503


# -- by an administrator --------------------------------------------------------------------------------------------


def test_closing_an_account_ends_its_sessions(
    client: Client,
    arrive: Arrive,
    administrator: User,
    browse_as: Callable[[User], Client],
    ended: list[str],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    arrive(client)
    key = client.session.session_key
    user = User.objects.get(identities__subject="somebody")

    with django_capture_on_commit_callbacks(execute=True):
        answer = browse_as(administrator).post(
            f"/admin/accounts/user/{user.pk}/change/",
            {"identities-TOTAL_FORMS": "0", "identities-INITIAL_FORMS": "0"},
        )

    assert answer.status_code == 302
    assert ended == [key]
    assert not is_signed_in(client)


def test_the_admin_shows_people_and_changes_nothing_a_provider_states(
    arrive: Arrive, administrator: User, browse_as: Callable[[User], Client]
) -> None:
    arrive(Client())
    user = User.objects.get(identities__subject="somebody")
    admin = browse_as(administrator)

    page = admin.get(f"/admin/accounts/user/{user.pk}/change/").content.decode()
    admin.post(
        f"/admin/accounts/user/{user.pk}/change/",
        {
            "is_active": "on",
            "name": "X",
            "roles": "administrator",
            "is_staff": "on",
            "is_superuser": "on",
            "identities-TOTAL_FORMS": "0",
            "identities-INITIAL_FORMS": "0",
        },
    )

    user.refresh_from_db()
    assert "somebody" in page
    assert (user.name, user.roles, user.is_staff, user.is_superuser) == ("S. Omebody", [], False, False)
    assert admin.get("/admin/accounts/user/add/").status_code == 403
    assert admin.get(f"/admin/accounts/user/{user.pk}/delete/").status_code == 403


def test_the_admin_has_no_sign_in_of_its_own(client: Client, op: OpenProvider, arrive: Arrive) -> None:
    led = client.get("/admin/", follow=False)
    on = client.get(led["location"])
    arrive(client)

    assert urlsplit(on["location"]).path == "/signin/"
    assert parse_qs(urlsplit(on["location"]).query)["next"] == ["/admin/"]
    assert client.get(led["location"]).status_code == 403
    assert client.post("/admin/login/", {"username": "a", "password": "b"}).status_code == 403
