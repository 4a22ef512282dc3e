"""Say to whoever drives machines that something is due, over PostgreSQL (NOTIFY), so that it is taken at once.

A hint and no more: drivers ask by themselves as well. It needs no Redis and no right on any table. Behind a pooler that
does not keep connections (LISTEN is lost there) it is never heard, and costs a driver's usual pause.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from django.db import DatabaseError, InterfaceError, connection, transaction

log = logging.getLogger(__name__)

CHANNEL: Final = "visa_due"
#: a lost line is tried again so much later, in seconds, and a stopping driver is noticed within as long
AGAIN: Final = 1.0


def say() -> None:
    """Tells all drivers, after the commit of whatever is being written; at once where nothing is."""
    # After it and not in it: PostgreSQL lets those who notify commit one after the other only, disk and all.
    transaction.on_commit(_say, robust=True)


def _say() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {CHANNEL}")


def listen(stopping: threading.Event, heard: Callable[[], None]) -> None:
    """Calls `heard` for whatever is said, until `stopping`; begins anew where the line is lost.

    Takes this thread's own connection for itself.
    """
    while not stopping.is_set():
        try:
            _listen(stopping, heard)
        except (DatabaseError, InterfaceError) as error:
            log.warning("what becomes due is not heard of, and asked for: %s", type(error).__name__)
        finally:
            connection.close()
        stopping.wait(AGAIN)


def _listen(stopping: threading.Event, heard: Callable[[], None]) -> None:
    with connection.cursor() as cursor:
        # It asks nothing: the doctor must not take it for the loop, which does.
        cursor.execute("SELECT set_config('application_name', current_setting('application_name') || '-ears', false)")
        cursor.execute(f"LISTEN {CHANNEL}")
    heard()  # what was said before
    with connection.wrap_database_errors:
        while not stopping.is_set():
            for _one in connection.connection.notifies(timeout=AGAIN):
                heard()
