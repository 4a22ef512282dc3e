"""Desktops for servers that do not boot: one real Xvnc that every address of the machines' network leads to.

Nova's fake driver gives its servers addresses and nothing behind them. Here the host takes all of these addresses for
its own and passes each connection on to one Xvnc, so that what asks for a greeting is greeted by a real desktop. All of
them may hang, an address may refuse, speak of something else, or be kept back until the test opens it.
"""

import asyncio
import contextlib
import ipaddress
import os
import signal
import subprocess
import threading
from types import TracebackType
from typing import Self

PORT = 5901
#: what is no greeting of RFB, and longer than one
BABBLE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"


class Desks:
    """Enter it, and every machine's desktop answers. `closed` are addresses that refuse; `only` are all that answer.

    At those that are `babbling` somebody speaks HTTP; `babbled` counts how often each was asked.
    """

    def __init__(self, network: str) -> None:
        self.network = ipaddress.ip_network(network)
        self.closed: set[str] = set()
        self.babbling: set[str] = set()
        self.babbled: dict[str, int] = {}
        self.shut = False
        self.only: set[str] | None = None
        self.greeted: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="desks")
        self._ready = threading.Event()
        self._xvnc: subprocess.Popen[bytes] | None = None
        self._display = 0

    def freeze(self) -> None:
        """Every desktop hangs: connections are taken and nothing is said."""
        assert self._xvnc is not None
        self._xvnc.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """They go on."""
        assert self._xvnc is not None
        self._xvnc.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        readable, writable = os.pipe()
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            "Xtigervnc",
            "-displayfd",
            str(writable),
            "-rfbport",
            "15901",
            "-interface",
            "127.0.0.1",
        ]
        command += ["-SecurityTypes", "None", "-geometry", "320x200", "-AlwaysShared"]
        self._xvnc = subprocess.Popen(
            command, pass_fds=[writable], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(writable)
        with os.fdopen(readable) as ready:
            assert ready.readline().strip(), "Xvnc did not start"
        self._route("replace")
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._route("del")
        if self._xvnc is not None:
            self._xvnc.kill()
            self._xvnc.wait()

    def _route(self, verb: str) -> None:
        # "local": the kernel takes every address of the network for one of this host's own
        subprocess.run(["ip", "route", verb, "local", str(self.network), "dev", "lo"], check=True, capture_output=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def begin() -> None:
            await asyncio.start_server(self._pass, "0.0.0.0", PORT, backlog=1024)  # noqa: S104 - all of the machines'
            self._ready.set()

        self._loop.run_until_complete(begin())
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        refused = self.shut or address in self.closed or (self.only is not None and address not in self.only)
        if refused or ipaddress.ip_address(address) not in self.network:
            writer.close()
            return
        if address in self.babbling:
            self.babbled[address] = self.babbled.get(address, 0) + 1
            writer.write(BABBLE)  # goes out before the connection ends
            writer.close()
            return
        self.greeted[address] = self.greeted.get(address, 0) + 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            back, forth = await asyncio.open_connection("127.0.0.1", 15901)
            await asyncio.gather(_copy(reader, forth), _copy(back, writer))
        writer.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while block := await source.read(65536):
        sink.write(block)
        await sink.drain()
    sink.close()
