"""`python -m deploy.screenshot`: docs/screenshot.png, from a demo of its own, by Chromium (of deploy/test)."""

import sys
import time

from playwright.sync_api import Page, sync_playwright

from deploy import demo_data, processes
from deploy.demo_platform import DemoPlatform
from deploy.processes import ROOT
from deploy.steps import step

CHROMIUM = "/usr/bin/chromium"
#: what keeps Chromium from asking the world for anything by itself
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
WORK = "module load analysis\nls /data/*\nh5summary /data/*/scattering-01.nxs | head -n 18\n"


def desktop(page: Page) -> None:
    """From the link to a desktop in which somebody works."""
    page.goto("/signin/")
    page.get_by_role("button", name="Scientist").first.click()
    page.goto(f"/launch/{demo_data.CHECKED.doi}")
    page.get_by_role("button", name="Start the machine").click()
    page.get_by_role("link", name="Open the desktop").click(timeout=60_000)
    page.locator("canvas").wait_for(timeout=60_000)
    time.sleep(4)  # until panel and terminal are drawn: nothing tells
    page.locator("canvas").click(position={"x": 400, "y": 300})
    page.keyboard.type(WORK, delay=25)
    time.sleep(3)  # until the summary is printed: nothing tells


def main() -> int:
    platform = DemoPlatform(
        ROOT / ".visa" / "screenshot", port=processes.free_port(), environment="screenshot", step=step, durable=False
    )
    platform.clear()
    try:
        with platform, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            page = browser.new_page(base_url=platform.url, viewport={"width": 1280, "height": 860})
            desktop(page)
            page.screenshot(path=ROOT / "docs" / "screenshot.png")
            browser.close()
    finally:
        platform.clear()
    return 0


if __name__ == "__main__":
    sys.exit(main())
