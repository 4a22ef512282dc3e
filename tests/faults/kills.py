"""Stopping a driver of the platform at one named instant, and killing it there."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path


class Point:
    """One checkpoint that has been made to stop whoever passes it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.arrived = directory / name
        self.go = directory / f"{name}.go"
        os.mkfifo(self.go)
        os.mkfifo(self.arrived)
        # Open for reading and writing, so that nobody waits for the other side to open: who arrives writes and goes on
        # to read the second pipe, which ends when this side closes it.
        self._held = os.open(self.go, os.O_RDWR | os.O_NONBLOCK)
        self._pipe = os.open(self.arrived, os.O_RDWR | os.O_NONBLOCK)
        self._heard = b""

    def pid(self, seconds: float) -> int:
        """The process that stands here. Raises TimeoutError where none comes."""
        end = time.monotonic() + seconds
        while b"\n" not in self._heard:
            if not select.select([self._pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"nobody came to {self.arrived.name} in {seconds:.0f} s")
            self._heard += os.read(self._pipe, 100)
        line, _newline, self._heard = self._heard.partition(b"\n")
        return int(line)

    def close(self) -> None:
        """Nobody stops here any more; whoever stands here goes on."""
        self.arrived.unlink(missing_ok=True)
        self.go.unlink(missing_ok=True)
        os.close(self._held)
        os.close(self._pipe)


@contextlib.contextmanager
def stopped_at(directory: Path, name: str) -> Iterator[Point]:
    """Within the block whoever passes this checkpoint stops there."""
    point = Point(directory, name)
    try:
        yield point
    finally:
        point.close()


def kill_at(directory: Path, name: str, *, seconds: float) -> int:
    """Waits for a process at this checkpoint and kills it there; nobody stops there afterwards. Returns its id."""
    with stopped_at(directory, name) as point:
        pid = point.pid(seconds)
        point.arrived.unlink(missing_ok=True)  # before its successor comes by
        os.kill(pid, signal.SIGKILL)
        return pid
