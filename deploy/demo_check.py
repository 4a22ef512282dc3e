"""The whole path, as a person goes it, without a browser: from a DOI link to a desktop that computes, and back.

Speaks to the platform by HTTP and websocket only. The dataset's file is made in this very run, so that nothing that
was there before can stand in for an answer.
"""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import requests
from typing_extensions import override
from websockets.exceptions import WebSocketException

from deploy import demo_data
from deploy.demo_platform import DemoPlatform
from deploy.viewer import Viewer, ViewerFault

Step = Callable[[str], AbstractContextManager[None]]

#: seconds until a desktop must be there: this machine's own, and an emulated one
PATIENCE = {"local": 60, "openstack": 600}
#: seconds until its terminal must answer
TERMINAL_PATIENCE = {"local": 60, "openstack": 300}
PERSON = "scientist"
#: a module of deploy/software, a command that only it brings, and what that answers
MODULE, MODULE_SAYS, MODULE_ANSWERS = "visa-sample", "type -P sample-hash", "/sample-hash"


class Failed(Exception):
    """The path does not go through; the text says where."""


@dataclass
class Form:
    """A form of a page, with what it would send as it stands."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class Forms(HTMLParser):
    """The forms of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Form] = []
        self._open = False
        self._select = ""
        self.feed(page)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(Form(said.get("action", ""), said.get("method", "get").lower()))
            self._open = True
        if not self._open:
            return
        form, name = self.found[-1], said.get("name", "")
        kind = said.get("type", "text")
        if tag == "select":
            self._select = name
        elif tag == "option" and self._select and ("selected" in said or self._select not in form.fields):
            form.fields[self._select] = said.get("value", "")
        elif (tag == "input" and kind == "submit") or (tag == "button" and said.get("type", "submit") == "submit"):
            form.buttons.append((name, said.get("value", "")))
        elif tag == "input" and name and (kind not in {"radio", "checkbox"} or "checked" in said):
            form.fields[name] = said.get("value", "")

    @override
    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = False
        elif tag == "select":
            self._select = ""


class Visitor:
    """A person with a browser that has no window."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False

    def get(self, address: str, *, expect: int = 200) -> requests.Response:
        return self._checked(self.session.get(urljoin(self.url, address), timeout=30), expect)

    def send(self, page: requests.Response, form: Form, *, expect: int = 200, **more: str) -> requests.Response:
        headers = {"Referer": page.url, "Origin": "{0.scheme}://{0.netloc}".format(urlsplit(page.url))}
        target = urljoin(page.url, form.action)
        return self._checked(
            self.session.post(target, data={**form.fields, **more}, headers=headers, timeout=30), expect
        )

    def api(self, method: str, address: str) -> requests.Response:
        headers = {"Referer": self.url, "Origin": self.url, "X-CSRFToken": self.session.cookies.get("visa-csrf") or ""}
        return self.session.request(method, urljoin(self.url, address), headers=headers, timeout=30)

    @staticmethod
    def _checked(answer: requests.Response, expect: int) -> requests.Response:
        if answer.status_code != expect:
            words = re.sub(r"<[^>]+>|\s+", " ", answer.text)
            where = f"{answer.request.method} {answer.url}"
            raise Failed(f"{where} answered {answer.status_code}: {re.sub(' +', ' ', words)[:300]}")
        return answer


def form_of(page: requests.Response, wanted: Callable[[Form], bool], what: str) -> Form:
    """The one form of the page that is wanted."""
    forms = [form for form in Forms(page.text).found if form.method == "post" and wanted(form)]
    if len(forms) != 1:
        raise Failed(f"{page.url} shows {len(forms)} forms to {what}; one was expected")
    return forms[0]


def sign_in(visitor: Visitor, person: str, *, back_to: str) -> requests.Response:
    """Through the provider, as this person; returns the page that was asked for."""
    chooser = visitor.get(f"/signin/?next={quote(back_to, safe='')}")
    form = form_of(chooser, lambda form: any(name == "person" for name, _ in form.buttons), "choose a person")
    page = visitor.send(chooser, form, person=person)
    if urlsplit(page.url).path.rstrip("/") != back_to.rstrip("/"):
        raise Failed(f"signing in ended at {page.url} and not at {back_to}")
    return page


def launch(visitor: Visitor, address: str) -> str:
    """Signed out the link says what it is about; signed in it has one button. Returns the machine's id."""
    visitor.get(address)
    page = sign_in(visitor, PERSON, back_to=address)
    before = visitor.api("GET", "/api/v1/instances/").json()
    if before:
        raise Failed(f"opening the link made {len(before)} machines, before anything was pressed")
    form = form_of(page, lambda form: "launch" in urljoin(page.url, form.action), "launch")
    machine = visitor.send(page, form)
    found = re.search(r"/machines/([0-9a-f-]{36})/", machine.url)
    if not found:
        raise Failed(f"launching ended at {machine.url}, which is no machine's page")
    return found[1]


def until_active(visitor: Visitor, machine: str, seconds: float) -> dict[str, Any]:
    """Look at the machine until its desktop is ready."""
    until = time.monotonic() + seconds
    while True:
        said: dict[str, Any] = visitor.get(f"/api/v1/instances/{machine}/").json()
        if said["state"] == "active":
            return said
        if said["state"] in {"error", "gone"} or time.monotonic() > until:
            raise Failed(
                f"the machine is {said['state']} after {seconds:.0f} s at most: {said.get('reason') or 'no reason'}"
            )
        time.sleep(0.25)


def for_staff(platform: DemoPlatform, machine: str) -> str:
    """What the cloud said of this machine, in its own words."""
    rows = f"from instances.models import Instance; print(Instance.objects.get(id='{machine}').reason_detail)"
    return platform.run("-c", f"import django; django.setup(); {rows}").strip() or "nothing"


def has_a_picture(pixels: bytes) -> bool:
    """Whether it is more than one colour."""
    return len({pixels[place : place + 3] for place in range(0, len(pixels), 4)}) > 1


async def work(visitor: Visitor, machine: str, command: str, *, patience: float = 60) -> tuple[str, str]:
    """Open the desktop, look, type `command` into its terminal; what came into the clipboard, and the screen's size.

    `patience`: seconds until the terminal must answer, and again until the command must have.
    """
    answer = visitor.api("POST", f"/api/v1/instances/{machine}/tickets/")
    if answer.status_code not in {200, 201}:
        raise Failed(f"asking for a ticket answered {answer.status_code}: {answer.text[:200]}")
    ticket = answer.json()
    address = visitor.url.replace("http", "ws", 1) + ticket["path"]
    async with Viewer.connect(address, origin=visitor.url, ticket=ticket["ticket"]) as viewer:
        until = time.monotonic() + patience
        while True:
            width, height, pixels = await viewer.picture()
            if has_a_picture(pixels):
                break
            if time.monotonic() > until:
                raise Failed(f"the desktop's picture of {width} × {height} stays of one colour")
            await asyncio.sleep(0.25)
        # A shell that has just been opened may drop what is typed before its prompt: ask shortly until it answers.
        for number in range(round(patience / 3)):
            await viewer.type(f"echo visa-ready-{number} | xclip -selection clipboard\n")
            if await heard(viewer, f"visa-ready-{number}", seconds=3):
                break
        else:
            raise Failed("the terminal in the desktop does not answer")
        await viewer.type(command + "\n")
        answer_text = await heard(viewer, "visa-check", seconds=patience)
        return answer_text, f"{width} × {height}"


async def heard(viewer: Viewer, words: str, *, seconds: float) -> str:
    """The clipboard's text that holds these words; empty where none comes in time."""
    try:
        async with asyncio.timeout(seconds):
            while words not in (text := await viewer.clipboard(seconds=seconds)):
                pass
    except TimeoutError:
        return ""
    return text


def all_gone(visitor: Visitor, machine: str, seconds: float) -> None:
    """Delete, and look until nothing is left and nothing counts."""
    answer = visitor.api("DELETE", f"/api/v1/instances/{machine}/")
    if answer.status_code != 202:
        raise Failed(f"deleting answered {answer.status_code}: {answer.text[:200]}")
    until = time.monotonic() + seconds
    while True:
        left = visitor.api("GET", "/api/v1/instances/").json()
        used = visitor.api("GET", "/api/v1/allowance/").json()["used"]
        if not left and not any(used.values()):
            return
        if time.monotonic() > until:
            raise Failed(f"after the deletion {len(left)} machines are left, and {used} counts")
        time.sleep(0.25)


def run(platform: DemoPlatform, step: Step) -> None:
    """The path, once; raises `Failed` with the place where it does not go through."""
    visitor = Visitor(platform.url)
    dataset = demo_data.CHECKED
    kind = "openstack" if platform.openstack else "local"
    patience = PATIENCE[kind]
    content, sentinel = secrets.token_bytes(100_000), secrets.token_hex(4)
    file = platform.directory / "data" / dataset.path / f"check-{sentinel}.bin"
    file.write_bytes(content)
    file.chmod(0o644)
    with step("The link, sign-in, launch"):
        machine = launch(visitor, f"/launch/{dataset.doi}")
    with step("The desktop is ready"):
        try:
            said = until_active(visitor, machine, patience)
        except Failed as error:
            raise Failed(f"{error} For staff: {for_staff(platform, machine)}") from error
    place = said["mounts"][0]["target"]
    command = (
        f"module load {MODULE};"
        f' printf "%s\\n" visa-check-{sentinel} "$(sha256sum {place}/{file.name})" "$({MODULE_SAYS})"'
        f' "$(touch {place}/x 2>&1 && echo written)" | xclip -selection clipboard'
    )
    with step("Picture, module, hash, write, by keys"):
        try:
            told, size = asyncio.run(work(visitor, machine, command, patience=TERMINAL_PATIENCE[kind]))
        except (ViewerFault, WebSocketException, TimeoutError, OSError) as error:
            raise Failed(f"the desktop's connection: {type(error).__name__} {error}") from error
    compare(told, file=file, place=place, content=content, sentinel=sentinel, module=MODULE_ANSWERS)
    with step("Deleted, and nothing left"):
        all_gone(visitor, machine, patience)
        if not platform.openstack:
            left = [entry.name for entry in Path(platform.directory / "machines").iterdir() if machine in entry.name]
            if left:
                raise Failed(f"the embedded cloud still holds {left}")
    print(f"    a desktop of {size} pixels hashed {file.name} at {place} and could not write there", flush=True)


def compare(told: str, *, file: Path, place: str, content: bytes, sentinel: str, module: str) -> None:
    """Whether the terminal's answers are the right ones."""
    lines = (told.splitlines() + 4 * [""])[:4]
    expected = hashlib.sha256(content).hexdigest()
    if lines[0] != f"visa-check-{sentinel}":
        raise Failed(f"the clipboard holds {lines[0]!r}, which is not this run's")
    if lines[1].split()[:1] != [expected]:
        raise Failed(f"the desktop hashed {file.name} to {lines[1]!r}; it is {expected}")
    if module not in lines[2]:
        raise Failed(f"the loaded module answered {lines[2]!r}; {module!r} was expected")
    if "Read-only file system" not in lines[3]:
        raise Failed(f"writing to {place} ended with {lines[3]!r}; it should be refused by a read-only file system")
