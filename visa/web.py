"""The web process: `python -m visa.web`, uvicorn as desktops need it, in one place for production, demo and tests.

Knows uvicorn and sockets, and the application by its name only. A viewer that never reads cannot be closed from
within (`close` waits for what it does not take), so the kernel gives such a peer up.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

import uvicorn

APPLICATION: Final = "visa.asgi:application"
#: a peer that has taken nothing for so long is dropped; a slow one takes something now and then
STALL_SECONDS: Final = 60

OPTIONS: Final[dict[str, Any]] = {
    "http": "httptools",
    # has the write flow control that a slow viewer needs
    "ws": "websockets-sansio",
    # a browser's messages are small; pictures do not compress twice, and a compressed socket invites bombs
    "ws_max_size": 65536,
    "ws_per_message_deflate": False,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    # what a client says of itself is not believed
    "proxy_headers": False,
    "server_header": False,
    "access_log": False,
    "lifespan": "off",
}


def listener(host: str, port: int, *, stall_seconds: float = STALL_SECONDS) -> socket.socket:
    """A socket that listens, and whose connections the kernel ends when the peer takes nothing for so long.

    TCP_USER_TIMEOUT (tcp(7)) counts while bytes are not acknowledged and while the peer's window is closed; accepted
    sockets inherit it from the one that listens. Raises OSError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.create_server((host, port), family=family)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall_seconds * 1000))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is told to end (SIGTERM, SIGINT); the exit status."""
    parser = argparse.ArgumentParser(prog="python -m visa.web", description=main.__doc__)
    parser.add_argument("--host", action="append", help="an address to listen at; 127.0.0.1, or one or more of these")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="a TCP port of HOST")
    where.add_argument("--uds", help="a Unix socket, for a front proxy on this host")
    parser.add_argument("--grace", type=int, default=3, help="seconds for answers under way when it is to end")
    said = parser.parse_args(arguments)
    hosts = said.host or ["127.0.0.1"]
    config = uvicorn.Config(APPLICATION, **OPTIONS, loop="uvloop", uds=said.uds, timeout_graceful_shutdown=said.grace)
    server = uvicorn.Server(config)
    try:
        server.run(sockets=None if said.uds else [listener(host, said.port) for host in hosts])
    except OSError as error:
        place = said.uds or f"{', '.join(hosts)}, port {said.port}"
        sys.stderr.write(f"Nobody can be served at {place}: {error}\n")
    return 0 if server.started else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(main())
