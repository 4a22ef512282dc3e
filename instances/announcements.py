"""Say over the channel layer that something changed. Ids only: whoever listens asks again for the truth.

Lossy by nature: pages also ask by themselves, so that a Redis that is away costs freshness and nothing else.
"""

import logging
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


def person_group(person: UUID) -> str:
    """The group every page of a person listens to."""
    return f"person.{person}"


def announce(instance_id: UUID, person: UUID) -> None:
    """Tells the owner's open pages that this machine changed. Call it after the commit."""
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        async_to_sync(layer.group_send)(
            person_group(person), {"type": "instance.changed", "instance": str(instance_id)}
        )
    except (RedisError, OSError) as error:
        log.warning("instance %s changed and nobody could be told: %s", instance_id, type(error).__name__)
