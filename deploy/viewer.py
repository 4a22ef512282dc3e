"""A desktop viewer without a window: speaks RFB 3.8 through the platform's websocket, as the page in the browser does.

For `deploy/demo --check`, for diagnosis and for tests. It asks for Raw pixels only, so that what it returns is exactly
what the machine drew. Needs nothing but asyncio and `websockets`.

    async with Viewer.connect(url, origin="http://127.0.0.1:8000", ticket=ticket) as viewer:
        width, height, pixels = await viewer.picture()
        await viewer.type("echo hello\\n")

Sources: RFC 6143 (RFB 3.8) and the community's rfbproto.rst for the pseudo-encodings.
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Iterable

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

SUBPROTOCOL = "visa.desktop"
RAW, COPY_RECT, DESKTOP_SIZE, LAST_RECT = 0, 1, -223, -224
ENCODINGS = (RAW, COPY_RECT, DESKTOP_SIZE, LAST_RECT)
#: X keysyms of characters that are keys of their own
KEYS = {"\n": 0xFF0D, "\t": 0xFF09, "\b": 0xFF08, "\x1b": 0xFF1B}
#: the platform passes at most 200 key events a second; a character is two of them
KEY_PAUSE = 0.012
#: the platform takes websocket messages of at most 64 KiB
CHUNK = 32 * 1024


class ViewerFault(Exception):
    """The other side did not speak RFB as it should, or ended the connection; the message says which."""


class Viewer:
    """One open desktop. Made by `Viewer.connect`; all methods may be called from one event loop only."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.width = 0
        self.height = 0
        self.name = ""
        self._websocket = websocket
        self._buffer = bytearray()
        self._pixels = bytearray()
        self._updates = 0
        self._cuts: asyncio.Queue[str] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._fault: ViewerFault | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        origin: str | None,
        ticket: str,
        tls: ssl.SSLContext | None = None,
        extra_headers: Iterable[tuple[str, str]] = (),
        timeout: float = 20,  # noqa: ASYNC109 - a limit for the handshake alone, not for the block of the caller
    ) -> AsyncIterator["Viewer"]:
        """Opens the desktop at `url` (ws:// or wss://) with a one-use ticket, and closes it at the end of the block.

        `timeout` is in seconds and holds for the handshake. Raises `ViewerFault` where the RFB handshake fails, and
        the exceptions of `websockets` where the platform refuses the websocket (`InvalidStatus` with its HTTP status,
        `ConnectionClosed` with its close code).
        """
        protocols = [Subprotocol(SUBPROTOCOL), Subprotocol(f"ticket.{ticket}")]
        async with open_websocket(
            url,
            origin=Origin(origin) if origin is not None else None,
            subprotocols=protocols,
            additional_headers=list(extra_headers),
            compression=None,
            proxy=None,
            max_size=None,
            max_queue=4,
            open_timeout=timeout,
            ssl=tls,
        ) as websocket:
            if websocket.subprotocol != SUBPROTOCOL:
                raise ViewerFault(f"the platform answered the sub-protocol {websocket.subprotocol!r}")
            viewer = cls(websocket)
            async with asyncio.timeout(timeout):
                await viewer._handshake()
            reader = asyncio.create_task(viewer._read())
            try:
                yield viewer
            finally:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reader

    async def picture(self, *, seconds: float = 20) -> tuple[int, int, bytes]:
        """The whole screen now: width, height and 4 bytes a pixel (red, green, blue, unused), rows from the top.

        Raises `ViewerFault` when the connection ends first, TimeoutError after `seconds`.
        """
        async with asyncio.timeout(seconds), self._changed:
            seen = self._updates
            await self._request(incremental=False)
            await self._changed.wait_for(lambda: self._updates > seen or self._fault)
            if self._fault is not None:
                raise self._fault
            return self.width, self.height, bytes(self._pixels)

    async def type(self, text: str) -> None:
        """Types `text`, key by key, slowly enough for the platform's limit; a newline is the Return key."""
        for character in text:
            await self.key(_keysym(character), down=True)
            await self.key(_keysym(character), down=False)
            await asyncio.sleep(KEY_PAUSE)

    async def key(self, keysym: int, *, down: bool) -> None:
        """One key, by its X keysym, pressed or let go."""
        await self.send(struct.pack("!BBHI", 4, down, 0, keysym))

    async def pointer(self, x: int, y: int, *, buttons: int = 0) -> None:
        """The pointer at (x, y) in pixels from the top left; `buttons` is the mask of RFC 6143 7.5.5."""
        await self.send(struct.pack("!BBHH", 5, buttons, x, y))

    async def cut(self, text: str) -> None:
        """Puts `text` into the desktop's clipboard: Latin-1 (RFC 6143 7.5.6), else UnicodeEncodeError is raised."""
        data = text.encode("latin-1")
        await self.send(struct.pack("!BxxxI", 6, len(data)) + data)

    async def clipboard(self, *, seconds: float = 20) -> str:
        """The next text the desktop puts into its clipboard, oldest first. Raises ViewerFault, TimeoutError."""
        next_cut = asyncio.create_task(self._cuts.get())
        ended = asyncio.create_task(self._ended())
        try:
            await asyncio.wait({next_cut, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if next_cut.done():
                return next_cut.result()
            if self._fault is not None:
                raise self._fault
            raise TimeoutError(f"nothing came into the clipboard in {seconds:g} s")
        finally:
            next_cut.cancel()
            ended.cancel()

    async def closed(self, *, seconds: float = 20) -> int:
        """Waits until the platform ends the connection and returns the websocket's close code. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await self._ended()
            await self._websocket.wait_closed()
        return self._websocket.close_code or 1006

    async def send(self, data: bytes) -> None:
        """Sends bytes of the RFB stream as they are. Raises `ViewerFault` when the connection has ended."""
        try:
            for start in range(0, len(data), CHUNK):
                await self._websocket.send(data[start : start + CHUNK])
        except ConnectionClosed as ended:
            raise ViewerFault(f"the platform ended the connection: {ended}") from ended

    async def mark(self, text: str) -> None:
        """Sends a text message, as the page's quality marks are. Answers to them are ignored."""
        await self._websocket.send(text)

    async def _handshake(self) -> None:
        """Version, security type None, ClientInit, ServerInit (RFC 6143 7.1 to 7.3), then our pixel format."""
        if await self._take(12) != b"RFB 003.008\n":
            raise ViewerFault("the platform does not speak RFB 3.8")
        await self.send(b"RFB 003.008\n")
        kinds = await self._take((await self._take(1))[0])
        if kinds != b"\x01":
            raise ViewerFault(f"the platform offers the security types {list(kinds)} instead of None alone")
        await self.send(b"\x01")
        if (result := await self._number("!I")) != 0:
            raise ViewerFault(f"the platform refuses, with security result {result}")
        await self.send(b"\x01")
        self.width, self.height = struct.unpack("!HH", await self._take(4))
        await self._take(16)
        self.name = (await self._take(await self._number("!I"))).decode("utf-8")
        self._pixels = bytearray(self.width * self.height * 4)
        await self.send(struct.pack("!Bxxx BBBB HHH BBB xxx", 0, 32, 24, 0, 1, 255, 255, 255, 0, 8, 16))
        await self.send(struct.pack(f"!BxH{len(ENCODINGS)}i", 2, len(ENCODINGS), *ENCODINGS))

    async def _read(self) -> None:
        """Reads what the machine sends until the end, and tells everybody who waits."""
        try:
            while True:
                await self._message()
        except ViewerFault as fault:
            self._fault = fault
        except ConnectionClosed as ended:
            self._fault = ViewerFault(f"the platform ended the connection: {ended}")
        finally:
            async with self._changed:
                self._fault = self._fault or ViewerFault("the viewer is closed")
                self._changed.notify_all()

    async def _message(self) -> None:
        kind = (await self._take(1))[0]
        if kind == 0:
            await self._take(1)
            count = await self._number("!H")
            for _ in range(count):
                if await self._rectangle() == LAST_RECT:
                    break
            async with self._changed:
                self._updates += 1
                self._changed.notify_all()
        elif kind == 1:
            _, count = struct.unpack("!xHH", await self._take(5))
            await self._take(6 * count)
        elif kind == 3:
            await self._take(3)
            self._cuts.put_nowait((await self._take(await self._number("!I"))).decode("latin-1"))
        elif kind != 2:
            raise ViewerFault(f"the machine sent a message of type {kind}, which was not asked for")

    async def _rectangle(self) -> int:
        x, y, width, height, encoding = struct.unpack("!HHHHi", await self._take(12))
        if encoding == DESKTOP_SIZE:
            self.width, self.height, self._pixels = width, height, bytearray(width * height * 4)
        elif encoding == RAW:
            self._paint(x, y, width, height, await self._take(width * height * 4))
        elif encoding == COPY_RECT:
            from_x, from_y = struct.unpack("!HH", await self._take(4))
            self._paint(x, y, width, height, self._cut_out(from_x, from_y, width, height))
        elif encoding != LAST_RECT:
            raise ViewerFault(f"the machine used encoding {encoding}, which was not asked for")
        return int(encoding)

    def _cut_out(self, x: int, y: int, width: int, height: int) -> bytes:
        starts = (((y + row) * self.width + x) * 4 for row in range(height))
        return b"".join(bytes(self._pixels[start : start + width * 4]) for start in starts)

    def _paint(self, x: int, y: int, width: int, height: int, data: bytes) -> None:
        if x + width > self.width or y + height > self.height:
            raise ViewerFault("the machine drew outside its screen")
        for row in range(height):
            start = ((y + row) * self.width + x) * 4
            self._pixels[start : start + width * 4] = data[row * width * 4 : (row + 1) * width * 4]

    async def _request(self, *, incremental: bool) -> None:
        await self.send(struct.pack("!BBHHHH", 3, incremental, 0, 0, self.width, self.height))

    async def _ended(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._fault is not None)

    async def _number(self, layout: str) -> int:
        return int(struct.unpack(layout, await self._take(struct.calcsize(layout)))[0])

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            message = await self._websocket.recv()
            if isinstance(message, bytes):
                self._buffer += message
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data


def _keysym(character: str) -> int:
    """The X keysym of a character: Latin-1 is itself, the rest of Unicode above 0x01000000 (X11 protocol, A)."""
    code = ord(character)
    return KEYS.get(character) or (code if code < 0x100 else 0x01000000 + code)
