"""RFB 3.8 without sockets: both handshakes, and the filter of what a browser may say to a machine.

Pure: bytes in, bytes out, no clock of its own. The machine is hostile (every length is capped before anything is kept
for it) and so is the browser (only messages of the table below pass, whole). After ServerInit what the machine sends is
not looked at: the browser parses it.

Sources: RFC 6143 (RFB 3.8) and the community's rfbproto.rst for VeNCrypt and the extensions.
"""

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from typing_extensions import override

VERSION: Final = b"RFB 003.008\n"
NONE, VNC_AUTH, VENCRYPT, X509_VNC = 1, 2, 19, 261

MAX_SIDE: Final = 8192
MAX_NAME: Final = 256
MAX_REASON: Final = 256
MAX_TYPES: Final = 32
MAX_ENCODINGS: Final = 64
MAX_CUT: Final = 256 * 1024
MAX_FENCE: Final = 64
MAX_SCREENS: Final = 16


class RfbFault(Exception):
    """One side broke the protocol or a limit. The message is ours and holds none of the other side's text."""


class Role(StrEnum):
    """What a connection may do. `VIEWER` watches, `CONTROL` works."""

    VIEWER = "viewer"
    CONTROL = "control"


@dataclass(frozen=True, kw_only=True)
class Screen:
    """What ServerInit says: size in pixels, 16 bytes of pixel format, and the desktop's name (hostile text)."""

    width: int
    height: int
    pixel_format: bytes
    name: str

    def server_init(self) -> bytes:
        """The ServerInit message (RFC 6143 7.3.2)."""
        name = self.name.encode()
        return struct.pack("!HH16sI", self.width, self.height, self.pixel_format, len(name)) + name


def vnc_response(password: str, challenge: bytes) -> bytes:
    """The 16-byte answer of VNC authentication (RFC 6143 7.2.2) to a 16-byte challenge.

    DES in ECB with the first 8 characters as the key, the bits of each byte reversed. It proves the secret to a machine
    that has already proved its certificate; it protects nothing by itself. Raises ValueError where the password is not
    Latin-1.
    """
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode("latin-1")[:8].ljust(8, b"\0"))
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305 - the protocol's own algorithm
    return encryptor.update(challenge) + encryptor.finalize()


class _Talk(ABC):
    """Runs a handshake written as a generator that yields how many bytes it needs next."""

    def __init__(self) -> None:
        self.rest = bytearray()
        self._out = bytearray()
        self._steps = self._run()
        self._needs: int | None = next(self._steps)

    @abstractmethod
    def _run(self) -> Generator[int, bytes, None]:
        """The handshake: yields the number of bytes it needs, and is sent exactly those."""

    @property
    def done(self) -> bool:
        """Whether the handshake is complete. `rest` then holds what came after it."""
        return self._needs is None

    def receive(self, data: bytes) -> bytes:
        """Takes what came from the other side and returns what is to be sent to it. Raises `RfbFault`."""
        self.rest += data
        self._advance()
        return self.pending()

    def pending(self) -> bytes:
        """What is to be sent now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _advance(self) -> None:
        while self._needs is not None and len(self.rest) >= self._needs:
            taken = bytes(self.rest[: self._needs])
            del self.rest[: self._needs]
            try:
                self._needs = self._steps.send(taken)
            except StopIteration:
                self._needs = None


class MachineHandshake(_Talk):
    """Towards the machine: RFB 3.8, VeNCrypt 0.2 with X509Vnc, TLS by the caller, VNC authentication.

    Feed it with `receive`. When `wants_tls` becomes true the caller sends what was returned, completes TLS, *proves the
    certificate*, and calls `secured`; no secret leaves before that. `screen` is set when it is `done`.
    """

    def __init__(self, password: str) -> None:
        self.wants_tls = False
        self.screen: Screen | None = None
        self._password = password
        super().__init__()

    def secured(self) -> None:
        """The connection is TLS now, with the machine's own certificate."""
        if not self.wants_tls:
            raise RfbFault("TLS before it was agreed")
        self.wants_tls = False

    @override
    def _run(self) -> Generator[int, bytes, None]:
        if (yield 12) != VERSION:
            raise RfbFault("the machine does not speak RFB 3.8")
        self._out += VERSION
        (count,) = yield 1
        if count == 0:
            yield from self._refused("the machine refuses the connection")
        if count > MAX_TYPES:
            raise RfbFault("the machine offers too many security types")
        if VENCRYPT not in (yield count):
            raise RfbFault("the machine does not offer VeNCrypt")
        self._out += bytes([VENCRYPT])
        if (yield 2) != b"\x00\x02":
            raise RfbFault("the machine does not speak VeNCrypt 0.2")
        self._out += b"\x00\x02"
        if (yield 1) != b"\x00":
            raise RfbFault("the machine refuses VeNCrypt 0.2")
        (count,) = yield 1
        if not 0 < count <= MAX_TYPES:
            raise RfbFault("the machine offers no VeNCrypt type, or too many")
        if X509_VNC not in struct.unpack(f"!{count}I", (yield 4 * count)):
            raise RfbFault("the machine does not offer X509Vnc")
        self._out += struct.pack("!I", X509_VNC)
        if (yield 1) != b"\x01":
            raise RfbFault("the machine refuses X509Vnc")
        if self.rest:
            # What came in the clear after the agreement would be taken for the machine's own words inside TLS.
            raise RfbFault("the machine sent more before TLS")
        self.wants_tls = True
        challenge = yield 16
        self._out += vnc_response(self._password, challenge)
        (result,) = struct.unpack("!I", (yield 4))
        if result != 0:
            yield from self._refused("the machine refuses its secret")
        self._out += b"\x01"  # ClientInit: shared, whatever the browser asks, so that a second tab never ends the first
        yield from self._server_init()

    def _server_init(self) -> Generator[int, bytes, None]:
        width, height, pixel_format, length = struct.unpack("!HH16sI", (yield 24))
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise RfbFault("the machine's screen is larger than allowed")
        if pixel_format[0] not in {8, 16, 32} or pixel_format[1] > pixel_format[0]:
            raise RfbFault("the machine's pixel format is unknown")
        if length > MAX_NAME:
            raise RfbFault("the machine's name is too long")
        try:
            name = (yield length).decode()
        except UnicodeDecodeError as error:
            raise RfbFault("the machine's name is not UTF-8") from error
        self.screen = Screen(width=width, height=height, pixel_format=pixel_format, name=name)

    def _refused(self, sentence: str) -> Generator[int, bytes, None]:
        """Reads the reason, which is capped, and drops it: it is hostile text that nobody needs."""
        (length,) = struct.unpack("!I", (yield 4))
        if length > MAX_REASON:
            raise RfbFault(f"{sentence}, with a reason that is too long")
        yield length
        raise RfbFault(sentence)

    @override
    def _advance(self) -> None:
        if not self.wants_tls:
            super()._advance()


class BrowserHandshake(_Talk):
    """Towards the browser: RFB 3.8 with the security type None alone, then the machine's ServerInit."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        super().__init__()

    @override
    def _run(self) -> Generator[int, bytes, None]:
        self._out += VERSION
        if (yield 12) != VERSION:
            raise RfbFault("the browser does not speak RFB 3.8")
        self._out += bytes([1, NONE])
        if (yield 1) != bytes([NONE]):
            raise RfbFault("the browser chose a security type that was not offered")
        self._out += struct.pack("!I", 0)
        yield 1  # ClientInit: the wish for a desktop of one's own is not passed on
        self._out += self._screen.server_init()


# --- what a browser may say ------------------------------------------------------------------------------------------

QEMU_KEYS, LED_STATE, EXTENDED_DESKTOP_SIZE = -258, -261, -308
H264: Final = 50

#: encodings and pseudo-encodings that pass, in the browser's order; everything else is taken out: the extended
#: clipboard (a few bytes announce a gigabyte), −316 (it changes the length of pointer messages), xvp, GII, audio,
#: vendors' own
ENCODINGS: Final = frozenset(
    {0, 1, 2, 5, 6, 7, 16, 21, H264, -260}
    | set(range(-32, -22))  # JPEG quality
    | set(range(-256, -246))  # compression
    | set(range(-512, -411))  # fine JPEG quality
    | set(range(-768, -762))  # JPEG subsampling
    | {-223, -224, -239, -307, EXTENDED_DESKTOP_SIZE, -312, -313, 0x574D5664, QEMU_KEYS, LED_STATE}
)


class Fate(StrEnum):
    """What becomes of a message."""

    PASS = "pass"  # noqa: S105 - not a password
    FILTER = "filter"
    DROP = "drop"
    CLOSE = "close"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a site allows a role besides the table. `h264` passes encoding 50."""

    clipboard: bool = True
    resize: bool = True
    h264: bool = True


@dataclass(frozen=True)
class Row:
    """One message type: its name, its fate for each role, and its pace (a second, and at once).

    `head` bytes are needed before `size` can tell the length of the whole message.
    """

    name: str
    viewer: Fate
    control: Fate
    head: int
    size: Callable[[bytes], int]
    rate: float = 0
    burst: float = 0


def _fixed(size: int) -> Callable[[bytes], int]:
    return lambda _: size


def _encodings_size(head: bytes) -> int:
    (count,) = struct.unpack("!H", head[2:4])
    if count > MAX_ENCODINGS:
        raise RfbFault("the browser sent too many encodings")
    return 4 + 4 * int(count)


def _cut_size(head: bytes) -> int:
    (length,) = struct.unpack("!i", head[4:8])
    if not 0 <= length <= MAX_CUT:
        raise RfbFault("the browser sent a clipboard that is too long, or an extended one")
    return 8 + int(length)


def _fence_size(head: bytes) -> int:
    if head[8] > MAX_FENCE:
        raise RfbFault("the browser sent a fence that is too long")
    return 9 + head[8]


def _screens_size(head: bytes) -> int:
    if head[6] > MAX_SCREENS:
        raise RfbFault("the browser asked for too many screens")
    return 8 + 16 * head[6]


PASS, FILTER, DROP, CLOSE = Fate.PASS, Fate.FILTER, Fate.DROP, Fate.CLOSE

#: every type that is not here ends the connection: its length is unknown, or what it does is dangerous
TABLE: Final[dict[int, Row]] = {
    0: Row("SetPixelFormat", PASS, PASS, 1, _fixed(20), 10, 10),
    2: Row("SetEncodings", FILTER, FILTER, 4, _encodings_size, 4, 4),
    3: Row("FramebufferUpdateRequest", FILTER, FILTER, 1, _fixed(10), 60, 15),
    4: Row("KeyEvent", DROP, PASS, 1, _fixed(8), 200, 50),
    5: Row("PointerEvent", DROP, FILTER, 1, _fixed(6), 250, 60),
    6: Row("ClientCutText", DROP, FILTER, 8, _cut_size, 4, 4),
    150: Row("EnableContinuousUpdates", PASS, PASS, 1, _fixed(10), 10, 10),
    248: Row("ClientFence", PASS, PASS, 9, _fence_size, 120, 30),
    251: Row("SetDesktopSize", DROP, FILTER, 8, _screens_size, 2, 1),
    255: Row("QEMU extended key", DROP, PASS, 2, _fixed(12), 200, 50),
}


@dataclass
class _Bucket:
    """A pace that waits instead of dropping: tokens come back at `rate` a second, at most `burst` at once."""

    rate: float
    burst: float
    tokens: float
    since: float

    def wait(self, now: float) -> float:
        """Takes one token and returns 0, or returns the seconds until there is one."""
        self.tokens = min(self.burst, self.tokens + (now - self.since) * self.rate)
        self.since = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0
        return max((1 - self.tokens) / self.rate, 0.001)


class ClientFilter:
    """What a browser says to a machine, message by message, whatever way the bytes are cut.

    `role` may be changed at any time and counts from the next message on.
    """

    def __init__(self, role: Role, policy: Policy | None = None) -> None:
        self.role = role
        self._policy = policy or Policy()
        self._buffer = bytearray()
        self._buckets: dict[int, _Bucket] = {}
        self._resizable = False

    def feed(self, data: bytes) -> None:
        """Takes bytes from the browser. Call `take` until it waits for nothing before feeding more."""
        self._buffer += data

    def take(self, now: float) -> tuple[bytes, float]:
        """What may go to the machine now, and the seconds to wait before asking again (0: feed more).

        `now` is a monotonic time in seconds. Raises `RfbFault` where the browser may not stay.
        """
        out = bytearray()
        start = 0
        view = self._buffer
        try:
            while start < len(view):
                row = TABLE.get(view[start])
                if row is None:
                    raise RfbFault(f"the browser sent a message of type {view[start]}, which nobody may")
                head = bytes(view[start : start + row.head])
                if len(head) < row.head:
                    break
                if view[start] == 255 and head[1] != 0:
                    raise RfbFault("the browser sent a QEMU message other than a key")
                end = start + row.size(head)
                if len(view) < end:
                    break
                if wait := self._pace(view[start], row, now):
                    return bytes(out), wait
                out += self._pass(row, bytes(view[start:end]))
                start = end
            return bytes(out), 0
        finally:
            del view[:start]

    def _pace(self, kind: int, row: Row, now: float) -> float:
        bucket = self._buckets.get(kind)
        if bucket is None:
            bucket = self._buckets[kind] = _Bucket(row.rate, row.burst, row.burst, now)
        return bucket.wait(now)

    def _pass(self, row: Row, message: bytes) -> bytes:
        fate = row.control if self.role is Role.CONTROL else row.viewer
        if fate is PASS:
            return message
        return self._filtered(message) if fate is FILTER else b""

    def _filtered(self, message: bytes) -> bytes:
        match message[0]:
            case 2:
                return self._encodings(message)
            case 3:
                kind, incremental, x, y, width, height = struct.unpack("!BBHHHH", message)
                # The screen may have changed its size since: outside the largest screen there is, nothing is asked.
                x, y = min(x, MAX_SIDE), min(y, MAX_SIDE)
                width, height = min(width, MAX_SIDE - x), min(height, MAX_SIDE - y)
                return struct.pack("!BBHHHH", kind, incremental, x, y, width, height)
            case 5:
                kind, buttons, x, y = struct.unpack("!BBHH", message)
                return struct.pack("!BBHH", kind, buttons, min(x, MAX_SIDE - 1), min(y, MAX_SIDE - 1))
            case 6:
                return message if self._policy.clipboard else b""
            case _:
                width, height = struct.unpack("!HH", message[2:6])
                # Without −308 one such message ends TigerVNC 1.12, and the desktop with it, by a segmentation fault.
                allowed = self._policy.resize and self._resizable
                return message if allowed and 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE else b""

    def _encodings(self, message: bytes) -> bytes:
        count = (len(message) - 4) // 4
        kept = [one for one in struct.unpack(f"!{count}i", message[4:]) if self._allowed(one)]
        self._resizable = EXTENDED_DESKTOP_SIZE in kept
        return struct.pack(f"!BxH{len(kept)}i", 2, len(kept), *kept)

    def _allowed(self, encoding: int) -> bool:
        if encoding == QEMU_KEYS:
            return self.role is Role.CONTROL
        if encoding == H264:
            return self._policy.h264
        return encoding in ENCODINGS


# --- quality marks ---------------------------------------------------------------------------------------------------

_MARK = re.compile(r"p(?=(?:\.?[0-9]){1,20}\Z)[0-9]+(?:\.[0-9]+)?")
MARK_RATE: Final = 8


@dataclass
class Marks:
    """The text messages a browser may send: `p`, at most 20 digits and a point, at most 8 a second."""

    _bucket: _Bucket = field(default_factory=lambda: _Bucket(MARK_RATE, MARK_RATE, MARK_RATE, 0))

    def check(self, text: str, now: float) -> None:
        """Raises `RfbFault` for any other text, and for too many."""
        if not _MARK.fullmatch(text[:32]):
            raise RfbFault("the browser sent a text that is not a mark")
        if self._bucket.wait(now):
            raise RfbFault("the browser sent too many marks")
