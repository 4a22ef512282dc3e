"""Gateways for tests: uvicorn as it is deployed, in the test's own loop or as a process of its own."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from django.db import connection
from django.utils.module_loading import import_string

from deploy.processes import Running, accepts, free_port, start, wait_until
from visa import web


@contextlib.asynccontextmanager
async def serving(application: Any, *, stall_seconds: float = web.STALL_SECONDS) -> AsyncIterator[int]:
    """Serves the application on loopback; the port."""
    listener = web.listener("127.0.0.1", 0, stall_seconds=stall_seconds)
    config = uvicorn.Config(application, **web.OPTIONS, log_config=None, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
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

    def __init__(self, log: Path, *, machines_host: str = "") -> None:
        self.port = free_port()
        #: this host's address on the machines' network, where it serves as well; and by which they reach it
        self.machines_url = f"http://{machines_host}:{self.port}" if machines_host else ""
        self._machines_host = machines_host
        self._log = log
        self._running: Running | None = None

    def start(self) -> None:
        """Returns when it takes connections. Raises `NotReady`."""
        command = [sys.executable, "-m", "visa.web", "--port", str(self.port), "--grace", "2"]
        variables = os.environ | {"VISA_PROCESS": "web", "VISA_DATABASE_NAME": connection.settings_dict["NAME"]}
        if self._machines_host:
            command += ["--host", "127.0.0.1", "--host", self._machines_host]
            variables["VISA_GUEST_URL"] = self.machines_url
        self._running = start("web", command, log=self._log, environment=variables)
        wait_until(lambda: accepts(self.port), self._running, seconds=60)

    def stop(self) -> None:
        """Ends it as a deployment does."""
        if self._running is not None:
            self._running.stop()
