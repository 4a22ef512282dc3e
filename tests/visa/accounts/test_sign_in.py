"""Signing in: who one is afterwards, what is left when nothing came of it, how a provider in trouble looks."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.backends import ModelBackend
from django.contrib.sessions.models import Session
from django.http import HttpResponse
from django.test import Client
from mozilla_django_oidc.auth import OIDCAuthenticationBackend
from pytest_django import DjangoAssertNumQueries, Settings
from time_machine import TimeMachineFixture

from tests.visa.accounts.op import Answer, OpenProvider
from visa.accounts import providers
from visa.accounts.models import Identity, SignIn, User
from visa.accounts.oidc import Backend

Arrive = Callable[..., HttpResponse]
ADMIN = "urn:geant:example.org:group:staff:role=admin"


def is_signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


def test_a_person_signs_in_and_lands_where_they_were_going(client: Client, op: OpenProvider, arrive: Arrive) -> None:
    op.claims |= {"voperson_id": "Some@example.org", "eduperson_entitlement": "urn:geant:example.org:group:beamline"}

    answer = arrive(client, then="/data/10.5072/a")

    identity = Identity.objects.get()
    assert (answer.status_code, answer["location"]) == (302, "/data/10.5072/a")
    assert (identity.issuer, identity.subject, identity.voperson_id) == (op.issuer, "somebody", "some@example.org")
    assert (identity.user.name, identity.user.email) == ("S. Omebody", "somebody@example.org")
    assert identity.user.roles == ["instrument_scientist"]
    assert not identity.user.has_usable_password()
    assert is_signed_in(client)
    assert SignIn.objects.get().sid == "session-1"
    assert SignIn.objects.get().session_key == client.session.session_key


def test_the_request_to_the_provider_is_strict(client: Client, op: OpenProvider, db: None) -> None:
    left = client.get("/signin/op/", {"next": "/help/"})

    place, query = urlsplit(left["location"]), parse_qs(urlsplit(left["location"]).query)
    cookie = next(morsel for name, morsel in client.cookies.items() if name.startswith("visa-signin-"))
    assert f"{place.scheme}://{place.netloc}{place.path}" == f"{op.issuer}/authorize"
    assert query["redirect_uri"] == ["http://testserver/signin/op/callback/"]
    assert query["code_challenge_method"] == ["S256"]
    assert all(len(query[name][0]) >= 43 for name in ("state", "nonce", "code_challenge"))
    assert query["scope"] == ["openid profile email"]
    assert (cookie["httponly"], cookie["samesite"], cookie["max-age"]) == (True, "Lax", 600)
    assert query["state"][0] not in cookie.key
    assert "no-store" in left["cache-control"]


def test_on_https_the_cookie_is_bound_to_the_host(
    client: Client, op: OpenProvider, db: None, settings: Settings
) -> None:
    settings.SITE = replace(settings.SITE, url="https://testserver")

    client.get("/signin/op/", secure=True)

    name, cookie = next((name, morsel) for name, morsel in client.cookies.items() if "signin" in name)
    assert name.startswith("__Host-")
    assert (cookie["secure"], cookie["path"], cookie["domain"]) == (True, "/", "")


def test_a_second_sign_in_finds_the_same_person_with_new_claims(op: OpenProvider, arrive: Arrive) -> None:
    arrive(Client())
    op.claims = {"name": "S. Omebody-Else", "email": "new@example.org"}

    arrive(Client())

    assert [(user.name, user.email) for user in User.objects.all()] == [("S. Omebody-Else", "new@example.org")]


@pytest.mark.parametrize(
    "email", ["victim@example.org", "VICTIM@Example.org", "vıctim@example.org", " victim@example.org"]
)
def test_nobody_becomes_another_by_their_e_mail(email: str, op: OpenProvider, arrive: Arrive) -> None:
    op.subject, op.claims = "victim", {"email": "victim@example.org", "email_verified": True, "name": "V. Ictim"}
    arrive(Client())
    op.subject, op.claims = "attacker", {"email": email, "email_verified": True, "name": "V. Ictim"}
    thief = Client()

    arrive(thief)

    victim = Identity.objects.get(subject="victim").user
    assert Identity.objects.get(subject="attacker").user != victim
    assert thief.session["_auth_user_id"] != str(victim.pk)


def test_subjects_that_differ_in_case_are_two_people(op: OpenProvider, arrive: Arrive) -> None:
    for op.subject in ("abc", "ABC"):
        arrive(Client())

    assert User.objects.count() == 2


def test_the_same_subject_at_another_provider_is_another_person(
    op: OpenProvider, arrive: Arrive, settings: Settings
) -> None:
    Identity.objects.create(
        user=User.objects.create_person(name="S. Omebody"), issuer="https://other.example.org", subject="somebody"
    )

    arrive(Client())

    assert User.objects.count() == 2


def test_a_community_identifier_of_another_subject_lets_nobody_in(op: OpenProvider, arrive: Arrive) -> None:
    op.subject, op.claims = "first", {"voperson_id": "a@example.org"}
    arrive(Client())
    op.subject, op.claims = "second", {"voperson_id": "A@example.org"}
    second = Client()

    answer = arrive(second)

    assert (answer.status_code, is_signed_in(second), User.objects.count()) == (403, False, 1)


def test_an_administrator_is_one_as_long_as_the_claim_says_so(op: OpenProvider, arrive: Arrive) -> None:
    op.claims |= {"eduperson_entitlement": [ADMIN]}
    arrive(Client())
    first = User.objects.get()
    op.claims |= {"eduperson_entitlement": []}

    arrive(Client())

    then = User.objects.get()
    assert (first.roles, first.is_staff, first.is_superuser) == (["administrator"], True, True)
    assert (then.roles, then.is_staff, then.is_superuser) == ([], False, False)


def test_the_first_administrator_may_be_named_by_subject(op: OpenProvider, arrive: Arrive) -> None:
    op.subject = "boss"

    arrive(Client())

    assert User.objects.get().roles == ["administrator"]


def test_a_group_in_a_namespace_of_others_gives_nothing(op: OpenProvider, arrive: Arrive, settings: Settings) -> None:
    settings.ENVIRONMENT = replace(
        settings.ENVIRONMENT, providers=(op.config(namespaces=("urn:geant:elsewhere.org",)),)
    )
    op.claims |= {"eduperson_entitlement": [ADMIN]}

    arrive(Client())

    assert (User.objects.get().roles, Identity.objects.get().groups) == ([], [])


def test_sign_in_gives_a_new_session_and_ends_the_one_before(client: Client, op: OpenProvider, arrive: Arrive) -> None:
    arrive(client)
    before = client.session.session_key
    op.subject = "another"

    arrive(client)

    assert client.session.session_key != before
    assert not Session.objects.filter(session_key=before).exists()
    assert [row.identity.subject for row in SignIn.objects.all()] == ["another"]


def test_a_planted_session_is_not_the_one_signed_in_to(client: Client, arrive: Arrive) -> None:
    session = client.session
    session["planted"] = "by somebody else"
    session.save()
    before = session.session_key

    arrive(client)

    assert client.session.session_key != before
    assert "planted" not in client.session


def test_visits_that_come_to_nothing_leave_no_row(op: OpenProvider, db: None) -> None:
    for _ in range(100):
        client = Client()
        client.get("/signin/op/")
        client.get("/signin/", {"next": "/help/"})
        client.get("/signin/op/callback/", {"code": "a", "state": "b"})

    assert Session.objects.count() == SignIn.objects.count() == User.objects.count() == 0


def test_leaving_for_the_provider_asks_the_database_nothing(
    client: Client, op: OpenProvider, db: None, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(0):
        client.get("/signin/op/")


def test_each_tab_finishes_its_own_sign_in(client: Client, op: OpenProvider, db: None) -> None:
    tabs = [parse_qs(urlsplit(client.get("/signin/op/", {"next": f"/?{n}"})["location"]).query) for n in range(3)]

    ends = []
    for query in tabs:
        op.nonce = query["nonce"][0]
        reply = {"code": "good", "state": query["state"][0]}
        ends.append(client.get("/signin/op/callback/", reply)["location"])

    assert ends == ["/?0", "/?1", "/?2"]


def test_a_browser_holds_a_few_sign_ins_at_most(client: Client, op: OpenProvider, db: None) -> None:
    for _ in range(30):
        client.get("/signin/op/")

    live = [name for name, morsel in client.cookies.items() if name.startswith("visa-signin-") and morsel.value]
    assert len(live) == 8


def test_a_reply_is_good_once(client: Client, op: OpenProvider, db: None) -> None:
    query = parse_qs(urlsplit(client.get("/signin/op/")["location"]).query)
    op.nonce = query["nonce"][0]
    reply = {"code": "good", "state": query["state"][0]}
    client.get("/signin/op/callback/", reply)
    key = client.session.session_key

    again = client.get("/signin/op/callback/", reply)

    assert (again.status_code, client.session.session_key) == (403, key)


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"error": "login_required"},
        {"error": "access_denied", "state": "x"},
        {"code": "good"},
        {"code": "good", "state": ""},
        {"code": "good", "state": "x" * 5000},
        {"code": "good", "state": "\0"},
        {"state": "é"},
    ],
)
def test_a_callback_nobody_waits_for_changes_nothing(
    reply: dict[str, str], client: Client, op: OpenProvider, arrive: Arrive
) -> None:
    arrive(client)
    key = client.session.session_key

    answer = client.get("/signin/op/callback/", reply)

    assert (answer.status_code, client.session.session_key, is_signed_in(client)) == (403, key, True)


def test_a_reply_meant_for_another_browser_signs_nobody_in(client: Client, op: OpenProvider, db: None) -> None:
    query = parse_qs(urlsplit(Client().get("/signin/op/")["location"]).query)
    op.nonce = query["nonce"][0]

    answer = client.get("/signin/op/callback/", {"code": "good", "state": query["state"][0]})

    assert (answer.status_code, is_signed_in(client)) == (403, False)


def test_a_reply_that_comes_too_late_says_so(
    client: Client, op: OpenProvider, db: None, time_machine: TimeMachineFixture
) -> None:
    query = parse_qs(urlsplit(client.get("/signin/op/")["location"]).query)
    time_machine.move_to(time.time() + 601)

    answer = client.get("/signin/op/callback/", {"code": "good", "state": query["state"][0]})

    assert answer.status_code == 403
    assert "left open too long" in answer.content.decode()


def test_a_sign_in_under_way_at_one_provider_is_not_finished_at_another(
    client: Client, op: OpenProvider, db: None, settings: Settings
) -> None:
    with OpenProvider() as other:
        settings.ENVIRONMENT = replace(settings.ENVIRONMENT, providers=(op.config(), other.config("other")))
        query = parse_qs(urlsplit(client.get("/signin/op/")["location"]).query)
        other.nonce = query["nonce"][0]

        answer = client.get("/signin/other/callback/", {"code": "good", "state": query["state"][0]})

        assert (answer.status_code, is_signed_in(client)) == (403, False)
        assert "/token" not in [path for path, _form in other.asked]


def test_a_reply_that_names_another_issuer_is_refused(op: OpenProvider, arrive: Arrive) -> None:
    answer = arrive(Client(), iss="https://other.example.org")

    assert answer.status_code == 403
    assert "/token" not in [path for path, _form in op.asked]


def test_a_provider_that_names_itself_must_do_so_in_each_reply(client: Client, op: OpenProvider, db: None) -> None:
    op.answers["/.well-known/openid-configuration"] = Answer(
        op.document(authorization_response_iss_parameter_supported=True)
    )
    query = parse_qs(urlsplit(client.get("/signin/op/")["location"]).query)
    op.nonce = query["nonce"][0]

    answer = client.get("/signin/op/callback/", {"code": "good", "state": query["state"][0]})

    assert (answer.status_code, is_signed_in(client)) == (403, False)


def test_a_parameter_that_comes_twice_is_refused(client: Client, op: OpenProvider, db: None) -> None:
    query = parse_qs(urlsplit(client.get("/signin/op/")["location"]).query)
    op.nonce = query["nonce"][0]

    answer = client.get("/signin/op/callback/", {"code": ["good", "other"], "state": query["state"][0]})

    assert answer.status_code == 403


def test_who_went_back_reads_that_they_did(arrive: Arrive) -> None:
    answer = arrive(Client(), error="access_denied", error_description="<script>alert(1)</script>")

    assert answer.status_code == 403
    assert "You went back without signing in." in answer.content.decode()
    assert "alert(1)" not in answer.content.decode()


def test_the_number_on_the_page_stands_in_the_log_with_the_reason(
    op: OpenProvider, arrive: Arrive, caplog: pytest.LogCaptureFixture
) -> None:
    op.make_id_token = lambda claims: op.sign({**claims, "aud": "somebody else"})

    with caplog.at_level(logging.WARNING):
        answer = arrive(Client())

    line = next(record.getMessage() for record in caplog.records if "another client" in record.getMessage())
    number = line.split()[1]
    assert number in answer.content.decode()
    assert "another client" not in answer.content.decode()


def test_a_closed_account_stays_closed(client: Client, op: OpenProvider, arrive: Arrive) -> None:
    arrive(client)
    User.objects.update(is_active=False)
    again = Client()

    answer = arrive(again)

    assert (answer.status_code, is_signed_in(again)) == (403, False)
    assert not client.get("/signin/").wsgi_request.user.is_authenticated


# -- the chooser ----------------------------------------------------------------------------------------------------


def test_one_provider_needs_no_choice(client: Client, op: OpenProvider, db: None) -> None:
    assert client.get("/signin/", {"next": "/help/"})["location"] == "/signin/op/?next=%2Fhelp%2F"


def test_several_providers_are_links_that_remember_where_to_go(
    client: Client, op: OpenProvider, db: None, settings: Settings
) -> None:
    settings.ENVIRONMENT = replace(
        settings.ENVIRONMENT,
        providers=(op.config(), op.config("second", label="Second", issuer="https://b.example.org")),
    )

    page = client.get("/signin/", {"next": "/help/"}).content.decode()

    assert 'href="/signin/op/?next=%2Fhelp%2F"' in page
    assert 'href="/signin/second/?next=%2Fhelp%2F"' in page


def test_without_a_provider_the_page_says_what_is_missing(client: Client, db: None, settings: Settings) -> None:
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, providers=())

    assert "No identity provider is set up" in client.get("/signin/").content.decode()


def test_a_provider_that_is_not_there_is_not_found(client: Client, op: OpenProvider, db: None) -> None:
    assert {client.get(f"/signin/nobody/{rest}").status_code for rest in ("", "callback/")} == {404}


def test_who_is_signed_in_is_sent_on(client: Client, arrive: Arrive) -> None:
    arrive(client)

    assert client.get("/signin/", {"next": "/help/"})["location"] == "/help/"


# -- a provider in trouble ------------------------------------------------------------------------------------------

NONSENSE = [
    Answer(b"", status=500),
    Answer(b"<html>maintenance</html>", kind="text/html"),
    Answer(b"<html>maintenance</html>", status=503, kind="text/html"),
    Answer(b"{", kind="application/json"),
    Answer([1, 2, 3]),
    Answer(None),
    Answer({}),
    Answer(b"[" * 100_000),
    Answer(b"\xff\xfe"),
    Answer(b" " * (2 << 20)),
    Answer({}, status=302, headers={"location": "http://127.0.0.1:9/"}),
    Answer({"error": ["a"]}, status=404),
]


@pytest.mark.parametrize("answer", NONSENSE, ids=lambda answer: repr(answer.body)[:20] + str(answer.status))
@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/keys", "/token", "/userinfo"])
def test_nonsense_ends_in_a_page(path: str, answer: Answer, op: OpenProvider, db: None) -> None:
    client = Client()
    if path != "/.well-known/openid-configuration":
        query = parse_qs(urlsplit(client.get("/signin/op/")["location"]).query)
        op.nonce = query["nonce"][0]
        op.answers[path] = answer
        page = client.get("/signin/op/callback/", {"code": "good", "state": query["state"][0]})
    else:
        op.answers[path] = answer
        page = client.get("/signin/op/")

    assert page.status_code in {403, 503}
    assert "not" in page.content.decode()
    assert not is_signed_in(client)
    assert User.objects.count() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://other.example.org"},
        {"issuer": None},
        {"authorization_endpoint": None},
        {"authorization_endpoint": "http://other.example.org/authorize"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"token_endpoint": "http://192.0.2.1/token"},
        {"jwks_uri": "https://user@example.org/keys"},
        {"jwks_uri": "https://[::1/keys"},
        {"userinfo_endpoint": ["a"]},
        {"id_token_signing_alg_values_supported": ["HS256", "none"]},
        {"id_token_signing_alg_values_supported": "RS256"},
        {"code_challenge_methods_supported": ["plain"]},
        {"response_types_supported": ["id_token"]},
    ],
)
def test_a_discovery_document_that_will_not_do_ends_in_a_page(
    change: dict[str, object], client: Client, op: OpenProvider, db: None
) -> None:
    document = {name: value for name, value in op.document(**change).items() if value is not None}
    op.answers["/.well-known/openid-configuration"] = Answer(document)

    assert client.get("/signin/op/").status_code == 503


def test_a_code_the_provider_does_not_know_is_a_refusal(op: OpenProvider, arrive: Arrive) -> None:
    op.answers["/token"] = Answer({"error": "invalid_grant"}, status=400)

    assert arrive(Client()).status_code == 403


@pytest.mark.parametrize(("pause", "drip"), [(30.0, 0.0), (0.0, 0.4)])
def test_a_slow_provider_holds_nobody_longer_than_the_deadline(
    pause: float, drip: float, client: Client, op: OpenProvider, db: None
) -> None:
    op.answers["/.well-known/openid-configuration"] = Answer(op.document(), pause=pause, drip=drip)

    began = time.monotonic()
    first = client.get("/signin/op/")
    waited = time.monotonic() - began
    began = time.monotonic()
    second = client.get("/signin/op/")

    assert (first.status_code, second.status_code) == (503, 503)
    assert waited < providers.DEADLINE + 1
    assert time.monotonic() - began < 0.5


def test_who_is_signed_in_stays_so_while_the_provider_is_away(client: Client, op: OpenProvider, arrive: Arrive) -> None:
    arrive(client)
    for path in ("/.well-known/openid-configuration", "/keys", "/token", "/userinfo"):
        op.answers[path] = Answer(b"", status=500)

    assert client.get("/signin/", {"next": "/help/"})["location"] == "/help/"


def test_facts_that_were_read_once_serve_while_the_provider_is_away(op: OpenProvider, arrive: Arrive) -> None:
    arrive(Client())
    for path in ("/.well-known/openid-configuration", "/keys"):
        op.answers[path] = Answer(b"", status=500)

    assert arrive(Client()).status_code == 302


def test_nobody_is_sent_to_a_provider_that_went_away_since(
    client: Client, op: OpenProvider, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(Client())
    monkeypatch.setattr(providers, "THERE", 0.0)
    there = client.get("/signin/op/")
    op.answers["/.well-known/openid-configuration"] = Answer(b"", status=502)

    away = client.get("/signin/op/")

    assert (there.status_code, away.status_code) == (302, 503)


def test_discovery_and_keys_are_not_asked_for_again_each_time(op: OpenProvider, arrive: Arrive) -> None:
    for _ in range(3):
        arrive(Client())

    asked = [path for path, _form in op.asked]
    assert (asked.count("/.well-known/openid-configuration"), asked.count("/keys")) == (1, 1)


# -- what is left of the library ------------------------------------------------------------------------------------


def test_nothing_of_the_librarys_backend_is_left_that_touches_tokens_claims_or_rows() -> None:
    theirs = {name for name in vars(OIDCAuthenticationBackend) if not name.startswith("__")} | {"__init__"}

    assert theirs <= set(vars(Backend))
    assert "authenticate" not in {name for name in vars(ModelBackend) if name not in vars(Backend)}


def test_other_credentials_are_not_for_us() -> None:
    assert Backend().authenticate(None, username="a", password="b") is None
