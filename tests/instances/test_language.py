"""A page speaks the language its reader chose, else one the browser asks for, else English."""

from collections.abc import Callable

import pytest
from django.conf import settings
from django.test import Client

from tests import factories
from visa.accounts.models import User

pytestmark = pytest.mark.django_db

WELCOME = {
    "en": "A computer beside the data",
    "fr": "Un ordinateur à côté des données",
    "de": "Ein Rechner neben den Daten",
}


def choose(client: Client, language: str, **fields: str) -> str:
    """Press the foot's button; where it leads."""
    answer = client.post("/language/", {"language": language, **fields})
    assert answer.status_code == 302
    return str(answer["Location"])


@pytest.mark.parametrize("language", WELCOME)
def test_a_browser_is_answered_in_its_language(client: Client, language: str) -> None:
    answer = client.get("/", headers={"Accept-Language": f"{language},en;q=0.1"})

    assert answer["Content-Language"] == language
    assert f'<html lang="{language}">' in answer.text
    assert WELCOME[language] in answer.text


def test_a_language_nobody_translated_is_answered_in_english(client: Client) -> None:
    assert WELCOME["en"] in client.get("/", headers={"Accept-Language": "fi"}).text


def test_a_choice_holds_against_the_browsers_language_and_leads_back(client: Client) -> None:
    assert choose(client, "de", next="/help/?from=foot") == "/help/?from=foot"

    answer = client.get("/", headers={"Accept-Language": "fr"})
    assert WELCOME["de"] in answer.text
    cookie = client.cookies[settings.LANGUAGE_COOKIE_NAME]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")


def test_a_choice_leads_nowhere_else(client: Client) -> None:
    for address in ("https://elsewhere.example/", "//elsewhere.example/", "javascript:alert(1)"):
        assert choose(client, "fr", next=address) == "/"


def test_a_made_up_language_changes_nothing(client: Client) -> None:
    choose(client, "xx")

    assert settings.LANGUAGE_COOKIE_NAME not in client.cookies


def test_every_page_offers_the_other_languages_by_their_own_names(client: Client) -> None:
    page = client.get("/nowhere/", headers={"Accept-Language": "fr"}).text

    for name in ("English", "Français", "Deutsch"):
        assert name in page
    assert 'name="next" value="/nowhere/"' in page


def test_a_form_of_another_site_chooses_nothing(client: Client) -> None:
    answer = client.post("/language/", {"language": "de"}, headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403
    assert settings.LANGUAGE_COOKIE_NAME not in client.cookies


def test_a_refusal_is_translated_with_its_title(client: Client) -> None:
    page = client.get("/data/10.5555/nobody-knows", headers={"Accept-Language": "de"}).text

    assert "Nicht gefunden" in page
    assert "Unter dem DOI 10.5555/nobody-knows ist hier nichts bekannt." in page


def test_numbers_and_words_of_the_allowance_are_those_of_the_language(
    browse_as: Callable[[User], Client], owner: User
) -> None:
    factories.make_limit(machines=2, cores=4, memory_mib=1536)

    page = browse_as(owner).get("/", headers={"Accept-Language": "fr"}).text

    assert "sur 1,5 Gio utilisés" in page
