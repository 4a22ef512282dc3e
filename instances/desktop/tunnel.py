"""Bytes both ways between a machine's desktop and a browser.

Pure asyncio, no framework. Everything is bounded: one block of at most 64 KiB is in flight in each direction, nothing
is read from one side while the other does not take what came before, and a side that takes nothing for 30 s ends it.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Collection, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol, cast

from typing_extensions import override

from instances.desktop.rfb import (
    BrowserHandshake,
    ClientFilter,
    MachineHandshake,
    Marks,
    Policy,
    RfbFault,
    Role,
    Screen,
)

BLOCK: Final = 64 * 1024
#: the largest TLS record (RFC 8446 5.1)
RECORD: Final = 16 * 1024
HANDSHAKE_SECONDS: Final = 10.0
#: a side that takes nothing for so long ends the tunnel
STALL_SECONDS: Final = 30.0
#: a browser that is slow but still speaks may take this long for one block
CRAWL_SECONDS: Final = 180.0
#: marks that wait behind pictures; more are dropped, since the page counts a mark that is out as late anyway
MARKS_WAITING: Final = 16

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class MachineSilent(Exception):
    """The machine's desktop cannot be had; the message says why, in our words."""


class AddressRefused(MachineSilent):
    """The machine's address is not one a desktop may have."""


class Ending(StrEnum):
    """Why a tunnel ended."""

    BROWSER_LEFT = "browser_left"
    BROWSER_BROKE_RULES = "browser_broke_rules"
    BROWSER_STALLED = "browser_stalled"
    MACHINE_ENDED = "machine_ended"
    MACHINE_STALLED = "machine_stalled"
    CUT = "cut"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a desktop is and how it proves itself. `ranges` are the networks desktops may stand in (CIDR)."""

    host: str
    port: int
    password: str = field(repr=False)
    certificate_pem: str
    ranges: tuple[str, ...]


class Browser(Protocol):
    """The viewer's websocket."""

    async def receive(self) -> bytes | str | None:
        """The next message, None when the browser is gone. Raises `RfbFault` for one that is too long."""

    async def send(self, data: bytes | str) -> None:
        """Sends one message; returns when another may be sent. Raises OSError when the browser is gone."""


def address_of(host: str, port: int, ranges: Collection[str]) -> Address:
    """The machine's address, if a desktop may be there. Raises `AddressRefused`.

    The provider's word is not trusted: only a plain IP address inside the site's ranges is connected to, never a name,
    a spelling that parsers disagree about, link-local (where clouds answer with credentials), multicast or
    unspecified; this host itself only where a range names it.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise AddressRefused("the machine's address is not an IP address") from error
    networks = [ipaddress.ip_network(one) for one in ranges]
    homes = [network for network in networks if address in network]
    if not homes or "%" in host:
        raise AddressRefused("the machine's address is outside the ranges of desktops")
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        raise AddressRefused("the machine's address is of a kind no desktop has")
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.sixtofour or address.teredo):
        raise AddressRefused("the machine's address hides another one")
    if address.is_loopback and not any(network.is_loopback for network in homes):
        raise AddressRefused("the machine's address is this host's own")
    if not 1024 <= port <= 65535:
        raise AddressRefused("the machine's port is not one a desktop has")
    return address


class _Wire(asyncio.BufferedProtocol):
    """A TCP connection that reads one block when asked, and nothing before it is asked again."""

    def __init__(self) -> None:
        self.lost = False
        self._block = bytearray(BLOCK)
        self._filled = 0
        self._reader: asyncio.Future[None] | None = None
        self._writers: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What create_connection makes; uvloop's is no subclass of asyncio.Transport, so it cannot be asserted.
        self._transport = made = cast("asyncio.Transport", transport)
        made.pause_reading()
        made.set_write_buffer_limits(high=BLOCK)
        _tune(made.get_extra_info("socket"))

    @override
    def get_buffer(self, sizehint: int) -> bytearray:
        return self._block

    @override
    def buffer_updated(self, nbytes: int) -> None:
        if self._filled:
            # The loop read on although it was told not to: what was there is overwritten.
            self.abort()
            return
        self._filled = nbytes
        if self._transport is not None:
            self._transport.pause_reading()
        self._wake_reader()

    @override
    def pause_writing(self) -> None:
        self._writers = asyncio.get_running_loop().create_future()

    @override
    def resume_writing(self) -> None:
        if self._writers is not None and not self._writers.done():
            self._writers.set_result(None)
        self._writers = None

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._wake_reader()
        self.resume_writing()

    async def read(self) -> bytes:
        """The next block, at most 64 KiB; empty at the end."""
        # uvloop begins to read by itself after connection_made: a block may be there before it is asked for.
        if not self._filled:
            if self.lost or self._transport is None or self._transport.is_closing():
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            self._transport.resume_reading()
            try:
                await self._reader
            finally:
                self._reader = None
        data = bytes(memoryview(self._block)[: self._filled])
        self._filled = 0
        return data

    async def write(self, data: bytes) -> None:
        """Sends bytes, and waits while the other side does not take them. Raises OSError at the end."""
        if self.lost or self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the machine's connection has ended")
        self._transport.write(data)
        if self._writers is not None:
            # Several may wait: none of them may take the others' future down when it is cancelled.
            await asyncio.shield(self._writers)

    def abort(self) -> None:
        """Ends the connection now; what is not sent is dropped."""
        if self._transport is not None:
            self._transport.abort()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _tune(sock: socket.socket) -> None:
    """No waiting for more bytes before a key is sent, and a machine that vanished is noticed within a minute."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


class _Tls:
    """TLS 1.2 or newer over a wire, towards a machine that must show exactly one certificate.

    Two memory buffers instead of asyncio's own TLS: that one reads ahead up to half a megabyte for each connection.
    """

    def __init__(self, wire: _Wire, certificate_pem: str) -> None:
        # No authority and no name is asked: the certificate is compared byte for byte, which admits this one alone,
        # while trusting it as an authority would also admit whatever its key signed. TLS itself proves that the machine
        # holds the key (CertificateVerify), whatever the verification mode.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        try:
            self._pinned = ssl.PEM_cert_to_DER_cert(certificate_pem.strip())
        except ValueError as error:
            raise MachineSilent("there is no certificate to know the machine by") from error
        self._wire = wire
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=False)

    async def handshake(self) -> None:
        """Raises `MachineSilent` where the machine is another one, ssl.SSLError where it does not speak TLS."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
        shown = self._tls.getpeercert(binary_form=True)
        if shown is None or shown != self._pinned:
            raise MachineSilent("the machine shows another certificate than ours")
        await self._flush()

    async def read(self) -> bytes:
        """The next bytes, at most 64 KiB; empty at the end. Raises ssl.SSLError."""
        while True:
            records, ended = self._records()
            await self._flush()
            if records or ended:
                return records
            if not await self._fill():
                return b""

    def _records(self) -> tuple[bytes, bool]:
        """What can be read now, at most 64 KiB, and whether that was the end."""
        records: list[bytes] = []
        with contextlib.suppress(ssl.SSLWantReadError):
            for _ in range(BLOCK // RECORD):
                record = self._tls.read(RECORD)
                if not record:
                    return b"".join(records), True
                records.append(record)
        return b"".join(records), False

    async def write(self, data: bytes) -> None:
        """Sends bytes, and waits while the machine does not take them. Raises OSError at the end."""
        self._tls.write(data)
        await self._flush()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._wire.write(self._outgoing.read())

    async def _fill(self) -> bool:
        data = await self._wire.read()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)


class Machine:
    """An open desktop behind its proven certificate: `screen` was received, pixels may be asked for."""

    def __init__(self, wire: _Wire, tls: _Tls, screen: Screen, rest: bytes) -> None:
        self.screen = screen
        self._wire = wire
        self._tls = tls
        self._rest = rest

    async def read(self) -> bytes:
        """The next bytes, at most 64 KiB; empty when the machine has ended."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            return await self._tls.read()
        except OSError:  # ssl.SSLError is one
            return b""

    async def write(self, data: bytes) -> None:
        """Sends bytes. Raises OSError when the machine has ended."""
        await self._tls.write(data)

    def abort(self) -> None:
        """Ends the connection at once."""
        self._wire.abort()


@contextlib.asynccontextmanager
async def open_machine(target: Target, *, seconds: float = HANDSHAKE_SECONDS) -> AsyncIterator[Machine]:
    """Connects to a machine's desktop and proves both sides, within `seconds`; ends the connection after the block.

    Raises `MachineSilent` for whatever the machine does or does not do.
    """
    address = address_of(target.host, target.port, target.ranges)
    wire = _Wire()
    try:
        try:
            async with asyncio.timeout(seconds):
                machine = await _greet(wire, target, address)
        except TimeoutError as error:
            raise MachineSilent("the machine does not answer in time") from error
        except OSError as error:
            raise MachineSilent(f"the machine cannot be reached ({type(error).__name__})") from error
        except RfbFault as error:
            raise MachineSilent(str(error)) from error
        yield machine
    finally:
        wire.abort()


async def _greet(wire: _Wire, target: Target, address: Address) -> Machine:
    loop = asyncio.get_running_loop()
    tls = _Tls(wire, target.certificate_pem)
    await loop.create_connection(lambda: wire, str(address), target.port)
    talk = MachineHandshake(target.password)
    while not talk.wants_tls:
        answer = talk.receive(_something(await wire.read()))
        if answer:
            await wire.write(answer)
    await tls.handshake()
    talk.secured()
    while not talk.done:
        answer = talk.receive(_something(await tls.read()))
        if answer:
            await tls.write(answer)
    if talk.screen is None:
        raise RfbFault("the machine has no screen")
    return Machine(wire, tls, talk.screen, bytes(talk.rest))


def _something(data: bytes) -> bytes:
    if not data:
        raise RfbFault("the machine ends the connection")
    return data


class Tunnel:
    """One browser on one machine, until `run` returns."""

    def __init__(self, machine: Machine, browser: Browser, role: Role, policy: Policy | None = None) -> None:
        self._machine = machine
        self._browser = browser
        self._filter = ClientFilter(role, policy)
        self._marks = Marks()
        self._echoes: asyncio.Queue[str] = asyncio.Queue(MARKS_WAITING)
        #: one writer at a time: two in `send` while the viewer's line is full end the connection in some servers
        self._sender = asyncio.Lock()
        self._greeted = asyncio.Event()
        self._is_cut = asyncio.Event()
        self._heard = time.monotonic()
        self._sending_since: float | None = None
        self._writing_since: float | None = None

    def cut(self) -> None:
        """Ends the tunnel now, the machine's side first: nothing more goes either way."""
        self._is_cut.set()
        self._machine.abort()

    async def run(self) -> Ending:
        """Relays until one side ends, breaks the rules or stalls, or `cut` is called."""
        tasks = [asyncio.create_task(job) for job in self._jobs()]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._machine.abort()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if self._is_cut.is_set():
            return Ending.CUT
        for result in results:
            if isinstance(result, Ending):
                return result
            if isinstance(result, Exception):
                raise result
        return Ending.BROWSER_LEFT

    def _jobs(self) -> list[Coroutine[Any, Any, Ending]]:
        return [self._cut_job(), self._up(), self._down(), self._echo(), self._watch()]

    async def _cut_job(self) -> Ending:
        await self._is_cut.wait()
        return Ending.CUT

    async def _up(self) -> Ending:
        """Browser to machine: the handshake with the browser, then what the filter passes, no faster than its pace."""
        try:
            if (ending := await self._greet_browser()) is not None:
                return ending
            while True:
                data, wait = self._filter.take(time.monotonic())
                if data:
                    self._writing_since = time.monotonic()
                    await self._machine.write(data)
                    self._writing_since = None
                if wait:
                    await asyncio.sleep(wait)
                    continue
                message = await self._hear()
                if message is None:
                    return Ending.BROWSER_LEFT
                self._filter.feed(message)
        except RfbFault:
            return Ending.BROWSER_BROKE_RULES
        except OSError:
            return Ending.MACHINE_ENDED

    async def _greet_browser(self) -> Ending | None:
        """The handshake with the browser; says why where it ends here. Raises RfbFault."""
        talk = BrowserHandshake(self._machine.screen)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self._tell(talk.pending())
                while not talk.done:
                    message = await self._hear()
                    if message is None:
                        return Ending.BROWSER_LEFT
                    if answer := talk.receive(message):
                        await self._tell(answer)
        except TimeoutError:
            return Ending.BROWSER_STALLED
        except OSError:
            return Ending.BROWSER_LEFT
        self._filter.feed(bytes(talk.rest))
        self._greeted.set()
        return None

    async def _hear(self) -> bytes | None:
        """The browser's next binary message; None when it is gone. Marks on the way are put in line to be returned."""
        while True:
            message = await self._browser.receive()
            self._heard = time.monotonic()
            if not isinstance(message, str):
                return message
            self._marks.check(message, self._heard)
            if not self._echoes.full():
                self._echoes.put_nowait(message)

    async def _tell(self, data: bytes | str) -> None:
        """Sends to the browser. Raises OSError when it is gone."""
        async with self._sender:
            if self._is_cut.is_set():
                raise ConnectionResetError("the tunnel is cut")
            self._sending_since = time.monotonic()
            await self._browser.send(data)
            self._sending_since = None

    async def _down(self) -> Ending:
        """Machine to browser, one block at a time."""
        await self._greeted.wait()
        while data := await self._machine.read():
            try:
                await self._tell(data)
            except OSError:
                return Ending.BROWSER_LEFT
        return Ending.MACHINE_ENDED

    async def _echo(self) -> Ending:
        """Returns the marks behind the pictures that are already in line: their time is what a key would wait."""
        await self._greeted.wait()
        while True:
            mark = await self._echoes.get()
            try:
                await self._tell(mark)
            except OSError:
                return Ending.BROWSER_LEFT

    async def _watch(self) -> Ending:
        """Ends it when a side takes nothing. A slow browser is not a stalled one: it still speaks while it reads."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            if self._writing_since is not None and now - self._writing_since > STALL_SECONDS:
                return Ending.MACHINE_STALLED
            if self._sending_since is None:
                continue
            if now - max(self._sending_since, self._heard) > STALL_SECONDS or now - self._sending_since > CRAWL_SECONDS:
                return Ending.BROWSER_STALLED
