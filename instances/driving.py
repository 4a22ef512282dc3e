"""Worker side: what a driver does over and over: it watches, and takes what is due, several steps at once.

Most of a step is waiting.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Final

from django.db import connections

from instances import provisioning, transitions, watch
from instances.cloud.protocol import Cloud, CloudError

log = logging.getLogger(__name__)

#: so many steps at once in one process, each with a connection to each of the cloud's services
STEPS_AT_ONCE: Final = 4


def warm_up(cloud: Cloud) -> threading.Thread:
    """Has this process sign in at the cloud, be known to its services and learn what there is, beside whatever it does.

    Otherwise the first person whose machine it makes waits for that, for some seconds. What fails here fails at
    nobody's cost.
    """
    warming = threading.Thread(target=_warm_up, args=(cloud,), name="warm-up", daemon=True)
    warming.start()
    return warming


def _warm_up(cloud: Cloud) -> None:
    try:
        cloud.offering()
    except CloudError as error:
        log.warning("this process is not known to the cloud yet: %s: %s", type(error).__name__, error)


def watch_over(cloud: Cloud, stopping: threading.Event | None = None) -> None:
    """One turn of the watch, and the steps of those that it saw come up; none begins once `stopping` is set."""
    for instance_id, server in watch.turn(cloud).items():
        if stopping is not None and stopping.is_set():
            return
        provisioning.advance(cloud, instance_id, told=server)


def take_due(cloud: Cloud, rows: int) -> None:
    """Takes due rows, longest waiting first, until none is left or about so many are done.

    A thread whose step was taken from it ends early; what it leaves is for the next call.
    """
    share = -(-rows // STEPS_AT_ONCE)
    crew = [_pool().submit(_some, cloud, share) for _ in range(STEPS_AT_ONCE)] if transitions.anything_due() else []
    try:
        provisioning.advance(cloud)  # asked for in any case: it also tells of a cloud that is silent
    finally:
        wait(crew)


@cache
def _pool() -> ThreadPoolExecutor:
    """This process's threads: kept, and with them their connections to the cloud. Made where it is first used, and so
    after the fork of a worker's processes."""
    return ThreadPoolExecutor(STEPS_AT_ONCE, thread_name_prefix="steps")


def _some(cloud: Cloud, rows: int) -> None:
    try:
        for _ in range(rows):
            if provisioning.advance(cloud) is None:
                return
    except Exception:
        # Whatever broke, the others go on; the row is due again when its lease has ended.
        log.exception("a step failed")
    finally:
        connections.close_all()
