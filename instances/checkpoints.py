"""The instants at which a process may die and nothing may be lost, by name. Pure; nothing happens here in production.

A test that wants a process to stop at one of them makes two named pipes in the directory that VISA_TEST_CHECKPOINTS
names, `<point>` and `<point>.go`. Whoever passes the point writes its process id into the first and then stands, until
it is killed or somebody opens the second for writing. System check `instances.E002` forbids the directory elsewhere.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

CLAIMED: Final = "claimed"  #: a row is leased, nothing was asked yet
PORT_CREATED: Final = "port_created"  #: the port was made, its id is not saved
INTENT_COMMITTED: Final = "intent_committed"  #: the create is announced in the row, not sent
SERVER_ACCEPTED: Final = "server_accepted"  #: Nova took the create, its answer is not written
ID_SAVED: Final = "id_saved"  #: the server's id is in the row
ACTIVE_SEEN: Final = "active_seen"  #: the server was seen to run, not written yet
READY_SEEN: Final = "ready_seen"  #: the desktop was seen to answer; neither written nor told
DELETE_BEFORE: Final = "delete_before"  #: about to order a deletion
DELETE_AFTER: Final = "delete_after"  #: the deletion is ordered, nothing is written
QUOTA_BEFORE_RELEASE: Final = "quota_before_release"  #: the end is proven; allowance and row still stand

#: the kill points of the fault matrix, in its order
ALL: Final = (
    CLAIMED,
    PORT_CREATED,
    INTENT_COMMITTED,
    SERVER_ACCEPTED,
    ID_SAVED,
    ACTIVE_SEEN,
    READY_SEEN,
    DELETE_BEFORE,
    DELETE_AFTER,
    QUOTA_BEFORE_RELEASE,
)

#: what passing a point does; nothing, but in tests
_passing: Callable[[str], None] | None = None


def arm(directory: str) -> None:
    """Lets tests stop this process from now on; an empty text means never, which is how a process begins."""
    told(partial(_stand, Path(directory)) if directory else None)


def told(passing: Callable[[str], None] | None) -> None:
    """Calls this with the name of each point that is passed, for tests that die within their own process."""
    global _passing
    _passing = passing


def checkpoint(point: str) -> None:
    """Passes a point. Stands there where a test has made its pipes."""
    if _passing is not None:
        _passing(point)


def _stand(directory: Path, point: str) -> None:
    try:
        # Each open waits for the other side, and neither makes what is not there: nothing here polls.
        with open(os.open(directory / point, os.O_WRONLY), "w") as pipe:  # noqa: PTH123 - a descriptor
            pipe.write(f"{os.getpid()}\n")
        with (directory / f"{point}.go").open() as pipe:
            pipe.read()
    except FileNotFoundError:
        return
