"""Bytes between a desktop's port on loopback and its sandbox, for as long as the sandbox lives. A program of its own:

    python -I -S relay.py LIFE    < the listening TCP socket, in a directory with the sandbox's socket, `desktop.sock`

LIFE is the number of a pipe's reading end, whose other end the sandbox holds (bwrap(1), --sync-fd): with the sandbox it
ends, and takes the socket's name away when the port is free again. Stands outside the sandbox, which so holds no socket
of the host's network. Only the standard library: each machine of the embedded cloud has one.
"""

import asyncio
import socket
import sys
from pathlib import Path
from typing import Final

#: by this name the sandbox's socket stands in the machine's folder
DESKTOP_SOCKET: Final = "desktop.sock"
_BLOCK: Final = 65536


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while block := await source.read(_BLOCK):
            target.write(block)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        inner_reader, inner_writer = await asyncio.open_unix_connection(DESKTOP_SOCKET, limit=_BLOCK)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _serve(listening: socket.socket, life: int) -> None:
    ended = asyncio.Event()
    # Nothing is ever written to it: readable, it is at its end.
    asyncio.get_running_loop().add_reader(life, ended.set)
    async with await asyncio.start_server(_relay, sock=listening, limit=_BLOCK):
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve(socket.socket(fileno=sys.stdin.fileno()), int(sys.argv[1])))
    Path(DESKTOP_SOCKET).unlink(missing_ok=True)
