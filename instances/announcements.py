"""Say over the channel layer that something changed. Ids only: whoever listens asks again for the truth.

Lossy by nature: pages also ask by themselves, so that a Redis that is away costs freshness and nothing else.
"""

import asyncio
import logging
import time
from typing import Final
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

#: a Redis that takes longer is away: people wait for what follows an announcement, never for the announcement
SECONDS: Final = 0.5
#: for so long nothing is announced then, so that a hundred changes do not wait a hundred times
PAUSE: Final = 2.0
_away_until = 0.0


def person_group(person: UUID) -> str:
    """The group every page of a person listens to."""
    return f"person.{person}"


def announce(instance_id: UUID, person: UUID) -> None:
    """Tells the owner's open pages that this machine changed. Call it after the commit."""
    global _away_until
    layer = get_channel_layer()
    if layer is None or time.monotonic() < _away_until:
        return
    message = {"type": "instance.changed", "instance": str(instance_id)}

    async def send() -> None:
        async with asyncio.timeout(SECONDS):
            await layer.group_send(person_group(person), message)

    try:
        async_to_sync(send)()
    except (RedisError, OSError) as error:
        _away_until = time.monotonic() + PAUSE
        log.warning("instance %s changed and nobody could be told: %s", instance_id, type(error).__name__)
