"""A visitor finds open data, reads what they are, and every kind of no says what would work instead."""

import pytest
from playwright.sync_api import expect

from deploy.demo_platform import DemoPlatform
from tests.journeys.conftest import Accessible, Visit


def test_a_visitor_searches_reads_and_is_offered_a_machine(visit: Visit, accessible: Accessible) -> None:
    """Without an account: the first page, a search, a dataset, and the launch page that asks to sign in."""
    page = visit()
    page.goto("/")
    accessible(page)

    page.get_by_role("searchbox").fill("protein")
    page.get_by_role("button", name="Search").click()
    accessible(page)
    page.get_by_role("link", name="Small-angle scattering", exact=False).first.click()

    expect(page.get_by_role("heading", level=1)).to_contain_text("Small-angle scattering")
    expect(page.get_by_text("Cite as")).to_be_visible()
    accessible(page)
    page.get_by_role("link", name="Analyse these data").click()
    expect(page.get_by_role("link", name="Sign in to analyse")).to_be_visible()
    accessible(page)


def test_a_pasted_doi_goes_straight_to_its_page(platform: DemoPlatform, visit: Visit) -> None:
    page = visit()
    page.goto("/")

    page.get_by_role("searchbox").fill("https://dx.doi.org/10.5291/ill-data.8-02-912")
    page.keyboard.press("Enter")

    expect(page).to_have_url(f"{platform.url}/data/10.5291/ILL-DATA.8-02-912")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/data/10.15151/ESRF-ES-2210534378", "They open on"),
        ("/launch/10.15151/ESRF-ES-2210534378", "They open on"),
        ("/data/10.5286/ISIS.E.RB1810842", "not held by this site"),
        ("/data/10.5291/ILL-DATA.TEST-3346", "were withdrawn"),
        ("/data/10.5442/NI000001", "does not name data"),
        ("/data/10.5291/nobody-knows-this", "Nothing is known here"),
        ("/launch/not-a-doi", "A DOI begins with"),
        ("/launch/10.5291/ILL-DATA.8-02-912?size=huge", "takes no"),
        ("/nowhere/", "no page at this address"),
    ],
)
def test_each_no_says_why_on_a_page_of_its_own(visit: Visit, accessible: Accessible, path: str, words: str) -> None:
    page = visit()

    page.goto(path)

    expect(page.get_by_role("main")).to_contain_text(words)
    accessible(page)


def test_pages_work_by_keyboard_and_without_script(visit: Visit) -> None:
    """The first Tab offers to skip to the content; with scripts switched off the same pages read and search."""
    page = visit()
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()

    plain = visit(java_script_enabled=False)
    plain.goto("/search/?q=protein")
    plain.get_by_role("link", name="Small-angle scattering", exact=False).first.click()
    expect(plain.get_by_role("heading", level=1)).to_contain_text("Small-angle scattering")
