"""Fixtures of the journeys: a real browser before a whole platform, in separate processes.

platform    what `deploy/demo` runs (tests/conftest.py): people, data, offers, desktops of this host
browser     Debian's Chromium, once for each file
visit       visit("scientist") -> a page signed in through the provider; visit() -> somebody signed out
accessible  accessible(page): no finding of axe, in light and dark; nothing wider than the window at 360 px
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from deploy.demo_platform import DemoPlatform
from deploy.processes import ROOT

CHROMIUM = "/usr/bin/chromium"
#: what keeps Chromium from asking the world for anything by itself
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = ROOT / "visa" / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
#: a scheme changes colours and nothing else, so that only they are looked at twice
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LOOKS: list[tuple[Literal["light", "dark"], list[str]]] = [("light", RULES), ("dark", ["color-contrast"])]
#: a desktop of this host is there within a few seconds; two busy cores may need many
PATIENCE = 90_000

Visit = Callable[..., Page]
Accessible = Callable[[Page], None]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for longer: Playwright's loop counts as running in this thread, and what is tested next may need its own.
    assert Path(CHROMIUM).exists(), "Chromium is missing: apt-get install chromium"
    expect.set_options(timeout=15_000)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()


def sign_in(page: Page, person: str) -> None:
    """On the provider's own page: who one is."""
    page.get_by_role("button", name=re.compile(rf"^{person}", re.IGNORECASE)).click()


@pytest.fixture
def visit(platform: DemoPlatform, browser: Browser) -> Iterator[Visit]:
    """A page of a browser of one's own; errors of scripts and refusals of the content policy end the test."""
    contexts: list[BrowserContext] = []
    trouble: list[str] = []

    def open_page(person: str = "", **options: object) -> Page:
        context = browser.new_context(base_url=platform.url, **options)  # type: ignore[arg-type]  # named by Playwright
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", note)
        if person:
            page.goto("/signin/")
            sign_in(page, person)
            expect(page.get_by_role("button", name="Sign out")).to_be_visible()
        return page

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            trouble.append(message.text)

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture
def accessible() -> Accessible:
    """Looks at the page as it stands."""

    def look(page: Page) -> None:
        # a click's way may still be under way, and between two pages there is nothing to look at
        expect(page.locator("body h1").first).to_be_attached()
        page.wait_for_load_state()
        page.evaluate(AXE.read_text(encoding="utf-8"))
        for scheme, rules in LOOKS:
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate("rules => axe.run(document, {runOnly: rules})", rules)
            faults = [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found["violations"]]
            assert (page.url, scheme, faults) == (page.url, scheme, [])
        before = page.viewport_size
        page.set_viewport_size({"width": 360, "height": 740})
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert (page.url, wide) == (page.url, 0)
        if before:
            page.set_viewport_size(before)

    return look
