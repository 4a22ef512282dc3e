"""Fixtures for machines: the desktops of `cloud` are the real VNC server of `vnc`."""

import pytest

from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import Desktop
from tests import machines


@pytest.fixture
def cloud(vnc: Desktop) -> MemoryCloud:
    """A cloud that offers what the factories name."""
    return machines.memory_cloud(vnc)
