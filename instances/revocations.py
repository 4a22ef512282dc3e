"""Say over Redis that grants were revoked, so that gateways ask at once instead of within a second. Ids only.

A hint and no more: each gateway asks by itself each second, and believes its own question alone. A Redis that is away,
hangs or loses a message costs that second and nothing else.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Collection
from typing import Final
from uuid import UUID

from django.conf import settings
from redis import Redis
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

CHANNEL: Final = "visa.revoked"
#: ids in one message
MOST: Final = 500
#: a Redis that takes longer to be told is away
SECONDS: Final = 1.0
#: how long a lost line stays lost, and how often a quiet one is tried
AGAIN_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 20.0


def say(grant_ids: Collection[UUID]) -> None:
    """Hints that these grants were revoked. Call it after the commit; it waits for nothing."""
    # A thread for each, not a queue: revocations are few, and it works in every process, forked ones too.
    threading.Thread(target=_publish, args=(tuple(grant_ids),), name="revocations", daemon=True).start()


def _publish(grant_ids: tuple[UUID, ...]) -> None:
    try:
        with Redis.from_url(settings.REDIS_URL, socket_timeout=SECONDS, socket_connect_timeout=SECONDS) as client:
            for start in range(0, len(grant_ids), MOST):
                client.publish(CHANNEL, json.dumps([str(one) for one in grant_ids[start : start + MOST]]))
    except (RedisError, OSError) as error:
        log.warning("gateways were not told of %d revocations: %s", len(grant_ids), type(error).__name__)


async def listen(heard: Callable[[frozenset[str] | None], None]) -> None:
    """Tells `heard` the ids that are said to be revoked, until it is cancelled; begins anew where Redis was away.

    Whenever it begins to hear it tells None: what was said before that, was said to nobody.
    """
    while True:
        try:
            await _listen(heard)
        except (RedisError, OSError) as error:
            log.warning("revocations are not heard of, and asked for each second: %s", type(error).__name__)
        except Exception:
            # Only a hint is lost by it; a listener that ended would never hear another.
            log.exception("revocations are not heard of, and asked for each second")
        await asyncio.sleep(AGAIN_SECONDS)


async def _listen(heard: Callable[[frozenset[str] | None], None]) -> None:
    # Its own connection, not the channel layer's: one task, no queue that could fill, and nothing shared with pages.
    # Without the client's own attempts to connect again: one that half succeeds looks like a line, and hears nothing.
    client = aioredis.from_url(settings.REDIS_URL, socket_connect_timeout=SECONDS, retry=Retry(NoBackoff(), 0))
    async with client, client.pubsub() as line:
        await line.subscribe(CHANNEL)
        while True:
            message = await line.get_message(timeout=QUIET_SECONDS)
            if message is None:
                await line.ping()
            elif message["type"] == "subscribe":
                heard(None)
            elif message["type"] == "message":
                heard(_ids(message["data"]))


def _ids(data: bytes) -> frozenset[str]:
    """The ids of a message; none where somebody else wrote it."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(one for one in told if isinstance(one, str)) if isinstance(told, list) else frozenset()
