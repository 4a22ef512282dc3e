"""Whoever looks after the site finds another's machine, and deletes it only with a reason."""

import re

from playwright.sync_api import expect

from tests.journeys.conftest import PATIENCE, Accessible, Visit

OPEN = "10.5442/ND000001"


def test_an_administrator_ends_a_machine_that_was_left_behind(visit: Visit, accessible: Accessible) -> None:
    owner = visit("Stranger")
    owner.goto(f"/launch/{OPEN}")
    owner.get_by_role("button", name="Start the machine").click()
    owner.wait_for_url(re.compile(r"/machines/[0-9a-f-]{36}/$"))
    name = owner.get_by_role("heading", level=1).inner_text()

    page = visit("Administrator")
    page.get_by_role("link", name="All machines").click()
    page.wait_for_url("**/machines/all/")
    accessible(page)
    page.get_by_label("Owner’s name").fill("stranger")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**owner=stranger**")
    page.get_by_role("link", name=name).click()
    expect(page.get_by_text("Belongs to Stranger (demo)")).to_be_visible()
    accessible(page)

    page.goto(owner.url + "delete/")
    expect(page.get_by_text("This machine belongs to Stranger (demo), not to you.")).to_be_visible()
    accessible(page)
    page.get_by_role("button", name="Delete it").click()
    # the browser itself wants the reason
    expect(page).to_have_url(re.compile("/delete/$"))
    page.get_by_label("Why, for its owner").fill("Left behind since March")
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text(f"“{name}” is being deleted.")).to_be_visible()
    expect(page).to_have_url(re.compile("/machines/all/$"))

    owner.goto("/")
    expect(owner.locator("#machines li")).to_have_count(0, timeout=PATIENCE)
