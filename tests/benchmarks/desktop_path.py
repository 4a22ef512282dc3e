"""What the desktop path costs beside a bare relay, in one run: `python -m tests.benchmarks.desktop_path`.

Both run in the same uvicorn process (uvloop, websockets-sansio). The bare relay copies TCP to websocket and back; the
gateway ends TLS and RFB security, filters what the browser says and bounds every queue. A source floods or echoes; a
client of plain sockets takes what comes. Figures of one run on a busy machine say little; their ratios say more.

throughput   MB/s from the source to one client
work         milliseconds of the relaying process's time for 100 MB: the figure that other load disturbs least
round trip   a key (8 bytes) up and 8 bytes back, 150 a second (the gateway passes 200 keys a second)
memory       of the relaying process, KiB for each of 40 viewers that take nothing while the source floods
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.processes import free_port
from instances import credentials
from instances.desktop.rfb import Role, vnc_response
from instances.desktop.tunnel import Target, Tunnel, open_machine

VARIABLE = "VISA_TEST_BENCHMARK"
ECHO = struct.pack("!BBHI", 4, 1, 0, 1)
FLOOD = struct.pack("!BBHI", 4, 1, 0, 2)
CHALLENGE = bytes(16)
SERVER_INIT = struct.pack("!HHBBBBHHHBBBxxxI", 1280, 800, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0, 4) + b"desk"
BLOCK = 64 * 1024
STALLED = 40

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# --- the source: a machine ------------------------------------------------------------------------------------------


async def source(facts: dict[str, Any]) -> None:
    """Serves the plain and the proper machine until it is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(facts["chain"])

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=BLOCK)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while (asked := await reader.readexactly(8)) == ECHO:
                writer.write(asked)
            block = os.urandom(BLOCK)
            while not writer.transport.is_closing():
                writer.write(block)
                await writer.drain()
                await asyncio.sleep(0)  # a drain that need not wait does not let anybody else in
        writer.transport.abort()

    async def proper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await handshake(reader, writer)

    async def handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n")
        await reader.readexactly(12)
        writer.write(b"\x01\x13\x00\x02")
        await reader.readexactly(3)
        writer.write(b"\x00\x01" + struct.pack("!I", 261))
        await reader.readexactly(4)
        writer.write(b"\x01")
        await writer.start_tls(context)
        writer.write(CHALLENGE)
        if await reader.readexactly(16) == vnc_response(facts["password"], CHALLENGE):
            writer.write(bytes(4))
            await reader.readexactly(1)
            writer.write(SERVER_INIT)
            await obey(reader, writer)

    plain = await asyncio.start_server(obey, "127.0.0.1", facts["plain"])
    desktop = await asyncio.start_server(proper, "127.0.0.1", facts["proper"])
    async with plain, desktop:
        await asyncio.gather(plain.serve_forever(), desktop.serve_forever())


# --- the two relays --------------------------------------------------------------------------------------------------


class Browser:
    """The websocket, as a tunnel sees one."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def receive(self) -> bytes | str | None:
        event = await self._receive()
        if event["type"] != "websocket.receive":
            return None
        text, data = event.get("text"), event.get("bytes")
        return data if text is None else text

    async def send(self, data: bytes | str) -> None:
        await self._send({"type": "websocket.send", "bytes" if isinstance(data, bytes) else "text": data})


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`/bare` and `/gateway`."""
    facts = json.loads(os.environ[VARIABLE])
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/bare":
        await bare(Browser(receive, send), facts["plain"])
        return
    target = Target(
        host="127.0.0.1",
        port=facts["proper"],
        password=facts["password"],
        certificate_pem=facts["certificate"],
        ranges=("127.0.0.0/8",),
    )
    async with open_machine(target) as machine:
        await Tunnel(machine, Browser(receive, send), Role.CONTROL).run()


async def bare(browser: Browser, port: int) -> None:
    """The simplest relay that does not lose its back-pressure."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=BLOCK // 2)

    async def up() -> None:
        while isinstance(message := await browser.receive(), bytes):
            writer.write(message)
            await writer.drain()

    async def down() -> None:
        while data := await reader.read(BLOCK):
            await browser.send(data)

    tasks = [asyncio.create_task(up()), asyncio.create_task(down())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    writer.transport.abort()


# --- the client ------------------------------------------------------------------------------------------------------


class Client:
    """A websocket of plain sockets; it may choose to take nothing."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade", "Upgrade: websocket"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while not self._take(1).endswith(b"\n") or self._line != b"\r\n":
            pass
        if path == "/gateway":
            self.message()
            self.send(b"RFB 003.008\n")
            self.message()
            self.send(b"\x01")
            self.message()
            self.send(b"\x01")
            self.message()

    _line = b""

    def _take(self, count: int) -> bytes:
        data = self._socket.recv(count, socket.MSG_WAITALL)
        if count == 1:
            self._line = data if self._line.endswith(b"\n") else self._line + data
        return data

    def send(self, data: bytes) -> None:
        """A binary message with a mask of zeros."""
        self._socket.sendall(bytes([0x82, 0x80 | len(data)]) + bytes(4) + data)

    def message(self) -> bytes:
        """The next message, of less than 126 bytes."""
        return self._take(self._take(2)[1])

    def round_trips(self, count: int) -> list[float]:
        """Seconds from a key to its echo, 150 a second."""
        took = []
        for _ in range(count):
            begun = time.perf_counter()
            self.send(ECHO)
            self.message()
            took.append(time.perf_counter() - begun)
            time.sleep(max(0.0, 1 / 150 - took[-1]))
        return took

    def throughput(self, seconds: float) -> float:
        """Bytes a second."""
        self.send(FLOOD)
        buffer = bytearray(1024 * 1024)
        self._socket.recv_into(buffer)
        begun = time.perf_counter()
        taken = 0
        while (elapsed := time.perf_counter() - begun) < seconds:
            taken += self._socket.recv_into(buffer)
        return taken / elapsed

    def close(self) -> None:
        self._socket.close()


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one relay did."""

    throughput: float
    work: float
    p50: float
    p95: float
    memory: float


def memory(pid: int) -> int:
    """What a process holds, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def worked_by(pid: int) -> float:
    """Seconds of processor time a process has used (proc(5): utime and stime are its fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(port: int, pid: int, path: str, *, seconds: float, keys: int) -> Figures:
    """One relay, after a warm-up of itself."""
    warm = Client(port, path)
    warm.throughput(0.3)
    warm.close()
    client = Client(port, path)
    took = sorted(client.round_trips(keys))
    worked = worked_by(pid)
    rate = client.throughput(seconds)
    worked = worked_by(pid) - worked
    client.close()
    time.sleep(0.5)  # what the last client left is freed, and must not count as the viewers' growth
    before = memory(pid)
    viewers = [Client(port, path) for _ in range(STALLED)]
    for viewer in viewers:
        viewer.send(FLOOD)
    time.sleep(3)  # as long as a flood may grow: the figure is what stands after it, with back-pressure or without
    grown = (memory(pid) - before) / STALLED
    for viewer in viewers:
        viewer.close()
    return Figures(
        throughput=rate / 1e6,
        work=worked / (rate * seconds) * 1e8 * 1000,
        p50=statistics.median(took) * 1e6,
        p95=took[int(len(took) * 0.95)] * 1e6,
        memory=grown / 1024,
    )


@contextlib.contextmanager
def running(facts: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """The source and the relays, as processes; the relays' port and process."""
    port = free_port()
    variables = os.environ | {VARIABLE: json.dumps(facts)}
    module = "tests.benchmarks.desktop_path"
    command = [sys.executable, "-m", "uvicorn", f"{module}:application", "--port", str(port), "--lifespan", "off"]
    command += ["--loop", "uvloop", "--ws", "websockets-sansio", "--ws-max-size", "65536", "--log-level", "warning"]
    command += ["--ws-per-message-deflate", "false"]
    machine = subprocess.Popen([sys.executable, "-m", module, "--source"], env=variables)
    relays = subprocess.Popen(command, env=variables)
    try:
        for needed in (port, facts["plain"], facts["proper"]):
            end = time.monotonic() + 20
            while time.monotonic() < end:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", needed), 1):
                    break
                time.sleep(0.05)  # between two tries to connect
        yield port, relays.pid
    finally:
        for process in (relays, machine):
            process.kill()
            process.wait()


def main() -> None:
    """Prints the figures of both and their ratios."""
    parser = argparse.ArgumentParser(description="What the desktop path costs beside a bare relay.")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each throughput is measured")
    parser.add_argument("--keys", type=int, default=600, help="how many round trips")
    parser.add_argument("--source", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.source:
        asyncio.run(source(json.loads(os.environ[VARIABLE])))
        return
    secret = credentials.generate("benchmark")
    with tempfile.TemporaryDirectory() as directory:
        chain = Path(directory) / "chain.pem"
        chain.write_text(secret.key + secret.certificate)
        facts = {
            "plain": free_port(),
            "proper": free_port(),
            "password": secret.password,
            "chain": str(chain),
            "certificate": secret.certificate,
        }
        with running(facts) as (port, pid):
            bare_figures = measure(port, pid, "/bare", seconds=options.seconds, keys=options.keys)
            gateway = measure(port, pid, "/gateway", seconds=options.seconds, keys=options.keys)
    print(f"{'':14}{'bare relay':>12}{'gateway':>12}{'ratio':>8}")
    for name, unit in (("throughput", "MB/s"), ("work", "ms"), ("p50", "us"), ("p95", "us"), ("memory", "KiB")):
        one, other = getattr(bare_figures, name), getattr(gateway, name)
        print(f"{name + ' ' + unit:14}{one:12.0f}{other:12.0f}{other / max(one, 1e-9):8.2f}")


if __name__ == "__main__":
    main()
