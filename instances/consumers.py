"""The feed: tells a person's open pages which of their machines changed. Ids only; the page asks for the rest."""

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.utils import timezone
from redis.exceptions import RedisError
from typing_extensions import override

from instances.announcements import person_group

log = logging.getLogger(__name__)

#: how often an idle feed asks whether its session still lives
ASK_EVERY = timedelta(seconds=30)
SIGNED_OUT = 4401
NOT_NOW = 1013


class InstanceFeedConsumer(AsyncJsonWebsocketConsumer):
    """Joined to its person's group for as long as the web session lives. Takes nothing from the browser."""

    group = ""
    watch: asyncio.Task[None] | None = None

    @override
    async def connect(self) -> None:
        await self.accept()
        user = self.scope.get("user")
        if user is None or not user.is_authenticated or not await self._signed_in():
            await self.close(SIGNED_OUT)
            return
        group = person_group(user.public_id)
        try:
            await self.channel_layer.group_add(group, self.channel_name)
        except (RedisError, OSError) as error:
            # Freshness is lost and nothing else: the page asks by itself and comes back later.
            log.warning("a feed could not be joined: %s", type(error).__name__)
            await self.close(NOT_NOW)
            return
        self.group = group
        self.watch = asyncio.create_task(self._watch())

    @override
    async def disconnect(self, code: int) -> None:
        if self.watch is not None:
            self.watch.cancel()
        if self.group:
            with contextlib.suppress(RedisError, OSError):
                await self.channel_layer.group_discard(self.group, self.channel_name)

    @override
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        # Nothing is asked over this socket; whoever talks is not our page.
        await self.close(1008)

    async def instance_changed(self, event: dict[str, str]) -> None:
        """One of the person's machines changed."""
        if await self._signed_in():
            await self.send_json({"instance": event["instance"]})
        else:
            await self.close(SIGNED_OUT)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(ASK_EVERY.total_seconds())
            if not await self._signed_in():
                await self.close(SIGNED_OUT)
                return

    @database_sync_to_async
    def _signed_in(self) -> bool:
        """Whether the session and the person are still good. Asking does not lengthen the session's life."""
        user, session = self.scope.get("user"), self.scope.get("session")
        if user is None or not user.is_authenticated or session is None or not session.session_key:
            return False
        alive = Session.objects.filter(session_key=session.session_key, expire_date__gt=timezone.now())
        return alive.exists() and get_user_model().objects.filter(pk=user.pk, is_active=True).exists()
