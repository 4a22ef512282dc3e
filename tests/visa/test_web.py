"""The web process's socket: a viewer that never reads is dropped by the kernel, a slow one is not."""

import asyncio
import socket
import time
from typing import Any

from tests.gateway import serving

BLOCK = bytes(65536)
UPGRADE = b"\r\n".join(
    [
        b"GET / HTTP/1.1",
        b"Host: testserver",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        b"",
        b"",
    ]
)
#: seconds; short for the test, and still many times what two busy cores may keep a reader waiting
STALL = 3.0


class Flood:
    """An application that sends without end, to whoever opens a websocket; `over` says that it cannot any more."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": BLOCK})
        except OSError:
            self.over.set()


async def viewer(port: int) -> socket.socket:
    """A websocket with little room on its side."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    made.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(made, ("127.0.0.1", port))
    await loop.sock_sendall(made, UPGRADE)
    return made


async def test_a_viewer_that_never_reads_is_dropped() -> None:
    flood = Flood()
    async with serving(flood, stall_seconds=STALL) as port:
        begun = time.monotonic()
        with await viewer(port):
            async with asyncio.timeout(30):
                await flood.over.wait()

            assert time.monotonic() - begun > STALL / 2


async def test_a_viewer_that_reads_a_little_now_and_then_stays() -> None:
    flood, loop = Flood(), asyncio.get_running_loop()
    async with serving(flood, stall_seconds=STALL) as port:
        with await viewer(port) as slow:
            until = time.monotonic() + 3 * STALL
            while time.monotonic() < until:
                assert await loop.sock_recv(slow, 65536)
                await asyncio.sleep(STALL / 20)

            assert not flood.over.is_set()
        async with asyncio.timeout(30):
            await flood.over.wait()
