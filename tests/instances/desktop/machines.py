"""Machines made of a socket and a script, for what no real VNC server does; and a browser made of two queues."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from instances import credentials
from instances.desktop.rfb import vnc_response
from instances.desktop.tunnel import Target
from instances.userdata import DesktopSecret

VERSION = b"RFB 003.008\n"
CHALLENGE = bytes(range(16))
PIXEL_FORMAT = struct.pack("!BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
SERVER_INIT = struct.pack("!HH16sI", 640, 480, PIXEL_FORMAT, 4) + b"desk"
LOOPBACK = ("127.0.0.0/8",)

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ScriptedMachine:
    """What a scripted machine saw. `ended` is set when the other side has ended a connection."""

    port: int
    secret: DesktopSecret
    connections: int = 0
    heard: bytearray = field(default_factory=bytearray)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def target(self, *, secret: DesktopSecret | None = None) -> Target:
        proof = secret or self.secret
        return Target(
            host="127.0.0.1",
            port=self.port,
            password=proof.password,
            certificate_pem=proof.certificate,
            ranges=LOOPBACK,
        )


async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing more, and stays until the other side ends."""
    await reader.read()


@contextlib.asynccontextmanager
async def raw_machine(script: Script, *, secret: DesktopSecret | None = None) -> AsyncIterator[ScriptedMachine]:
    """A machine that follows `script` from the first byte."""
    machine = ScriptedMachine(port=0, secret=secret or credentials.generate("visa-test"))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        machine.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            machine.ended.set()
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    machine.port = server.sockets[0].getsockname()[1]
    try:
        yield machine
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def scripted_machine(script: Script, *, secret: DesktopSecret | None = None) -> AsyncIterator[ScriptedMachine]:
    """A machine that is a proper desktop up to ServerInit and follows `script` then."""
    made = secret or credentials.generate("visa-test")
    context = server_context(made)

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await to_tls(reader, writer, context)
        writer.write(CHALLENGE)
        if await reader.readexactly(16) != vnc_response(made.password, CHALLENGE):
            writer.write(struct.pack("!II", 1, 0))
            return
        writer.write(bytes(4))
        await reader.readexactly(1)
        writer.write(SERVER_INIT)
        await script(reader, writer)

    async with raw_machine(whole, secret=made) as machine:
        yield machine


async def to_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
    """The machine's side of RFB 3.8 and VeNCrypt, up to TLS."""
    writer.write(VERSION)
    await reader.readexactly(12)
    writer.write(b"\x01\x13")
    await reader.readexactly(1)
    writer.write(b"\x00\x02")
    await reader.readexactly(2)
    writer.write(b"\x00\x01" + struct.pack("!I", 261))
    await reader.readexactly(4)
    writer.write(b"\x01")
    await writer.start_tls(context)


def server_context(secret: DesktopSecret) -> ssl.SSLContext:
    """TLS as a machine with this key and certificate speaks it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as directory:
        chain = Path(directory) / "chain.pem"
        chain.write_text(secret.key + secret.certificate)
        context.load_cert_chain(chain)
    return context


class QueueBrowser:
    """A browser that says what a test puts into it. It takes messages only while `reading` is set."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[bytes | str | None] = asyncio.Queue()
        self.got: list[bytes | str] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.changed = asyncio.Condition()
        self._sending = False

    async def receive(self) -> bytes | str | None:
        return await self.says.get()

    async def send(self, data: bytes | str) -> None:
        assert not self._sending, "two writers at once"
        self._sending = True
        try:
            await self.reading.wait()
        finally:
            self._sending = False
        async with self.changed:
            self.got.append(data)
            self.changed.notify_all()

    def greet(self) -> None:
        """The browser's part of the handshake."""
        for message in (VERSION, b"\x01", b"\x01"):
            self.says.put_nowait(message)

    @property
    def stream(self) -> bytes:
        """All binary messages it got, after the handshake."""
        whole = b"".join(one for one in self.got if isinstance(one, bytes))
        return whole[len(VERSION) + 2 + 4 + len(SERVER_INIT) :]

    async def until(self, done: Callable[[], bool], *, seconds: float = 10) -> None:
        """Waits until something is true of what it got."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(done)
