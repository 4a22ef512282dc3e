"""Real processes for tests: a whole platform with the embedded cloud, and identity providers of a test's own.

A platform is what `deploy/demo` runs, in a directory of the run: its own PostgreSQL, Redis, identity provider, web,
worker, beat and reconciler. Tests speak to it as people do, by HTTP and websocket.
"""

import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.demo_platform import DemoPlatform
from deploy.processes import ROOT, Running, free_port, start_identity_provider
from instances.cloud.protocol import Desktop
from tests.environment import DIRECTORY

_number = itertools.count(1)


@contextmanager
def whole_platform() -> Iterator[DemoPlatform]:
    """A platform with the demo's people, data and offers; its desktops end with it."""
    name = f"platform-{next(_number)}"
    platform = DemoPlatform(DIRECTORY / name, port=free_port(), environment=name, durable=False)
    try:
        with platform:
            yield platform
    finally:
        platform.clear()


@contextmanager
def vnc_server(log: Path) -> Iterator[tuple[Desktop, subprocess.Popen[bytes]]]:
    """A real Xvnc; it writes its display's number when it is ready, so that nothing has to wait and hope."""
    port = free_port()
    readable, writable = os.pipe()
    command = ["Xtigervnc", "-displayfd", str(writable), "-rfbport", str(port), "-interface", "127.0.0.1"]
    command += ["-SecurityTypes", "None", "-geometry", "320x200"]
    with log.open("wb") as told:
        server = subprocess.Popen(command, pass_fds=[writable], stdout=told, stderr=told)
    os.close(writable)
    with os.fdopen(readable) as ready:
        assert ready.readline().strip(), log.read_text()
    yield Desktop(host="127.0.0.1", port=port), server
    server.terminate()
    server.wait(10)


@contextmanager
def identity_provider(
    sites: Sequence[Mapping[str, str]],
    *,
    cast: Sequence[Mapping[str, object]] | None = None,
    api_clients: Sequence[str] = (),
    port: int = 0,
) -> Iterator[Running]:
    """An OpenID provider that knows `sites` ({slug, url, client_id, client_secret}); `facts["issuer"]` says where.

    Its people are the demo's, or `cast`.
    """
    directory = DIRECTORY / f"identity-{next(_number)}"
    directory.mkdir()
    people = ROOT / "deploy" / "identity" / "cast.json"
    if cast is not None:
        people = directory / "cast.json"
        people.write_text(json.dumps(list(cast)), encoding="utf-8")
    configuration = {
        "port": port,
        "cast": str(people),
        "relying_parties": list(sites),
        "api_clients": list(api_clients),
    }
    with start_identity_provider(configuration, directory=directory, log=directory / "log") as provider:
        yield provider
