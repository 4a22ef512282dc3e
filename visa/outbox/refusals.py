"""Whether PostgreSQL and Redis take what is written. PostgreSQL's refusals are heard where they happen; Redis is asked.

A database that takes nothing takes no word of it either: the log says so at once, each process remembers it, and who
tells people (the floors above) tells it when it is over. Every process hears for itself, and forgets when it ends.
"""

import logging
import threading
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError
from redis import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

#: the SQLSTATEs by which PostgreSQL refuses whatever is written, and why
DISK_FULL, READ_ONLY = "53100", "25006"
WHY: Final = {DISK_FULL: "there is no room on its disk", READ_ONLY: "it is read-only"}
#: a refusal so long after the one before it is said in the log again
SAY_AGAIN: Final = timedelta(minutes=1)
#: what Redis is given to keep, for as long as nobody asks again
PROBE, PROBE_SECONDS = "visa:takes", 60
#: seconds it may take over it
PATIENCE: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What the database refused, by its SQLSTATE; the first and the last time, on this process's monotonic clock."""

    state: str
    began: float
    last: float


@dataclass(kw_only=True)
class _Heard:
    refusal: Refusal | None = None
    #: what Redis said last; empty where it took it, None where it was not asked here
    redis: str | None = None


_heard = _Heard()
_lock = threading.Lock()


# --- PostgreSQL ----------------------------------------------------------------------------------------------------


def listen(connection: Any, **_more: Any) -> None:
    """Hears what this connection is refused: a receiver of Django's `connection_created`."""
    if _hear not in connection.execute_wrappers:
        # First: Django takes away a passing wrapper from the end.
        connection.execute_wrappers.insert(0, _hear)


def _hear(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
    try:
        return execute(sql, params, many, context)
    except DatabaseError as error:
        state = getattr(error.__cause__, "sqlstate", None)
        if state in WHY:
            _note(state)
        raise


def _note(state: str) -> None:
    now = time.monotonic()
    with _lock:
        known = _heard.refusal
        began = now if known is None else known.began
        _heard.refusal = Refusal(state=state, began=began, last=now)
    if known is None or now - known.last > SAY_AGAIN.total_seconds():
        log.critical("the database takes nothing: %s", WHY[state])


def over(quiet: timedelta) -> Refusal | None:
    """What this process was refused and is over, since nothing was refused for so long; None where nothing is."""
    found = _heard.refusal
    return found if found is not None and time.monotonic() - found.last > quiet.total_seconds() else None


def forget(refusal: Refusal) -> None:
    """It was told. What was refused meanwhile is another."""
    with _lock:
        known = _heard.refusal
        if known is not None and known.began == refusal.began:
            _heard.refusal = None if known.last == refusal.last else replace(known, began=known.last)


# --- Redis ---------------------------------------------------------------------------------------------------------


def keep_asking(stopping: threading.Event, pause: timedelta) -> None:
    """Asks Redis to keep something, again and again until told to stop: for a thread of its own.

    A Redis that hangs holds nobody else up, and the database is not needed.
    """
    while not stopping.is_set():
        said = ask()
        if said and not _heard.redis:
            log.error("Redis takes nothing: %s", said)
        elif not said and _heard.redis:
            log.warning("Redis takes what is written again")
        _heard.redis = said
        stopping.wait(pause.total_seconds())


def ask() -> str:
    """Gives Redis something to keep. Empty where it does; else what it says, or what became of it."""
    client = Redis.from_url(settings.REDIS_URL, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    try:
        client.set(PROBE, "1", ex=PROBE_SECONDS)
    except (RedisError, OSError) as error:
        said = (str(error).strip().splitlines() or [""])[0]
        return f"{type(error).__name__}: {said}"[:200]
    finally:
        client.close()
    return ""


def redis_says() -> str | None:
    """What Redis said when it was asked last: empty where it took what was written, None where nobody asks it here."""
    return _heard.redis
