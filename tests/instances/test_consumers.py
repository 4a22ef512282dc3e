"""The feed: only for somebody signed in, only about their own machines, and only as long as their session lives."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.models import Session
from django.test import Client

from instances import consumers
from instances.announcements import announce
from tests import factories
from visa.accounts.models import User

pytestmark = pytest.mark.django_db(transaction=True)

SITE = settings.SITE.url.encode()


def person() -> tuple[User, str]:
    """Somebody, and the cookie of their session."""
    user = factories.make_user()
    client = Client()
    client.force_login(user, backend="visa.accounts.oidc.Backend")
    return user, client.cookies[settings.SESSION_COOKIE_NAME].value


class Socket:
    """A page's socket to the feed, as the server and the application speak of it (ASGI, websocket)."""

    def __init__(self, cookie: str = "", origin: bytes | None = SITE, path: str = "/ws/instances/") -> None:
        headers = [(b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode())]
        if origin is not None:
            headers.append((b"origin", origin))
        self.scope: Any = {"type": "websocket", "path": path, "headers": headers, "query_string": b""}
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    async def opens(self) -> bool:
        # Not at the head of the file: the entrance wants the pages' parts, which are collected before the first test.
        from visa.asgi import application

        self.task = asyncio.create_task(application(self.scope, self.sent.get, self.answers.put))
        self.sent.put_nowait({"type": "websocket.connect"})
        return bool((await self.answer())["type"] == "websocket.accept")

    async def answer(self) -> Any:
        return await asyncio.wait_for(self.answers.get(), 5)

    async def told(self) -> object:
        return json.loads(str((await self.answer())["text"]))

    async def closed(self) -> object:
        answer = await self.answer()
        await self.close()
        return answer.get("code", answer)

    def says(self, text: str) -> None:
        self.sent.put_nowait({"type": "websocket.receive", "text": text})

    async def close(self) -> None:
        self.sent.put_nowait({"type": "websocket.disconnect", "code": 1000})
        if self.task is not None:
            await asyncio.wait_for(self.task, 5)


async def test_a_change_of_ones_own_machine_is_told_and_anothers_is_not() -> None:
    (owner, cookie), (other, _), instance = *[await sync_to_async(person)() for _ in range(2)], uuid4()
    socket = Socket(cookie)
    assert await socket.opens()

    await sync_to_async(announce)(uuid4(), other.public_id)
    await sync_to_async(announce)(instance, owner.public_id)

    assert await socket.told() == {"instance": str(instance)}
    await socket.close()
    assert socket.answers.empty()


@pytest.mark.parametrize("cookie", ["", "0123456789abcdef0123456789abcdef"])
async def test_nobody_signed_in_is_told_so_and_let_go(cookie: str) -> None:
    socket = Socket(cookie)

    assert await socket.opens()

    assert await socket.closed() == consumers.SIGNED_OUT


@pytest.mark.parametrize("origin", [None, b"https://evil.example", b"null", SITE + b".evil.example", SITE + b":9"])
async def test_another_sites_page_is_not_let_in(origin: bytes | None) -> None:
    _, cookie = await sync_to_async(person)()

    assert not await Socket(cookie, origin).opens()


@pytest.mark.parametrize("path", ["/ws/", "/ws/instances/1/desktop/", "/", "/ws/instances/../"])
async def test_an_address_that_there_is_not_is_refused(path: str) -> None:
    _, cookie = await sync_to_async(person)()

    assert not await Socket(cookie, path=path).opens()


async def test_the_end_of_the_session_ends_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "ASK_EVERY", timedelta(milliseconds=50))
    _, cookie = await sync_to_async(person)()
    socket = Socket(cookie)
    assert await socket.opens()

    await Session.objects.filter(session_key=cookie).adelete()

    assert await socket.closed() == consumers.SIGNED_OUT


async def test_a_change_after_the_session_ended_is_not_told() -> None:
    owner, cookie = await sync_to_async(person)()
    socket = Socket(cookie)
    assert await socket.opens()

    await User.objects.filter(pk=owner.pk).aupdate(is_active=False)
    await sync_to_async(announce)(uuid4(), owner.public_id)

    assert await socket.closed() == consumers.SIGNED_OUT


async def test_asking_does_not_lengthen_the_session() -> None:
    owner, cookie = await sync_to_async(person)()
    soon = (await Session.objects.aget(session_key=cookie)).expire_date - timedelta(minutes=50)
    socket = Socket(cookie)
    assert await socket.opens()
    await Session.objects.filter(session_key=cookie).aupdate(expire_date=soon)

    await sync_to_async(announce)(uuid4(), owner.public_id)
    await socket.told()

    assert (await Session.objects.aget(session_key=cookie)).expire_date == soon
    await socket.close()


async def test_whoever_talks_over_the_feed_is_cut_off() -> None:
    _, cookie = await sync_to_async(person)()
    socket = Socket(cookie)
    assert await socket.opens()

    socket.says("hello")

    assert await socket.closed() == 1008
