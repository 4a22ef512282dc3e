"""The desktop's websocket: origin, ticket, grant, tunnel, presence and the cut.

A plain ASGI callable. It reads no cookie and decides nothing: a one-use ticket names a grant, `instances.grants` says
whether it holds, and says so again each second for all desktops of this process in one question. When it no longer
holds, or cannot be asked for 30 s, the machine's side is cut first and the browser is told after. A hint that a grant
was revoked only makes the next question come at once.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit
from uuid import UUID

from asgiref.sync import sync_to_async
from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope, WebSocketScope
from django.conf import settings
from django.db import DatabaseError, InterfaceError, close_old_connections

from instances import grants, revocations
from instances.desktop.rfb import RfbFault, Role
from instances.desktop.tunnel import Ending, MachineSilent, Target, Tunnel, open_machine

T = TypeVar("T")
log = logging.getLogger(__name__)

SUBPROTOCOL: Final = "visa.desktop"
TICKET_PREFIX: Final = "ticket."
ASK_SECONDS: Final = 1.0
#: the soonest after a question at which a hint brings the next, however many hints come
SOON_SECONDS: Final = 0.1
#: a question that the database has not answered by then (a lock, a server that hangs) counts as not answered
ANSWER_SECONDS: Final = 8.0
#: grants that could not be asked about for so long are taken to be gone
BLIND_SECONDS: Final = 30.0
SEEN_SECONDS: Final = 10.0
#: the server is told the same (`--ws-max-size`); this holds where it was not
MAX_MESSAGE: Final = 64 * 1024
#: a browser that takes nothing does not take the close either
CLOSE_SECONDS: Final = 5.0
CAUSE_UNKNOWN: Final = "fault"


class Close(IntEnum):
    """Close codes the page knows (4000 to 4999 are an application's own, RFC 6455 7.4.2)."""

    RULES = 4400
    TICKET = 4401
    REVOKED = 4403
    NO_MACHINE = 4404
    STALLED = 4408
    TOO_MANY = 4429
    MACHINE_SILENT = 4502
    TRY_LATER = 1013


_ENDINGS: Final = {
    Ending.BROWSER_LEFT: None,
    Ending.BROWSER_BROKE_RULES: Close.RULES,
    Ending.BROWSER_STALLED: Close.STALLED,
    Ending.MACHINE_ENDED: Close.MACHINE_SILENT,
    Ending.MACHINE_STALLED: Close.MACHINE_SILENT,
    Ending.CUT: Close.REVOKED,
}


async def desktop(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """One desktop connection, at `/ws/instances/<uuid:instance_id>/desktop/`."""
    scope = cast("WebSocketScope", scope)
    browser = _Browser(receive, send)
    instance_id = cast("dict[str, Any]", scope)["url_route"]["kwargs"]["instance_id"]
    await receive()  # websocket.connect
    offered = list(scope["subprotocols"])
    tickets = [one.removeprefix(TICKET_PREFIX) for one in offered if one.startswith(TICKET_PREFIX)]
    if not _is_ours(scope) or SUBPROTOCOL not in offered:
        log.warning("desktop of %s refused: origin or sub-protocol", instance_id)
        await browser.refuse()
        return
    code = await _serve(browser, instance_id, tickets[0] if len(tickets) == 1 else "")
    if code is not None:
        await browser.close(code)


async def _serve(browser: "_Browser", instance_id: UUID, ticket: str) -> Close | None:
    """From the ticket to the end of the tunnel; the code to close with, None where the browser has left."""
    admission = await _admission(instance_id, ticket)
    try:
        await browser.accept()
        if isinstance(admission, Close):
            log.info("desktop of %s refused: %s", instance_id, admission.name.lower())
            return admission
    except OSError:
        if not isinstance(admission, Close):
            await _note_end(admission, Ending.BROWSER_LEFT)
        return None
    return await _relay(browser, admission)


async def _admission(instance_id: UUID, ticket: str) -> grants.Pass | Close:
    if not ticket:
        return Close.TICKET
    try:
        return await _ask(grants.redeem, ticket, instance_id) or Close.TICKET
    except grants.TooMany:
        return Close.TOO_MANY
    except grants.NotThere:
        return Close.NO_MACHINE
    except (DatabaseError, InterfaceError) as error:
        log.warning("desktop of %s: the grants cannot be asked (%s)", instance_id, type(error).__name__)
        return Close.TRY_LATER


async def _relay(browser: "_Browser", admission: grants.Pass) -> Close | None:
    """Opens the machine and relays until the end, watched all the time."""
    target = Target(
        host=admission.host,
        port=admission.port,
        password=admission.password,
        certificate_pem=admission.certificate_pem,
        ranges=settings.ENVIRONMENT.desktop_ranges,
    )
    since = time.monotonic()
    open_desktop = _Open(admission)
    cause: str = CAUSE_UNKNOWN
    code: Close | None = Close.MACHINE_SILENT
    watch.add(open_desktop)
    try:
        async with open_machine(target) as machine:
            # A role that is not known here watches at most.
            role = Role.CONTROL if admission.role == Role.CONTROL else Role.VIEWER
            ending = await open_desktop.run(Tunnel(machine, browser, role))
            cause, code = ending, _ENDINGS[ending]
            if ending is Ending.CUT and open_desktop.blind:
                code = Close.TRY_LATER
    except MachineSilent as silence:
        cause = "machine_silent"
        log.warning("desktop of %s: %s", admission.instance_id, silence)
    finally:
        watch.remove(open_desktop)
        seconds = time.monotonic() - since
        log.info("desktop of %s ended after %.1f s: %s", admission.instance_id, seconds, cause)
        await _note_end(admission, cause)
    if code is Close.MACHINE_SILENT:
        await _note_silence(admission)
    return code


async def _note_end(admission: grants.Pass, cause: str) -> None:
    try:
        await _ask(grants.closed, admission.connection_id, cause)
    except (DatabaseError, InterfaceError):
        # The row ends by itself: it is not seen again.
        log.warning("the end of connection %s could not be noted", admission.connection_id)


async def _note_silence(admission: grants.Pass) -> None:
    """Whoever looks after the machine looks now, so that its page says what is so."""
    try:
        await _ask(grants.not_answering, admission.instance_id)
    except (DatabaseError, InterfaceError):
        log.warning("nobody could be told that the desktop of %s does not answer", admission.instance_id)


async def _ask(question: Callable[..., T], *arguments: object) -> T:
    """Asks the database in a thread of its own, so that one slow question does not hold up the others.

    Raises `DatabaseError` where there is no answer within `ANSWER_SECONDS`: whoever waits for a desktop is told then.
    """

    def ask() -> T:
        close_old_connections()
        try:
            return question(*arguments)
        finally:
            close_old_connections()

    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await sync_to_async(ask, thread_sensitive=False)()
    except TimeoutError as error:
        raise DatabaseError(f"no answer within {ANSWER_SECONDS:.0f} s") from error


@lru_cache(maxsize=4)
def origin_of(url: str) -> bytes:
    """The Origin header browsers send for pages of `url` (RFC 6454 6.2): scheme, host, and any but the usual port."""
    parts = urlsplit(url)
    host = (parts.hostname or "").encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    port = "" if parts.port in {None, usual} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}".encode()


def _is_ours(scope: WebSocketScope) -> bool:
    """Whether the page that opens this is ours: exactly one Origin, exactly the site's. Never derived from Host."""
    origins = [value for name, value in scope["headers"] if name.lower() == b"origin"]
    return origins == [origin_of(settings.SITE.url)]


class _Browser:
    """The viewer's websocket, as a tunnel sees one."""

    def __init__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self._receive = receive
        self._send = send

    async def refuse(self) -> None:
        """Answers 403 instead of a websocket."""
        with contextlib.suppress(OSError):
            await self._send({"type": "websocket.close", "code": 1008, "reason": ""})

    async def accept(self) -> None:
        # The ticket came as a sub-protocol too, and is not returned.
        await self._send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL, "headers": []})

    async def receive(self) -> bytes | str | None:
        event = await self._receive()
        if event["type"] != "websocket.receive":
            return None
        text, data = event.get("text"), event.get("bytes")
        message = data if text is None else text
        if message is None or len(message) > MAX_MESSAGE:
            raise RfbFault("the browser sent a message that is too long")
        return message

    async def send(self, data: bytes | str) -> None:
        is_text = isinstance(data, str)
        try:
            await self._send(
                {
                    "type": "websocket.send",
                    "bytes": None if is_text else cast("bytes", data),
                    "text": cast("str", data) if is_text else None,
                }
            )
        except RuntimeError as error:
            # The server closed the websocket by itself (no pong, a broken frame) and takes nothing any more.
            raise ConnectionResetError("the websocket is closed") from error

    async def close(self, code: Close) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._send({"type": "websocket.close", "code": int(code), "reason": code.name.lower()})


class _Open:
    """A desktop that is open, or is being opened."""

    def __init__(self, admission: grants.Pass) -> None:
        self.grant_id = admission.grant_id
        self.connection_id = admission.connection_id
        self.blind = False
        self._is_cut = False
        self._tunnel: Tunnel | None = None

    async def run(self, tunnel: Tunnel) -> Ending:
        """Runs the tunnel, unless the grant has ended while the machine was being opened."""
        if self._is_cut:
            return Ending.CUT
        self._tunnel = tunnel
        return await tunnel.run()

    def cut(self, *, blind: bool = False) -> None:
        """Ends it now; `blind` says that nobody knows whether the grant still holds."""
        self._is_cut = True
        self.blind = blind
        if self._tunnel is not None:
            self._tunnel.cut()


class _Watch:
    """Asks once a second whether the grants of all desktops of this process hold; runs while there is one."""

    def __init__(self) -> None:
        self._open: set[_Open] = set()
        self._task: asyncio.Task[None] | None = None
        #: somebody said that one of them was revoked, or may have said so, and it was not asked about since
        self._hint = asyncio.Event()

    def add(self, one: _Open) -> None:
        self._open.add(one)
        if self._task is None or self._task.done():
            self._hint = asyncio.Event()  # an event belongs to one loop, and each test has its own
            self._task = asyncio.create_task(self._run())

    def remove(self, one: _Open) -> None:
        self._open.discard(one)

    async def _run(self) -> None:
        # A task of its own, and one that may break: what it hears is worth a second and nothing else.
        listening = asyncio.create_task(revocations.listen(self._heard))
        try:
            await self._watch()
        finally:
            listening.cancel()
            # Whatever ended the watch: a desktop that nobody watches does not stay open.
            self._cut(self._open, blind=True)
            await asyncio.wait({listening})

    def _heard(self, revoked: frozenset[str] | None) -> None:
        if revoked is None or any(str(one.grant_id) in revoked for one in self._open):
            self._hint.set()

    async def _watch(self) -> None:
        good_at = seen_at = asked_at = time.monotonic()
        question: asyncio.Task[set[UUID]] | None = None
        asked: list[_Open] = []
        while self._open:
            begun = time.monotonic()
            if question is None:
                # Cleared before it is asked: what is said from here on may be newer than the answer.
                self._hint.clear()
                asked, asked_at = list(self._open), begun
                is_due = begun - seen_at >= SEEN_SECONDS
                seen_at = begun if is_due else seen_at
                question = asyncio.create_task(_ask(_still_good, asked, is_due))
            await asyncio.wait({question}, timeout=ASK_SECONDS)
            if question.done():
                try:
                    good = question.result()
                    good_at = asked_at  # an answer is as old as its question
                    self._cut({one for one in asked if one.grant_id not in good})
                except (DatabaseError, InterfaceError) as error:
                    log.warning("the grants cannot be asked (%s)", type(error).__name__)
                question = None
            if time.monotonic() - good_at > BLIND_SECONDS:
                log.error("the grants could not be asked for %d s: every desktop is cut", BLIND_SECONDS)
                self._cut(self._open, blind=True)
            await self._next(begun)
        if question is not None:
            question.cancel()

    async def _next(self, begun: float) -> None:
        """Waits until the next question is due: a second after the last, or soon after a hint."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, begun + ASK_SECONDS - time.monotonic())):
                await self._hint.wait()
        await asyncio.sleep(max(0.0, begun + SOON_SECONDS - time.monotonic()))

    def _cut(self, them: set[_Open], *, blind: bool = False) -> None:
        for one in list(them):
            one.cut(blind=blind)


def _still_good(them: list[_Open], note_them: bool) -> set[UUID]:
    """One question for all of them; now and then they are noted as open."""
    good = grants.still_good({one.grant_id for one in them})
    if note_them:
        grants.seen({one.connection_id for one in them})
    return good


#: the desktops of this process
watch = _Watch()
