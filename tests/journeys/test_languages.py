"""The ways of people in French and in German: everything fits at 360 px, and nothing of it is said in English."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.journeys.conftest import PATIENCE, Visit

OPEN, CLOSED, UNKNOWN = "10.5442/ND000001", "10.5291/ILL-DATA.TEST-3346", "10.5291/NOBODY-KNOWS"
#: what each button is called, in the order in which it is pressed
WORDS = {
    "Français": ("Se déconnecter", "Démarrer la machine", "Ouvrir le bureau", "Quitter", "Supprimer", "La supprimer"),
    "Deutsch": ("Abmelden", "Maschine starten", "Desktop öffnen", "Verlassen", "Löschen", "Löschen"),
}
#: words that stand on English pages and in neither of the others
ENGLISH = re.compile(r"\b(the|your|with|and|you|this|are)\b", re.IGNORECASE)
#: the text of a page without what people and machines wrote
OURS = """() => {
    const copy = document.body.cloneNode(true);
    const given = "h1, .lead, .rows li, .choice span, .name, .facts dd, .crumb, .card p:not([class]), code, [lang]";
    for (const part of copy.querySelectorAll(`${given}, pre, script, noscript`)) part.remove();
    return copy.textContent;
}"""


def speaks_no_english(page: Page) -> None:
    """What is ours on the page; titles of data, names of sizes and citations are as people gave them."""
    ours = page.evaluate(OURS)
    assert (page.url, ENGLISH.findall(ours)) == (page.url, [])


def fits_and_speaks_no_english(page: Page) -> None:
    """Looks at the page that is there, or comes."""
    # a click's way may still be under way, and between two pages there is nothing to look at
    expect(page.locator("body h1").first).to_be_attached()
    page.wait_for_load_state()
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert (page.url, wide) == (page.url, 0)
    speaks_no_english(page)


@pytest.mark.parametrize("language", WORDS)
def test_the_whole_way_in_another_language(visit: Visit, language: str) -> None:
    sign_out, start, open_desktop, leave, remove, for_good = WORDS[language]
    page = visit("Scientist", viewport={"width": 360, "height": 740})
    page.get_by_role("button", name=language).click()
    expect(page.get_by_role("button", name=sign_out)).to_be_visible()

    def look() -> None:
        fits_and_speaks_no_english(page)

    for path in ("/", "/help/", "/search/", "/search/?q=no-such-word", "/experiments/", f"/data/{OPEN}"):
        page.goto(path)
        look()
    for path in (f"/data/{CLOSED}", f"/data/{UNKNOWN}", "/nowhere/", "/signout/"):
        page.goto(path)
        look()

    page.goto(f"/launch/{OPEN}")
    look()
    page.get_by_role("button", name=start).click()
    page.wait_for_url(re.compile(r"/machines/[0-9a-f-]{36}/$"))
    look()
    expect(page.get_by_role("link", name=open_desktop)).to_be_visible(timeout=PATIENCE)
    look()
    page.get_by_role("link", name=open_desktop).click()
    expect(page.locator("#veil")).to_be_hidden(timeout=PATIENCE)
    look()
    page.get_by_role("link", name=leave).click()
    page.wait_for_url(re.compile(r"/machines/[0-9a-f-]{36}/$"))
    page.goto("/")
    look()

    page.go_back()
    page.wait_for_url(re.compile(r"/machines/[0-9a-f-]{36}/$"))
    page.get_by_role("link", name=remove).click()
    page.wait_for_url("**/delete/")
    look()
    page.get_by_role("button", name=for_good).click()
    expect(page.locator("#machines li")).to_have_count(0, timeout=PATIENCE)


@pytest.mark.parametrize("language", WORDS)
def test_who_looks_after_the_site_reads_their_own_language(visit: Visit, language: str) -> None:
    sign_out, *_ = WORDS[language]
    owner = visit("Stranger")
    owner.goto(f"/launch/{OPEN}")
    owner.get_by_role("button", name="Start the machine").click()
    owner.wait_for_url(re.compile(r"/machines/[0-9a-f-]{36}/$"))

    page = visit("Administrator", viewport={"width": 360, "height": 740})
    page.get_by_role("button", name=language).click()
    expect(page.get_by_role("button", name=sign_out)).to_be_visible()

    for path in ("/", "/machines/all/", "/machines/all/?owner=no-such-person", "/machines/reconciliation/", "/audit/"):
        page.goto(path)
        fits_and_speaks_no_english(page)
    page.goto("/audit/?day=no-such-day")
    fits_and_speaks_no_english(page)
    page.goto(owner.url)
    fits_and_speaks_no_english(page)
    page.locator("#console").click()
    fits_and_speaks_no_english(page)
    page.goto(owner.url + "delete/")
    fits_and_speaks_no_english(page)
    page.locator("#reason").fill("–")
    page.locator("button.danger").click()
    page.wait_for_url("**/machines/all/")
    fits_and_speaks_no_english(page)

    owner.goto("/")
    expect(owner.locator("#machines li")).to_have_count(0, timeout=PATIENCE)
