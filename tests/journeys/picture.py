"""The README's picture, taken anew: `python -m tests.journeys.picture`, which starts a platform of its own.

It shows what a person sees: the desktop's page in Chromium, with a terminal that has looked at the data.
"""

import re

from playwright.sync_api import expect, sync_playwright

from deploy.processes import ROOT
from tests.journeys.conftest import CHROMIUM, PATIENCE, QUIET, sign_in
from tests.journeys.test_launch_and_connect import OPEN, see_a_picture
from tests.processes import whole_platform

TYPED = (
    "cd /data/10*; clear",
    "ls -l",
    "module load analysis; module list",
    "h5summary *1.nxs | tail -n 7",
    "touch mine",
)


def take() -> None:
    """Writes docs/screenshot.png."""
    with whole_platform() as platform, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(base_url=platform.url, viewport={"width": 1280, "height": 840})
        page.goto(f"/launch/{OPEN}")
        page.get_by_role("link", name="Sign in to analyse").click()
        sign_in(page, "Scientist")
        page.get_by_role("button", name="Start the machine").click()
        page.get_by_role("link", name="Open the desktop").click(timeout=PATIENCE)
        see_a_picture(page)
        expect(page.locator("canvas")).to_be_visible()
        page.get_by_label("Picture quality").select_option("Best")
        page.wait_for_timeout(8000)  # the terminal is the last to come, and says nothing outside its picture
        page.locator("canvas").click()
        for line in TYPED:
            page.keyboard.type(line + "\n", delay=15)
            page.wait_for_timeout(1500)
        (ROOT / "docs").mkdir(exist_ok=True)
        page.screenshot(path=ROOT / "docs" / "screenshot.png")
        page.get_by_role("link", name="Leave").click()
        page.get_by_role("link", name=re.compile("Delete this machine")).click()
        page.get_by_role("button", name="Delete it").click()
        browser.close()


if __name__ == "__main__":
    take()
