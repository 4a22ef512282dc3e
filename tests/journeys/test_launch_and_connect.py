"""From the DOI link to a desktop in the browser, and back to nothing: the whole way, as a person goes it."""

import re
import time

from playwright.sync_api import Page, expect

from deploy.demo_platform import DemoPlatform
from tests.journeys.conftest import PATIENCE, Accessible, Visit

OPEN, OTHER = "10.5291/ILL-DATA.8-02-912", "10.5442/ND000001"
#: how many colours the picture on the canvas has, read from the page as a person would see it
COLOURS = """() => {
    const canvas = document.querySelector("canvas");
    if (!canvas || canvas.width < 300) return 0;
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const seen = new Set();
    for (let at = 0; at < data.length; at += 4 * 97) seen.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
    return seen.size;
}"""


def see_a_picture(page: Page) -> None:
    """Waits until the canvas shows more than one colour. Asked from here: the content policy lets no page evaluate."""
    deadline = time.monotonic() + PATIENCE / 1000
    while page.evaluate(COLOURS) <= 3:
        assert time.monotonic() < deadline, page.get_by_role("main").inner_text()
        page.wait_for_timeout(100)


def delete(page: Page) -> None:
    """Through the page that says what is lost."""
    page.get_by_role("link", name=re.compile("Delete this machine|Give up and delete")).click()
    expect(page.get_by_text("Lost for good")).to_be_visible()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text("is being deleted")).to_be_visible()


def test_from_the_link_to_the_desktop_and_back(platform: DemoPlatform, visit: Visit, accessible: Accessible) -> None:
    """The scientist follows a link, sees what it takes, starts, watches, connects, leaves, stops, starts, deletes."""
    page = visit("Scientist")
    page.goto(f"/launch/{OPEN}")
    expect(page.get_by_role("radio", name="Small")).to_be_checked()
    expect(page.get_by_text("1 after this start")).not_to_have_count(0)
    accessible(page)

    page.get_by_role("radio", name="Medium", exact=False).first.check()
    expect(page.get_by_text("2 after this start").first).to_be_visible()
    page.get_by_role("radio", name="Small").check()
    page.get_by_role("button", name="Start the machine").click()

    expect(page).to_have_url(re.compile(r"/machines/[0-9a-f-]{36}/$"))
    machine = page.url
    expect(page.get_by_role("link", name="Open the desktop")).to_be_visible(timeout=PATIENCE)
    accessible(page)

    page.get_by_role("link", name="Open the desktop").click()
    see_a_picture(page)
    accessible(page)
    page.get_by_role("link", name="Leave").click()
    expect(page).to_have_url(machine)

    page.goto("/")
    accessible(page)
    page.goto(f"/launch/doi:{OPEN}")
    expect(page.get_by_role("heading", name="You have a machine with these data already")).to_be_visible()
    accessible(page)

    page.goto(machine)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Start")).to_be_visible(timeout=PATIENCE)
    accessible(page)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("link", name="Open the desktop")).to_be_visible(timeout=PATIENCE)

    delete(page)
    expect(page.get_by_role("heading", name="You have no machine yet")).to_be_visible(timeout=PATIENCE)
    accessible(page)
    page.goto(machine)
    expect(page.get_by_text("There is no such machine")).to_be_visible()


def test_a_desktop_comes_back_by_itself_after_a_restart_from_another_tab(visit: Visit) -> None:
    """The scientist restarts a machine that hangs, while its desktop lies open in another tab, and goes on there."""
    page = visit("Scientist")
    page.goto(f"/launch/{OTHER}")
    page.get_by_role("button", name="Start the machine").click()
    expect(page.get_by_role("link", name="Open the desktop")).to_be_visible(timeout=PATIENCE)
    desktop = page.context.new_page()
    desktop.goto(f"{page.url}desktop/")
    see_a_picture(desktop)

    page.get_by_role("button", name="Restart").click()
    expect(desktop.locator("#veil")).to_be_visible(timeout=PATIENCE)

    expect(desktop.locator("#veil")).to_be_hidden(timeout=PATIENCE)
    see_a_picture(desktop)

    page.get_by_role("button", name="Stop").click()
    expect(desktop.get_by_text("The machine is not running any more")).to_be_visible(timeout=PATIENCE)
    delete(page)


def test_twenty_tabs_of_one_link_make_one_machine(visit: Visit) -> None:
    """The instrument scientist's browser restores a window full of the same link, and each tab's button is pressed."""
    page = visit("Instrument scientist")
    tabs = [page.context.new_page() for _ in range(5)]
    for tab in tabs:
        tab.goto(f"/launch/{OPEN}")
    for tab in tabs:
        tab.get_by_role("button", name="Start the machine").click(no_wait_after=True)
    for tab in tabs:
        expect(tab).to_have_url(re.compile(r"/machines/"))

    assert len({tab.url for tab in tabs}) == 1
    tabs[0].bring_to_front()
    delete(tabs[0])


def test_without_script_the_page_tells_the_same(visit: Visit) -> None:
    """Signed in with scripts switched off: the machine's page brings itself up to date until the machine is ready."""
    page = visit("Team-mate", java_script_enabled=False)
    page.goto(f"/launch/{OPEN}")
    page.get_by_role("button", name="Start the machine").click()

    expect(page.get_by_role("link", name="Open the desktop")).to_be_visible(timeout=PATIENCE)

    delete(page)


def test_a_second_tab_is_told_of_what_the_first_did(visit: Visit) -> None:
    """The team-mate's first page lies open and asks nothing by itself: what happens to the machine is told to it."""
    page = visit("Team-mate")
    page.goto(f"/launch/{OTHER}")
    page.get_by_role("button", name="Start the machine").click()
    expect(page.get_by_role("link", name="Open the desktop")).to_be_visible(timeout=PATIENCE)
    other = page.context.new_page()
    other.goto("/")
    card = other.get_by_role("listitem").filter(has_text=OTHER)
    expect(card.get_by_text("Ready")).to_be_visible()

    page.get_by_role("button", name="Stop").click()
    expect(card.get_by_text("Stopped")).to_be_visible(timeout=PATIENCE)
    delete(page)

    expect(other.get_by_text(OTHER)).to_have_count(0, timeout=PATIENCE)
    expect(other.get_by_text("0 of 3 in use")).to_be_visible()


def test_without_the_feed_the_page_asks_by_itself(visit: Visit) -> None:
    """A proxy on the way lets no websocket through: the starting page still ends at the desktop's button."""
    page = visit("Team-mate")
    page.route_web_socket(re.compile("/ws/"), lambda socket: socket.close())
    page.goto(f"/launch/{OTHER}")
    page.get_by_role("button", name="Start the machine").click()

    expect(page.get_by_role("link", name="Open the desktop")).to_be_visible(timeout=PATIENCE)

    delete(page)
