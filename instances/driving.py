"""Worker side: what a driver does over and over. It watches, and takes what is due until nothing is, several steps at
once, since most of a step is waiting."""

import logging
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Final

from django.db import connections

from instances import provisioning, transitions, watch
from instances.cloud.protocol import Cloud

log = logging.getLogger(__name__)

#: so many steps at once in one process
STEPS_AT_ONCE: Final = 8


def watch_over(cloud: Cloud) -> None:
    """One turn of the watch, and the steps of those machines that it saw come up."""
    for instance_id, server in watch.turn(cloud).items():
        provisioning.advance(cloud, instance_id, told=server)


def take_due(cloud: Cloud, rows: int) -> None:
    """Takes due rows, longest waiting first, until none is left or about so many are done; then returns."""
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
