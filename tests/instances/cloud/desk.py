"""A desktop of the embedded cloud as its gateway sees it: over TLS with its own certificate, by keys and clipboard."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

from deploy.viewer import ENCODINGS, Viewer
from instances.cloud.protocol import Desktop
from instances.desktop.tunnel import Machine, Target, open_machine
from instances.userdata import DesktopSecret

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection


class _Direct:
    """What the viewer needs of a websocket, straight to the machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def send(self, data: bytes) -> None:
        await self._machine.write(data)

    async def recv(self) -> bytes:
        if data := await self._machine.read():
            return data
        await asyncio.Event().wait()  # ended: nothing comes any more
        return b""


@contextlib.asynccontextmanager
async def sitting_at(desktop: Desktop, secret: DesktopSecret) -> AsyncIterator[Viewer]:
    """A viewer in front of this desktop, which proved by its certificate that it is the one meant."""
    target = Target(
        host=desktop.host,
        port=desktop.port,
        password=secret.password,
        certificate_pem=secret.certificate,
        ranges=("127.0.0.0/8",),
    )
    async with open_machine(target) as machine:
        viewer = Viewer(cast("ClientConnection", _Direct(machine)))
        viewer.width, viewer.height, viewer.name = machine.screen.width, machine.screen.height, machine.screen.name
        viewer._pixels = bytearray(viewer.width * viewer.height * 4)
        await viewer.send(struct.pack("!BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 0, 8, 16))
        await viewer.send(struct.pack(f"!BxH{len(ENCODINGS)}i", 2, len(ENCODINGS), *ENCODINGS))
        reading = asyncio.create_task(viewer._read())
        try:
            yield viewer
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


async def ask(desktop: Desktop, secret: DesktopSecret, command: str) -> list[str]:
    """Types a command into the desktop's terminal and returns the lines it put out, by way of the clipboard."""
    async with sitting_at(desktop, secret) as viewer:
        # What is typed before the shell reads is kept by the terminal; before there is a window it is lost.
        await terminal_is_there(viewer)
        await viewer.type(f"{command} 2>&1 | xclip -selection clipboard\n")
        return (await viewer.clipboard()).splitlines()


async def terminal_is_there(viewer: Viewer) -> None:
    """Returns when a window with the terminal's background covers the place where it is put."""
    async with asyncio.timeout(20):
        while True:
            width, _, pixels = await viewer.picture()
            spots = [((y * width) + x) * 4 for x, y in ((300, 300), (500, 400), (300, 450))]
            if all(pixels[spot : spot + 3] == bytes((0x10, 0x16, 0x1B)) for spot in spots):
                return
            await asyncio.sleep(0.05)
