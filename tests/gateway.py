"""A gateway for tests: uvicorn as it is deployed, around any ASGI application, in the test's own event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from django.utils.module_loading import import_string

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
