"""An allowance that does not hold the wish: the numbers before and after, what would make room, and who can help."""

import re

from playwright.sync_api import expect

from tests.journeys.conftest import PATIENCE, Accessible, Visit

FIRST, SECOND = "10.5291/ILL-DATA.8-02-912", "10.5442/ND000001"


def test_what_does_not_fit_says_what_would(visit: Visit, accessible: Accessible) -> None:
    """The administrator lowers the limit; the stranger, with one machine, is told so, deletes it, and may again."""
    administrator = visit("Administrator")
    stranger = visit("Stranger")
    stranger.goto(f"/launch/{FIRST}")
    open_form = stranger.context.new_page()
    open_form.goto(f"/launch/{SECOND}")
    stranger.get_by_role("button", name="Start the machine").click()
    expect(stranger).to_have_url(re.compile(r"/machines/"))

    administrator.goto("/admin/quotas/limit/")
    administrator.get_by_role("link", name="everyone").first.click()
    administrator.get_by_label("Machines").fill("1")
    administrator.get_by_role("button", name="Save", exact=True).click()
    expect(administrator.get_by_text("was changed successfully")).to_be_visible()

    open_form.get_by_role("button", name="Start the machine").click()
    expect(open_form.get_by_role("alert")).to_contain_text("1 machine")
    expect(open_form.get_by_text("No size fits into your allowance now")).to_be_visible()
    accessible(open_form)

    open_form.get_by_role("main").get_by_role("link", name="Small-angle scattering", exact=False).click()
    open_form.get_by_role("link", name=re.compile("Delete this machine|Give up and delete")).click()
    open_form.get_by_role("button", name="Delete it").click()
    expect(open_form.get_by_role("heading", name="You have no machine yet")).to_be_visible(timeout=PATIENCE)
    open_form.goto(f"/launch/{SECOND}")
    expect(open_form.get_by_role("button", name="Start the machine")).to_be_visible()

    administrator.goto("/admin/quotas/limit/")
    administrator.get_by_role("link", name="everyone").first.click()
    administrator.get_by_label("Machines").fill("3")
    administrator.get_by_role("button", name="Save", exact=True).click()
    expect(administrator.get_by_text("was changed successfully")).to_be_visible()
