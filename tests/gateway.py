"""Gateways for tests: uvicorn as it is deployed, in the test's own loop or as a process of its own."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from django.db import connection
from django.utils.module_loading import import_string

from deploy.processes import Running, accepts, free_port, start, wait_until

#: what the desktop path is deployed with (threats: message limit, no compression)
OPTIONS: dict[str, Any] = {
    "ws": "websockets-sansio",
    "ws_max_size": 65536,
    "ws_per_message_deflate": False,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "lifespan": "off",
    "log_config": None,
}


@contextlib.asynccontextmanager
async def serving(application: Any) -> AsyncIterator[int]:
    """Serves the application on loopback; the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, **OPTIONS, timeout_graceful_shutdown=2))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn tells it by this alone
            await asyncio.sleep(0.01)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task
        listener.close()


def platform() -> Any:
    """The platform's web entrance. Loaded here, not imported: it wants the pages' parts collected first."""
    return import_string("visa.asgi.application")


class WebProcess:
    """The platform's web process before the database of this test; it can be ended and started again at one port."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self._running: Running | None = None

    def start(self) -> None:
        """Returns when it takes connections. Raises `NotReady`."""
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "visa.asgi:application",
            "--port",
            str(self.port),
            "--lifespan",
            "off",
        ]
        command += ["--loop", "uvloop", "--ws", "websockets-sansio", "--ws-max-size", "65536"]
        command += ["--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "2"]
        variables = os.environ | {"VISA_PROCESS": "web", "VISA_DATABASE_NAME": connection.settings_dict["NAME"]}
        self._running = start("web", command, log=self._log, environment=variables)
        wait_until(lambda: accepts(self.port), self._running, seconds=60)

    def stop(self) -> None:
        """Ends it as a deployment does."""
        if self._running is not None:
            self._running.stop()
