"""A person comes by a link, signs in on the way, and is back where they were; signing out ends it everywhere."""

import re

from playwright.sync_api import expect

from deploy.demo_platform import DemoPlatform
from tests.journeys.conftest import Visit, sign_in

OPEN = "10.5291/ILL-DATA.8-02-912"


def test_a_link_leads_through_sign_in_and_back_to_itself(platform: DemoPlatform, visit: Visit) -> None:
    """The stranger opens a launch link, reads it, signs in, and stands on the same page with one more button."""
    page = visit()
    page.goto(f"/launch/https://doi.org/{OPEN.lower()}")
    expect(page).to_have_url(f"{platform.url}/launch/{OPEN}")
    expect(page.get_by_role("button", name="Start the machine")).to_have_count(0)

    page.get_by_role("link", name="Sign in to analyse").click()
    sign_in(page, "Stranger")

    expect(page).to_have_url(f"{platform.url}/launch/{OPEN}")
    expect(page.get_by_role("button", name="Start the machine")).to_be_visible()


def test_signing_out_ends_it_in_every_tab(platform: DemoPlatform, visit: Visit) -> None:
    """The team-mate has two tabs; signing out in one is seen in the other without a click."""
    page = visit("Team-mate")
    page.goto("/")
    other = page.context.new_page()
    other.goto("/")
    expect(other.get_by_role("heading", name="Your machines", level=1)).to_be_visible()

    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
    other.reload()
    expect(other.get_by_role("link", name="Sign in").first).to_be_visible()
    expect(other).to_have_url(re.compile(f"^{re.escape(platform.url)}/"))


def test_roles_come_with_the_identity(visit: Visit) -> None:
    """The administrator has the way to the administration in the head of each page; the scientist has not."""
    administrator = visit("Administrator")
    administrator.get_by_role("link", name="Admin").click()
    expect(administrator.get_by_role("heading", name="Site administration")).to_be_visible()

    scientist = visit("Scientist")
    expect(scientist.get_by_role("link", name="Admin")).to_have_count(0)
    scientist.goto("/admin/")
    expect(scientist.get_by_role("heading", name="Site administration")).to_have_count(0)
