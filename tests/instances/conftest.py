"""Fixtures for machines: `vnc` is a real VNC server on loopback, and the desktops of `cloud` are that server."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.processes import free_port
from instances.cloud.memory import OFFERING, MemoryCloud
from instances.cloud.protocol import Desktop, Offering


@pytest.fixture(scope="session")
def vnc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desktop]:
    """A real Xvnc; it writes its display's number when it is ready, so that nothing has to wait and hope."""
    port = free_port()
    readable, writable = os.pipe()
    log = (tmp_path_factory.mktemp("vnc") / "log").open("wb")
    command = ["Xtigervnc", "-displayfd", str(writable), "-rfbport", str(port), "-interface", "127.0.0.1"]
    command += ["-SecurityTypes", "None", "-geometry", "320x200"]
    server = subprocess.Popen(command, pass_fds=[writable], stdout=log, stderr=log)
    os.close(writable)
    with os.fdopen(readable) as ready:
        assert ready.readline().strip(), Path(log.name).read_text()
    yield Desktop(host="127.0.0.1", port=port)
    server.terminate()
    server.wait(10)
    log.close()


@pytest.fixture
def cloud(vnc: Desktop) -> MemoryCloud:
    """A cloud that offers what the factories name."""
    offering = Offering(
        images=OFFERING.images | {"desktop"},
        flavours=OFFERING.flavours | {"small", "large"},
        networks=OFFERING.networks,
    )
    return MemoryCloud(desktop=vnc, offering=offering)
