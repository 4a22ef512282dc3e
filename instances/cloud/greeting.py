"""Whether a machine's desktop answers: one TCP connection and the first twelve bytes of RFB (RFC 6143 section 7.1.1).

A look, not a proof: the gateway proves the machine's identity by its certificate before any picture passes.
"""

import asyncio
import contextlib
import socket
from collections.abc import Collection

from instances.cloud.protocol import Desktop

#: how long a machine may take to greet, in seconds
PATIENCE = 3.0
#: so many are asked at once
AT_ONCE = 200
_GREETING = b"RFB 003."


def desktop_answers(desktop: Desktop) -> bool:
    """True where an RFB server greets at this address within `PATIENCE`."""
    greeting = b""
    try:
        with socket.create_connection((desktop.host, desktop.port), timeout=PATIENCE) as connection:
            while len(greeting) < 12:
                more = connection.recv(12 - len(greeting))
                if not more:
                    break
                greeting += more
    except OSError:
        return False
    return greeting.startswith(_GREETING)


def which_answer(desktops: Collection[Desktop], *, patience: float = PATIENCE, at_once: int = AT_ONCE) -> set[Desktop]:
    """Those of many that greet, asked side by side: one that is silent costs the others nothing.

    Each has `patience` seconds from when it is asked. On a busy host few `at_once` are answered in time, many are not.
    """
    return asyncio.run(_which(set(desktops), patience, at_once)) if desktops else set()


async def _which(desktops: set[Desktop], patience: float, at_once: int) -> set[Desktop]:
    places = asyncio.Semaphore(at_once)

    async def ask(desktop: Desktop) -> Desktop | None:
        async with places:
            try:
                async with asyncio.timeout(patience):
                    reader, writer = await asyncio.open_connection(desktop.host, desktop.port)
                    try:
                        greeting = await reader.readexactly(12)
                    finally:
                        writer.close()
                        with contextlib.suppress(OSError):
                            await writer.wait_closed()
            except (OSError, asyncio.IncompleteReadError):
                return None
            return desktop if greeting.startswith(_GREETING) else None

    return {one for one in await asyncio.gather(*map(ask, desktops)) if one is not None}
