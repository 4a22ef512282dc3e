"""Signing in with a real, certified OpenID provider, over HTTP, as a browser and as a program do it.

Index of fixtures

  site           this platform, answering over HTTP; it knows the provider `demo`, and `second` where a test wants two
  cast           the people of the provider, as a list that can be changed while it runs
  browser        a new browser: cookies, redirects, and no script
"""

import base64
import hashlib
import json
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import pytest
import requests
from django.contrib.sessions.models import Session
from django.core.cache import cache
from playwright.sync_api import sync_playwright
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from deploy.processes import ROOT, Running, start_identity_provider
from visa.accounts import providers
from visa.accounts.models import Identity, SignIn, User
from visa.accounts.signals import session_ended
from visa.environment import Provider, Roles

SPACE = "urn:geant:demo.example"
SECRET = secrets.token_urlsafe(32)
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
Cast = list[dict[str, Any]]


@dataclass(frozen=True)
class Provided:
    """A provider that runs, and the file its people stand in."""

    process: Running
    cast: Path

    @property
    def issuer(self) -> str:
        return self.process.facts["issuer"]

    def config(self, slug: str) -> Provider:
        return Provider(
            slug=slug,
            label=f"The {slug} provider",
            preset="umbrellaid",
            issuer=self.issuer,
            client_id="visa",
            client_secret=SECRET,
            scopes="",
            api_clients=("visa-cli",),
            namespaces=(SPACE,),
        )


def _start(directory: Path, slug: str, url: str) -> Provided:
    directory.mkdir()
    cast = directory / "cast.json"
    cast.write_bytes((ROOT / "deploy" / "identity" / "cast.json").read_bytes())
    configuration = {
        "port": 0,
        "title": "Sign in",
        "cast": str(cast),
        "relying_parties": [{"slug": slug, "url": url, "client_id": "visa", "client_secret": SECRET}],
        "api_clients": ["visa-cli", "another-tool"],
    }
    return Provided(start_identity_provider(configuration, directory=directory, log=directory / "log"), cast)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, live_server: LiveServer) -> Iterator[Provided]:
    provided = _start(tmp_path_factory.mktemp("demo") / "op", "demo", live_server.url)
    with provided.process:
        yield provided


@pytest.fixture
def site(demo: Provided, live_server: LiveServer, settings: Settings, transactional_db: None) -> Iterator[str]:
    before = demo.cast.read_bytes()
    settings.SITE = replace(settings.SITE, url=live_server.url)
    settings.ALLOWED_HOSTS = [settings.SITE.host]
    settings.CSRF_TRUSTED_ORIGINS = [live_server.url]
    administrators = (f"entitlement:{SPACE}:group:staff:administrators:role=member",)
    settings.ENVIRONMENT = replace(
        settings.ENVIRONMENT,
        providers=(demo.config("demo"),),
        roles=Roles(
            administrator=administrators,
            support=(),
            instrument_scientist=(f"entitlement:{SPACE}:group:staff:instrument-scientists",),
        ),
    )
    providers._provider.cache_clear()
    yield live_server.url
    demo.cast.write_bytes(before)


@pytest.fixture
def second(tmp_path: Path, site: str, settings: Settings) -> Iterator[Provided]:
    provided = _start(tmp_path / "second", "second", site)
    with provided.process:
        known = settings.ENVIRONMENT.providers
        settings.ENVIRONMENT = replace(settings.ENVIRONMENT, providers=(*known, provided.config("second")))
        yield provided


@pytest.fixture
def cast(demo: Provided) -> Callable[[Callable[[Cast], None]], None]:
    """Change the people of the provider while it runs."""

    def change(edit: Callable[[Cast], None]) -> None:
        people: Cast = json.loads(demo.cast.read_text())
        edit(people)
        demo.cast.write_text(json.dumps(people))

    return change


class Browser(requests.Session):
    """Cookies and redirects; no script, which neither side needs."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False

    def sign_in(self, site: str, who: str, *, slug: str = "demo", then: str = "/help/") -> requests.Response:
        """Go through sign-in as `who`; the page one ends at."""
        page = self.get(f"{site}/signin/{slug}/", params={"next": then}, timeout=20)
        if "/interaction/" not in page.url:
            return page
        return self.post(page.url, data={"person": who}, timeout=20)

    def name(self, site: str) -> str:
        """Who the site takes this browser for; empty for nobody."""
        page = self.get(f"{site}/help/", timeout=20)
        found = page.text.partition('<span class="name" title="')[2].partition('"')[0]
        assert page.status_code == 200
        return found


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


def test_a_person_signs_in_and_lands_where_they_were_going(site: str, demo: Provided, browser: Browser) -> None:
    page = browser.sign_in(site, "scientist", then="/help/?a=b")

    identity = Identity.objects.get()
    assert (page.status_code, page.url) == (200, f"{site}/help/?a=b")
    assert browser.name(site) == "Scientist (demo)"
    assert (identity.issuer, identity.subject) == (demo.issuer, "scientist")
    assert identity.voperson_id == "scientist@demo.example"
    assert identity.groups == [f"{SPACE}:group:users:role=member"]
    assert identity.assurance == ["https://refeds.org/assurance/ID/unique", "https://refeds.org/assurance/IAP/low"]
    assert identity.user.email == "scientist@demo.example"
    assert SignIn.objects.get().sid


def test_each_of_the_cast_is_what_they_say(site: str) -> None:
    roles = {}
    for who in ("scientist", "teammate", "stranger", "instrumentscientist", "administrator"):
        with Browser() as browser:
            browser.sign_in(site, who)
        roles[who] = Identity.objects.get(subject=who).user.roles

    assert roles == {
        "scientist": [],
        "teammate": [],
        "stranger": [],
        "instrumentscientist": ["instrument_scientist"],
        "administrator": ["administrator"],
    }


def test_an_administrator_is_one_until_the_provider_says_otherwise(
    site: str, browser: Browser, cast: Callable[[Callable[[Cast], None]], None]
) -> None:
    browser.sign_in(site, "administrator")
    assert browser.get(f"{site}/admin/", timeout=20).url == f"{site}/admin/"

    cast(lambda people: people[4]["claims"].update(eduperson_entitlement=[]))
    browser.sign_in(site, "administrator")

    assert browser.get(f"{site}/admin/", timeout=20).status_code == 403
    assert not User.objects.get().is_superuser


def test_who_goes_back_at_the_provider_is_not_signed_in(site: str, browser: Browser) -> None:
    page = browser.sign_in(site, "")

    assert page.status_code == 403
    assert "You went back without signing in." in page.text
    assert browser.name(site) == ""
    assert User.objects.count() == Session.objects.count() == 0


def test_signing_out_here_signs_out_there(site: str, browser: Browser) -> None:
    browser.sign_in(site, "scientist")
    form = {"csrfmiddlewaretoken": _csrf(browser, site)}

    page = browser.post(f"{site}/signout/", data=form, headers={"referer": site}, timeout=20)
    leave = browser.get(_next_of(page.text), timeout=20)
    browser.post(*_form_of(leave.text), timeout=20)
    again = browser.get(f"{site}/signin/demo/", timeout=20)

    assert "You are signed out here" in page.text
    assert browser.name(site) == ""
    assert "/interaction/" in again.url  # the provider asks who it is
    assert Session.objects.count() == SignIn.objects.count() == 0


def _csrf(browser: Browser, site: str) -> str:
    page = browser.get(f"{site}/signout/", timeout=20).text
    return page.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]


def _next_of(page: str) -> str:
    return page.partition('content="0;url=')[2].partition('"')[0].replace("&amp;", "&")


def _form_of(page: str) -> tuple[str, dict[str, str]]:
    """Where the provider's sign-out form goes, and what its button says."""
    action = page.partition('action="')[2].partition('"')[0]
    xsrf = page.partition('name="xsrf" value="')[2].partition('"')[0]
    return action, {"xsrf": xsrf, "logout": "yes"}


def test_signing_out_at_the_provider_ends_the_session_here(site: str, demo: Provided, browser: Browser) -> None:
    ended: list[str] = []

    def listen(session_key: str, **rest: object) -> None:
        ended.append(session_key)

    session_ended.connect(listen)
    with Browser() as other:
        other.sign_in(site, "scientist")
        browser.sign_in(site, "scientist")
        key = SignIn.objects.latest("began_at").session_key

        leave = browser.get(f"{demo.issuer}/session/end", params={"client_id": "visa"}, timeout=20)
        browser.post(*_form_of(leave.text), timeout=20)

        # the provider's call comes beside its answer to the browser
        until = time.monotonic() + 10
        while browser.name(site) and time.monotonic() < until:
            time.sleep(0.05)
        session_ended.disconnect(listen)
        assert browser.name(site) == ""
        assert other.name(site) == "Scientist (demo)"
        assert ended == [key]


def test_new_signing_keys_are_found(site: str, demo: Provided) -> None:
    def rotate() -> None:
        before = requests.get(f"{demo.issuer}/jwks", timeout=5).json()
        demo.process.popen.send_signal(signal.SIGHUP)
        until = time.monotonic() + 10
        while requests.get(f"{demo.issuer}/jwks", timeout=5).json() == before and time.monotonic() < until:
            time.sleep(0.05)

    with Browser() as first:
        first.sign_in(site, "scientist")
    rotate()
    with Browser() as second:
        page = second.sign_in(site, "scientist")

    assert page.status_code == 200
    assert SignIn.objects.count() == 2


# -- two providers --------------------------------------------------------------------------------------------------


def _reply(browser: Browser, site: str, slug: str) -> str:
    """Sign in at the provider as the scientist, and catch its reply before it reaches the site."""
    page = browser.get(f"{site}/signin/{slug}/", timeout=20)
    answer = browser.post(page.url, data={"person": "scientist"}, allow_redirects=False, timeout=20)
    while not answer.headers["location"].startswith(site):
        answer = browser.get(answer.headers["location"], allow_redirects=False, timeout=20)
    return answer.headers["location"]


def test_the_chooser_offers_both_and_remembers_where_to_go(site: str, second: Provided, browser: Browser) -> None:
    page = browser.get(f"{site}/signin/", params={"next": "/help/"}, timeout=20)

    assert "The demo provider" in page.text
    assert 'href="/signin/second/?next=%2Fhelp%2F"' in page.text
    assert browser.sign_in(site, "scientist", slug="second").url == f"{site}/help/"
    assert Identity.objects.get().issuer == second.issuer


def test_one_person_at_two_providers_is_two_accounts(site: str, second: Provided) -> None:
    for slug in ("demo", "second"):
        with Browser() as browser:
            browser.sign_in(site, "scientist", slug=slug)

    assert User.objects.count() == 2
    assert {user.email for user in User.objects.all()} == {"scientist@demo.example"}


@pytest.mark.parametrize(("begun", "given"), [("demo", "second"), ("second", "demo")])
def test_the_reply_of_one_provider_does_not_serve_for_the_other(
    begun: str, given: str, site: str, second: Provided, browser: Browser
) -> None:
    reply = _reply(browser, site, begun)

    swapped = browser.get(reply.replace(f"/signin/{begun}/", f"/signin/{given}/"), timeout=20)

    assert swapped.status_code == 403
    assert browser.name(site) == ""
    assert User.objects.count() == 0


def test_a_code_of_one_provider_under_the_state_of_the_other_is_refused(
    site: str, second: Provided, browser: Browser
) -> None:
    other = parse_qs(urlsplit(_reply(browser, site, "second")).query)
    left = browser.get(f"{site}/signin/demo/", allow_redirects=False, timeout=20).headers["location"]
    state = parse_qs(urlsplit(left).query)["state"][0]

    for issuer in (other["iss"], []):
        query = {"code": other["code"], "state": [state], **({"iss": issuer} if issuer else {})}
        page = browser.get(f"{site}/signin/demo/callback/?{urlencode(query, doseq=True)}", timeout=20)
        assert page.status_code == 403

    assert User.objects.count() == 0


def test_a_reply_signs_in_the_browser_that_asked_and_only_once(site: str, demo: Provided, browser: Browser) -> None:
    reply = _reply(browser, site, "demo")
    with Browser() as thief:
        stolen = thief.get(reply, timeout=20)
        own = browser.get(reply, timeout=20)
        again = browser.get(reply, timeout=20)

    assert (stolen.status_code, own.status_code, again.status_code) == (403, 200, 403)
    assert browser.name(site) == "Scientist (demo)"


# -- programs -------------------------------------------------------------------------------------------------------


def access_token(demo: Provided, who: str, client: str = "visa-cli") -> str:
    """A token as a program gets one: by device code (RFC 8628), approved in a browser."""
    wanted = {"client_id": client, "scope": "openid"}
    device = requests.post(f"{demo.issuer}/device/auth", data=wanted, timeout=20).json()
    with Browser() as browser:
        page = browser.get(device["verification_uri_complete"], timeout=20)
        page = browser.post(*_device_form(page.text), timeout=20)
        if 'id="op.deviceConfirmForm"' in page.text:
            page = browser.post(*_device_form(page.text, confirm="yes"), timeout=20)
        page = browser.post(page.url, data={"person": who}, timeout=20)
        assert "Connected" in page.text
    form = {"client_id": client, "grant_type": DEVICE, "device_code": device["device_code"]}
    token: str = requests.post(f"{demo.issuer}/token", data=form, timeout=20).json()["access_token"]
    return token


def _device_form(page: str, **more: str) -> tuple[str, dict[str, str]]:
    action = page.partition('action="')[2].partition('"')[0]
    fields = {}
    for piece in page.split("<input ")[1:]:
        name, value = (piece.partition(f'{what}="')[2].partition('"')[0] for what in ("name", "value"))
        fields[name] = value
    return action, {**fields, **more}


def call(site: str, token: str) -> requests.Response:
    return requests.get(f"{site}/api/v1/instances/", headers={"authorization": f"Bearer {token}"}, timeout=20)


def test_a_program_calls_the_api_for_its_person(site: str, demo: Provided, browser: Browser) -> None:
    token = access_token(demo, "scientist")
    early = call(site, token)
    browser.sign_in(site, "scientist")

    assert (early.status_code, call(site, token).status_code) == (401, 200)
    assert User.objects.count() == 1


def test_a_token_of_another_program_is_refused(site: str, demo: Provided, browser: Browser) -> None:
    browser.sign_in(site, "scientist")

    answer = call(site, access_token(demo, "scientist", "another-tool"))

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_a_revoked_token_is_refused_once_the_answer_is_no_longer_believed(
    site: str, demo: Provided, browser: Browser
) -> None:
    browser.sign_in(site, "scientist")
    token = access_token(demo, "scientist")
    before = call(site, token)
    form = {"token": token, "client_id": "visa-cli"}
    requests.post(f"{demo.issuer}/token/revocation", data=form, timeout=20).raise_for_status()
    cache.clear()

    assert (before.status_code, call(site, token).status_code) == (200, 401)


def test_a_program_gets_a_token_by_code_as_well(site: str, demo: Provided, browser: Browser) -> None:
    verifier = secrets.token_urlsafe(32)
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "client_id": "visa-cli",
        "redirect_uri": "http://127.0.0.1:8/callback",
        "response_type": "code",
        "scope": "openid",
        "code_challenge": digest,
        "code_challenge_method": "S256",
    }
    browser.sign_in(site, "scientist")

    answer = browser.get(f"{demo.issuer}/auth", params=asked, allow_redirects=False, timeout=20)
    while not answer.headers["location"].startswith(asked["redirect_uri"]):
        answer = browser.get(urljoin(demo.issuer, answer.headers["location"]), allow_redirects=False, timeout=20)
    code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    form = {**asked, "grant_type": "authorization_code", "code": code, "code_verifier": verifier}
    token = requests.post(f"{demo.issuer}/token", data=form, timeout=20).json()["access_token"]

    assert call(site, token).status_code == 200


def test_the_provider_insists_on_pkce(site: str, demo: Provided) -> None:
    asked = {
        "client_id": "visa",
        "redirect_uri": f"{site}/signin/demo/callback/",
        "response_type": "code",
        "scope": "openid",
    }

    answer = requests.get(f"{demo.issuer}/auth", params=asked, allow_redirects=False, timeout=20)

    assert parse_qs(urlsplit(answer.headers["location"]).query)["error"] == ["invalid_request"]


# -- a provider that is gone ----------------------------------------------------------------------------------------


def test_a_provider_that_is_down_ends_in_a_page_and_nobody_is_signed_out(
    site: str, second: Provided, browser: Browser
) -> None:
    browser.sign_in(site, "scientist", slug="second")
    second.process.stop()
    providers._provider.cache_clear()

    with Browser() as newcomer:
        page = newcomer.get(f"{site}/signin/second/", timeout=20)
        other = newcomer.sign_in(site, "teammate")

    assert page.status_code == 503
    assert "does not answer as it should" in page.text
    assert other.status_code == 200
    assert browser.name(site) == "Scientist (demo)"


# -- a real browser -------------------------------------------------------------------------------------------------


def test_chromium_signs_in_and_out(site: str, second: Provided) -> None:
    """The content security policy stands in neither way, and the browser has nothing to complain of."""
    said: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = chromium.new_page()
        page.on("console", lambda message: said.append(message.text))

        page.goto(f"{site}/signin/?next=/help/")
        page.get_by_role("link", name="The demo provider").click()
        page.get_by_role("button", name="Scientist (demo)", exact=False).first.click()
        page.wait_for_url(f"{site}/help/")
        page.get_by_text("Scientist (demo)").wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{site}/")
        page.get_by_role("link", name="Sign in").first.wait_for()
        page.goto(f"{site}/signin/demo/")
        asked_again = "/interaction/" in page.url
        chromium.close()

    assert asked_again
    assert said == []
    assert Session.objects.count() == SignIn.objects.count() == 0
