"""The whole desktop path with a real VNC server: pixels, keys, clipboard, and many viewers at once."""

import asyncio
import contextlib
import resource
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from deploy.viewer import Viewer
from instances import credentials
from instances.desktop import tunnel as tunnels
from tests.gateway import platform, serving
from tests.instances.desktop.conftest import Desk, desk
from tests.vnc import VncMachine, vnc_machine

__all__ = ["desk"]

ORIGIN = settings.SITE.url


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VncMachine]:
    with vnc_machine(tmp_path_factory.mktemp("vnc")) as running:
        yield running


@contextlib.asynccontextmanager
async def platform_with(desk: Desk, machine: VncMachine) -> AsyncIterator[int]:
    """The platform's port, with the machine as the person's desktop."""
    await desk.stands_at(machine.port, machine.secret)
    async with serving(platform()) as port:
        yield port


def connect(port: int, desk: Desk, ticket: str) -> contextlib.AbstractAsyncContextManager[Viewer]:
    return Viewer.connect(f"ws://127.0.0.1:{port}{desk.path}", origin=ORIGIN, ticket=ticket)


async def test_the_picture_is_the_machines_own_pixel_by_pixel(desk: Desk, machine: VncMachine) -> None:
    async with platform_with(desk, machine) as port, connect(port, desk, await desk.ticket()) as viewer:
        width, height, pixels = await viewer.picture()

    assert (width, height) == (machine.width, machine.height)
    assert pixels == machine.picture()


async def test_text_goes_both_ways_through_the_clipboard(desk: Desk, machine: VncMachine) -> None:
    async with platform_with(desk, machine) as port, connect(port, desk, await desk.ticket()) as viewer:
        await viewer.picture()
        await viewer.cut("Grüße to the desktop")
        holder = await asyncio.create_subprocess_exec(
            "xclip", "-i", "-selection", "clipboard", "-quiet",
            env={"DISPLAY": machine.display, "LC_ALL": "C.UTF-8"},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        # the server takes the clipboard when a client asks for it; ask before somebody else owns it
        assert holder.stdin is not None
        held = await asyncio.to_thread(machine.run, "xclip", "-o", "-selection", "clipboard", LC_ALL="C.UTF-8")
        holder.stdin.write("from the desktop é".encode())
        holder.stdin.close()

        assert await viewer.clipboard() == "from the desktop é"
        holder.terminate()
        await holder.wait()
    assert held.stdout.decode() == "Grüße to the desktop"


async def test_keys_reach_a_program_in_the_order_they_were_typed(
    desk: Desk, machine: VncMachine, tmp_path: Path
) -> None:
    typed = "The quick brown Fox 0123456789 !$%&/()=?{[]}\\ <>|~#'+*-_.:,; @"
    told = tmp_path / "typed"
    script = f'echo ready > {told}.ready; IFS= read -r line; printf %s "$line" > {told}.part; mv {told}.part {told}'
    terminal = await asyncio.create_subprocess_exec(
        "xterm", "-geometry", "80x10+0+0", "-e", "sh", "-c", script,
        env={"DISPLAY": machine.display, "PATH": "/usr/bin:/bin"}, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with platform_with(desk, machine) as port, connect(port, desk, await desk.ticket()) as viewer:
            await until(Path(f"{told}.ready").exists)
            await viewer.pointer(60, 60)  # without a window manager, keys go where the pointer is
            await viewer.picture()
            await viewer.type(typed + "\n")
            await until(told.exists)
    finally:
        if terminal.returncode is None:
            terminal.terminate()
        await terminal.wait()

    assert told.read_text() == typed


async def until(done: object, *, seconds: float = 15) -> None:
    assert callable(done)
    async with asyncio.timeout(seconds):
        while not done():  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.02)


async def test_two_tabs_show_the_same_desktop_and_neither_ends_the_other(desk: Desk, machine: VncMachine) -> None:
    async with (
        platform_with(desk, machine) as port,
        connect(port, desk, await desk.ticket()) as first,
        connect(port, desk, await desk.ticket()) as second,
    ):
        shown = await first.picture()
        assert await second.picture() == shown
        assert await first.picture() == shown


async def test_a_resize_without_its_encoding_does_not_end_the_desktop(desk: Desk, machine: VncMachine) -> None:
    deadly = struct.pack("!BxHHBx", 251, 300, 200, 1) + struct.pack("!IHHHHI", 0, 0, 0, 300, 200, 0)
    async with platform_with(desk, machine) as port:
        async with connect(port, desk, await desk.ticket()) as viewer:
            await viewer.send(deadly)
            assert (await viewer.picture())[:2] == (machine.width, machine.height)
        assert machine.process.poll() is None


async def test_another_machine_at_the_address_is_not_shown(desk: Desk, machine: VncMachine) -> None:
    await desk.stands_at(machine.port, credentials.generate("visa-test"))
    target = tunnels.Target(
        host=machine.host,
        port=machine.port,
        password=machine.secret.password,
        certificate_pem=credentials.generate("visa-test").certificate,
        ranges=("127.0.0.0/8",),
    )

    for _ in range(20):
        with pytest.raises(tunnels.MachineSilent, match="another certificate"):
            async with tunnels.open_machine(target):
                pass


async def test_a_wrong_secret_opens_nothing_and_locks_nobody_out(desk: Desk, machine: VncMachine) -> None:
    target = tunnels.Target(
        host=machine.host,
        port=machine.port,
        password="another1",
        certificate_pem=machine.secret.certificate,
        ranges=("127.0.0.0/8",),
    )
    for _ in range(8):
        with pytest.raises(tunnels.MachineSilent, match="refuses its secret"):
            async with tunnels.open_machine(target):
                pass

    async with platform_with(desk, machine) as port, connect(port, desk, await desk.ticket()) as viewer:
        assert (await viewer.picture())[:2] == (machine.width, machine.height)


async def test_a_slow_reader_costs_little_memory_and_keeps_its_connection(desk: Desk, tmp_path: Path) -> None:
    """A screen of 3 MB that is asked for again and again, taken at some 20 kB/s, for eight seconds."""
    request = struct.pack("!BBHHHH", 3, 0, 0, 0, 1024, 768)
    with vnc_machine(tmp_path, width=1024, height=768) as large:
        async with platform_with(desk, large) as port:
            readers = [await slow_reader(port, desk, request) for _ in range(6)]
            before = memory()
            begun = time.monotonic()
            taken = 0
            while time.monotonic() - begun < 8:
                for reader, writer in readers:
                    taken += len(await asyncio.wait_for(reader.read(1024), 5))
                    writer.write(masked(b"\x81", f"p{taken}".encode()) if taken % 5 == 0 else b"")
                await asyncio.sleep(0.05)
            grown = memory() - before
            for _, writer in readers:
                assert not writer.is_closing()
                writer.transport.abort()

    assert taken > 500_000
    # the readers' own side is in this process too; tests/benchmarks/desktop_path.py measures the gateway alone
    assert grown < 6 * 512 * 1024


def memory() -> int:
    """What this process holds now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def slow_reader(port: int, desk: Desk, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A websocket by hand with small buffers, past the handshake, that has asked for many pictures."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    lines = [f"GET {desk.path} HTTP/1.1", "Host: testserver", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", f"Origin: {ORIGIN}"]
    lines += [f"Sec-WebSocket-Protocol: visa.desktop, ticket.{await desk.ticket()}"]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    assert b" 101 " in await reader.readline()
    for message in (b"RFB 003.008\n", b"\x01", b"\x01", *[request] * 20):
        writer.write(masked(b"\x82", message))
    return reader, writer


def masked(kind: bytes, data: bytes) -> bytes:
    """A client's frame (RFC 6455 5.2) with a mask of zeros."""
    return kind + bytes([0x80 | len(data)]) + bytes(4) + data
