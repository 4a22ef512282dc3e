"""The desktop's page in a real browser: pixels in the canvas, the bar by keyboard, the clipboard, what it says when."""

import asyncio
import contextlib
import itertools
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import pytest
from django.conf import settings
from django.test import Client
from playwright.async_api import Page, ViewportSize, async_playwright, expect

from deploy.processes import ROOT
from instances import grants
from instances.lifecycle import Seen, State, Wanted
from instances.models import Connection, Instance
from tests.gateway import WebProcess
from tests.instances.desktop.conftest import Desk, in_database
from tests.vnc import VncMachine, vnc_machine

CHROMIUM = "/usr/bin/chromium"
AXE = ROOT / "visa" / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
PIXEL = """([x, y]) => {
    const canvas = document.querySelector("#screen canvas");
    if (!canvas || canvas.width < 300) return null;
    return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
}"""

#: keeps what the page says, and how many ms after it was opened: a sentence may stand for a quarter of a second only
SAID = """new MutationObserver(() => {
    const text = document.querySelector("#said")?.textContent;
    const said = JSON.parse(sessionStorage.said ?? "[]");
    if (text && said.at(-1)?.[0] !== text) sessionStorage.said = JSON.stringify([...said, [text, performance.now()]]);
}).observe(document, { childList: true, subtree: true, characterData: true });"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VncMachine]:
    with vnc_machine(tmp_path_factory.mktemp("vnc"), width=800, height=600) as running:
        yield running


@pytest.fixture(scope="module")
def web(django_db_setup: None, _page_parts: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    process = WebProcess(tmp_path_factory.mktemp("web") / "log")
    process.start()
    yield process
    process.stop()


def _cookie(desk: Desk) -> str:
    client = Client()
    client.force_login(desk.owner, backend="visa.accounts.oidc.Backend")
    return client.cookies[settings.SESSION_COOKIE_NAME].value


@contextlib.asynccontextmanager
async def opened(
    desk: Desk, machine: VncMachine, web: WebProcess, *, width: int = 1280, port: int = 0, waits: bool = True
) -> AsyncIterator[Page]:
    """The page of the machine's desktop, its owner signed in; errors of scripts and of the policy end the test.

    Not `waits`: it is handed out as soon as its text is there, whatever else it asks for.
    """
    await desk.stands_at(machine.port, machine.secret)
    cookie = await in_database(_cookie, desk)
    trouble: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--host-resolver-rules=MAP testserver 127.0.0.1:{port or web.port}",
                # as the site's https would be, and loopback is
                "--unsafely-treat-insecure-origin-as-secure=http://testserver",
            ],
        )
        context = await browser.new_context(viewport=ViewportSize(width=width, height=800))
        await context.add_cookies(
            [{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "domain": "testserver", "path": "/"}]
        )
        page = await context.new_page()
        await page.add_init_script(SAID)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "console",
            lambda message: (
                trouble.append(message.text)
                if message.type == "error"
                and not re.search("Failed to load resource|WebSocket connection", message.text)
                else None
            ),
        )
        until: Literal["load", "commit"] = "load" if waits else "commit"
        await page.goto(f"http://testserver/machines/{desk.instance_id}/desktop/", wait_until=until)
        yield page
        await browser.close()
    assert trouble == []


async def comes_true(page: Page, expression: str, *, seconds: float = 20) -> None:
    """Waits until the expression holds in the page. Asked from here: the content policy lets no page evaluate texts."""
    deadline = time.monotonic() + seconds
    while not await page.evaluate(expression):
        assert time.monotonic() < deadline, f"{expression} did not come true in {seconds} s"
        await page.wait_for_timeout(100)


async def connected(page: Page) -> None:
    await expect(page.locator("#veil")).to_be_hidden(timeout=20_000)
    await comes_true(page, f"({PIXEL})([5, 5]) !== null")


async def shows(page: Page, colour: tuple[int, int, int], *, at: tuple[int, int]) -> None:
    """Waits until the canvas has the colour there; JPEG may be off by a few grey values until it is refined."""
    near = f"(() => {{ const p = ({PIXEL})({list(at)}); const c = {list(colour)};"
    near += " return p && p.every((value, i) => Math.abs(value - c[i]) <= 3) })()"
    await comes_true(page, near)


async def test_the_canvas_shows_the_machines_pixels(desk: Desk, machine: VncMachine, web: WebProcess) -> None:
    async with opened(desk, machine, web) as page:
        await connected(page)
        for at in [(0, 0), (1, 0), (15, 7), (100, 101), (799, 599)]:
            await shows(page, machine.pixel(*at), at=at)

        assert await page.title() == "desk · Desktop · VISA"
        await expect(page.locator("#quality-state")).to_have_text("Picture: sharp")


async def test_the_clipboard_goes_both_ways_and_only_by_a_click(
    desk: Desk, machine: VncMachine, web: WebProcess
) -> None:
    async with opened(desk, machine, web) as page:
        await connected(page)
        await page.get_by_role("button", name="Clipboard").click()
        await page.get_by_label("To the desktop", exact=True).fill("Grüße, π")
        await page.get_by_role("button", name="Send to the desktop").click()
        await expect(page.locator("#clip-said")).to_contain_text("cannot hold")
        held = await asyncio.to_thread(machine.run, "xclip", "-o", "-selection", "clipboard", LC_ALL="C.UTF-8")
        assert held.stdout.decode() == "Grüße, ?"

        holder = await hold(machine, "<b>from the desktop</b>")
        await expect(page.get_by_label("From the desktop")).to_have_value("<b>from the desktop</b>")
        holder.terminate()
        await holder.wait()

        await page.get_by_label("To the desktop", exact=True).fill("x" * (256 * 1024 + 1))
        await page.get_by_role("button", name="Send to the desktop").click()
        await expect(page.locator("#clip-said")).to_contain_text("too long")
        await page.keyboard.press("Escape")
        await expect(page.locator("#clipboard")).to_be_hidden()
        await expect(page.get_by_role("button", name="Clipboard")).to_be_focused()


async def hold(machine: VncMachine, text: str) -> asyncio.subprocess.Process:
    """An X client that owns the desktop's clipboard."""
    holder = await asyncio.create_subprocess_exec(
        "xclip", "-i", "-selection", "clipboard", "-quiet", env={"DISPLAY": machine.display, "LC_ALL": "C.UTF-8"},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert holder.stdin is not None
    holder.stdin.write(text.encode())
    holder.stdin.close()
    return holder


async def test_keys_go_to_the_desktop_and_one_combination_leads_back(
    desk: Desk, machine: VncMachine, web: WebProcess, tmp_path: Path
) -> None:
    told = tmp_path / "typed"
    script = f'IFS= read -r line; printf %s "$line" > {told}.part; mv {told}.part {told}; cat'
    terminal = await asyncio.create_subprocess_exec(
        "xterm", "-geometry", "80x30+0+0", "-e", "sh", "-c", script,
        env={"DISPLAY": machine.display, "PATH": "/usr/bin:/bin"}, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with opened(desk, machine, web) as page:
            await connected(page)
            await shows(page, (255, 255, 255), at=(300, 200))
            await page.locator("#screen canvas").click(position={"x": 200, "y": 200})
            await page.keyboard.press("Control+Alt+Shift+B")
            await expect(page.get_by_role("button", name="Bar")).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("button", name="Bar")).to_have_attribute("aria-expanded", "false")
            await expect(page.get_by_role("link", name="Leave")).to_be_hidden()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("link", name="Leave")).to_be_visible()
            await page.locator("#screen canvas").click(position={"x": 200, "y": 200})
            # were a modifier still held, these would not be plain letters
            await page.keyboard.type("plain letters\n")
            async with asyncio.timeout(10):
                while not told.exists():  # noqa: ASYNC110 - another process writes it
                    await asyncio.sleep(0.02)
    finally:
        terminal.terminate()
        await terminal.wait()
    assert told.read_text() == "plain letters"


async def test_fit_and_one_to_one(desk: Desk, machine: VncMachine, web: WebProcess) -> None:
    async with opened(desk, machine, web, width=500) as page:
        await connected(page)
        canvas = page.locator("#screen canvas")
        box = await canvas.bounding_box()
        assert box is not None
        assert box["width"] <= 500
        await page.get_by_role("button", name="Fit").click()
        await expect(page.get_by_role("button", name="Fit")).to_have_attribute("aria-pressed", "false")
        box = await canvas.bounding_box()
        assert box is not None
        assert box["width"] == machine.width


async def test_a_lost_connection_comes_back_by_itself(desk: Desk, machine: VncMachine, web: WebProcess) -> None:
    async with opened(desk, machine, web) as page:
        await connected(page)
        await asyncio.to_thread(web.stop)
        await expect(page.locator("#said")).to_contain_text("again")
        web.start()  # in this thread: the process ends with the thread that started it
        await connected(page)
        rows = await in_database(Connection.objects.count)
        assert rows == 2


@contextlib.asynccontextmanager
async def thin_line(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A line of some 100 kB/s towards the browser, with little room in between; and the event that widens it."""
    wide = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port, limit=8192)
        writer.transport.set_write_buffer_limits(high=4096)
        jobs = [asyncio.create_task(up(reader, far_writer)), asyncio.create_task(down(far_reader, writer))]
        await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        far_writer.transport.abort()
        writer.transport.abort()

    async def up(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(4096):
            sink.write(data)
            await sink.drain()

    async def down(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536 if wide.is_set() else 4096):
            sink.write(data)
            await sink.drain()
            if not wide.is_set():
                await asyncio.sleep(0.04)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        # the page's parts come over it at first
        wide.set()
        yield server.sockets[0].getsockname()[1], wide


async def test_the_picture_is_softened_on_a_slow_line_and_sharp_again_after(
    desk: Desk, machine: VncMachine, web: WebProcess, tmp_path: Path
) -> None:
    dice = random.Random(7)  # noqa: S311 - noise to draw
    for number in range(8):
        rows = ", ".join(hex(dice.randrange(256)) for _ in range(32 * 256))
        (tmp_path / f"{number}.xbm").write_text(
            f"#define n_width 256\n#define n_height 256\nstatic unsigned char n_bits[] = {{\n{rows} }};\n"
        )

    async def draw() -> None:
        for number in itertools.cycle(range(8)):
            await asyncio.to_thread(machine.run, "xsetroot", "-bitmap", str(tmp_path / f"{number}.xbm"))
            await asyncio.sleep(0.1)

    state = "#quality-state"
    async with thin_line(web.port) as (port, wide), opened(desk, machine, web, port=port) as page:
        await connected(page)
        await expect(page.locator(state)).to_have_text("Picture: sharp")
        wide.clear()
        drawing = asyncio.create_task(draw())
        await expect(page.locator(state)).to_have_text("Picture softened: slow line", timeout=20_000)
        drawing.cancel()
        wide.set()
        await expect(page.locator(state)).to_have_text("Picture: sharp", timeout=40_000)
        await page.get_by_label("Picture quality").select_option("2")
        await expect(page.locator(state)).to_have_text("Picture: as you chose")


@contextlib.asynccontextmanager
async def swallowing_line(port: int, request: bytes, *, opened: bool) -> AsyncIterator[int]:
    """A line on which the first such request of a browser is never answered, or (`opened`) by the head alone."""
    left = 1

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        is_silent = False

        async def up() -> None:
            nonlocal left, is_silent
            while data := await reader.read(65536):
                if left and re.match(request, data):
                    left, is_silent = left - 1, True
                if opened or not is_silent:
                    far_writer.write(data)

        async def down() -> None:
            said = b""
            while data := await far_reader.read(65536):
                if not is_silent:
                    writer.write(data)
                elif b"\r\n\r\n" not in said:
                    said += data
                    head, end, _ = said.partition(b"\r\n\r\n")
                    if end:
                        writer.write(head + end)
            if is_silent:  # the platform gives an idle connection up, and not even that is told
                await asyncio.Event().wait()

        jobs = [asyncio.create_task(up()), asyncio.create_task(down())]
        await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        far_writer.transport.abort()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    assert left == 0, "nothing was swallowed"


@pytest.mark.parametrize(
    ("request_line", "answered", "sentence"),
    [
        (b"POST /api/v1/", False, "The platform cannot answer right now"),
        (b"POST /api/v1/", True, "The platform cannot answer right now"),
        (b"GET /ws/", False, "The desktop does not answer yet"),
        (b"GET /ws/", True, "The desktop does not answer yet"),
        (b"GET /static/novnc/core/rfb.", False, "The platform cannot answer right now"),
        (rb"GET /static/visa/desktop[.\w]*[.]js ", False, "This takes longer than it should"),
    ],
    ids=["ticket", "ticket-half", "websocket", "gateway", "viewer", "script"],
)
async def test_whatever_is_never_answered_the_page_says_so_and_tries_again(
    desk: Desk, machine: VncMachine, web: WebProcess, request_line: bytes, answered: bool, sentence: str
) -> None:
    async with (
        swallowing_line(web.port, request_line, opened=answered) as port,
        opened(desk, machine, web, port=port, waits=False) as page,
    ):
        late = page.locator(".late")
        if "longer" in sentence:  # without its script a page does nothing by itself
            await comes_true(page, "document.styleSheets.length === 1")
            await expect(late).to_be_hidden()
            await expect(late).to_be_visible(timeout=40_000)
            await expect(late).to_contain_text(sentence)
            await page.reload()
        await connected(page)
        await expect(late).to_be_hidden()
        said = await page.evaluate("JSON.parse(sessionStorage.said)")
        assert [one for one, after in said if one.startswith(sentence) and after < 20_000] or "longer" in sentence, said


def _stop(desk: Desk) -> None:
    Instance.objects.filter(id=desk.instance_id).update(
        wanted=Wanted.STOPPED, seen=Seen.STOPPED, state=State.STOPPED, desktop_host=None
    )


def _revoke(desk: Desk) -> None:
    grants.revoke_machine(desk.instance_id, cause="revoked")


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [(_revoke, "Your access to this desktop has ended."), (_stop, "The machine is not running any more")],
    ids=["revoked", "stopped"],
)
async def test_when_access_ends_the_page_says_why_and_stays_away(
    desk: Desk, machine: VncMachine, web: WebProcess, cause: object, sentence: str
) -> None:
    assert callable(cause)
    async with opened(desk, machine, web) as page:
        await connected(page)
        await in_database(cause, desk)
        await expect(page.locator("#said")).to_contain_text(sentence, timeout=5000)
        await asyncio.sleep(2)
        assert await in_database(Connection.objects.count) == 1
        await expect(page.locator("#said")).to_contain_text(sentence)
        await expect(page.get_by_role("link", name="Back to the machine")).to_be_visible()


async def test_signed_out_elsewhere_the_page_offers_to_sign_in(
    desk: Desk, machine: VncMachine, web: WebProcess
) -> None:
    async with opened(desk, machine, web) as page:
        await connected(page)
        await page.context.clear_cookies()
        await in_database(_revoke, desk)
        await expect(page.locator("#said")).to_contain_text("You are signed out", timeout=5000)
        way = page.get_by_role("link", name="Sign in again")
        await expect(way).to_have_attribute("href", re.compile("next=.*desktop"))


@pytest.mark.parametrize("width", [360, 1440])
async def test_the_page_is_accessible_and_fits(desk: Desk, machine: VncMachine, web: WebProcess, width: int) -> None:
    async with opened(desk, machine, web, width=width) as page:
        await connected(page)
        await page.get_by_role("button", name="Clipboard").click()
        for part in ("open", "closed"):
            await page.evaluate(AXE.read_text(encoding="utf-8"))
            found = await page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
            faults = [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found["violations"]]
            assert (part, faults) == (part, [])
            if part == "open":
                await page.get_by_role("button", name="Clipboard").click()
        wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0
