"""How soon a revocation is heard of: at once where Redis carries it, within the next question where it does not."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from uuid import UUID

import pytest
from django.conf import settings as site
from django.db import transaction
from pytest_django import Settings
from redis import Redis

from deploy.processes import Running, start_redis
from instances import grants, revocations
from instances.desktop import endpoint
from instances.models import AccessGrant
from tests import factories
from tests.environment import DIRECTORY
from tests.gateway import platform, serving
from tests.instances.desktop.conftest import Desk, in_database, make_desk
from tests.instances.desktop.machines import keep, scripted_machine
from tests.instances.desktop.test_endpoint import connect, stalled
from tests.instances.desktop.test_tunnel import flood

#: longer than a test: what is asked within it was asked for a hint
NEVER = 600.0


@pytest.fixture
def redis(settings: Settings) -> Iterator[Running]:
    """A Redis of this test's own."""
    with start_redis(DIRECTORY / "redis-of-revocations", log=DIRECTORY / "log" / "redis-of-revocations.log") as running:
        settings.REDIS_URL = running.facts["url"]
        yield running


def listeners() -> int:
    """How many gateways listen for revocations."""
    with Redis.from_url(site.REDIS_URL) as client:
        return int(client.pubsub_numsub(revocations.CHANNEL)[0][1])


async def heard_of(number: int = 1) -> None:
    """Returns when so many listen: a gateway begins to when its first desktop opens."""
    async with asyncio.timeout(20):
        while await asyncio.to_thread(listeners) != number:  # noqa: ASYNC110 - Redis tells nobody of it
            await asyncio.sleep(0.02)


def tell(message: bytes) -> None:
    with Redis.from_url(site.REDIS_URL) as client:
        client.publish(revocations.CHANNEL, message)


def another_desk() -> Desk:
    return make_desk(factories.make_user())


def end_the_session(desk: Desk) -> None:
    grants.revoke_session(desk.session_key, cause="signed_out")


def end_the_machine(desk: Desk) -> None:
    grants.revoke_machine(desk.instance_id, cause="stopped")


@pytest.mark.parametrize("reading", [True, False], ids=["reading", "stalled"])
async def test_a_revocation_that_is_told_cuts_without_waiting_for_the_next_question(
    desk: Desk, redis: Running, monkeypatch: pytest.MonkeyPatch, reading: bool
) -> None:
    monkeypatch.setattr(endpoint, "ASK_SECONDS", NEVER)
    other = await in_database(another_desk)
    async with (
        serving(platform()) as port,
        scripted_machine(keep if reading else flood) as machine,
        scripted_machine(keep) as untouched,
    ):
        await desk.stands_at(machine.port, machine.secret)
        await other.stands_at(untouched.port, untouched.secret)
        async with (
            (connect if reading else stalled)(port, desk, await desk.ticket()),
            connect(port, other, await other.ticket()),
        ):
            await heard_of()
            begun = time.monotonic()
            await in_database(end_the_session, desk)
            async with asyncio.timeout(10):
                await machine.ended.wait()

            assert time.monotonic() - begun < 1
            assert not untouched.ended.is_set()


async def test_without_redis_nobody_waits_and_the_next_question_cuts(
    desk: Desk, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.REDIS_URL = f"unix://{DIRECTORY}/no-redis-here.sock"
    async with serving(platform()) as port, scripted_machine(keep) as machine:
        await desk.stands_at(machine.port, machine.secret)
        async with connect(port, desk, await desk.ticket()):
            begun = time.monotonic()
            await in_database(end_the_machine, desk)
            revoked = time.monotonic() - begun
            async with asyncio.timeout(10):
                await machine.ended.wait()

            assert revoked < 1
            assert time.monotonic() - begun < 2.5
    assert "asked for each second" in caplog.text


async def test_a_redis_that_hangs_holds_up_neither_revoking_nor_cutting(desk: Desk, redis: Running) -> None:
    async with serving(platform()) as port, scripted_machine(keep) as machine:
        await desk.stands_at(machine.port, machine.secret)
        async with connect(port, desk, await desk.ticket()):
            await heard_of()
            os.kill(redis.pid, signal.SIGSTOP)
            try:
                begun = time.monotonic()
                await in_database(end_the_machine, desk)
                revoked = time.monotonic() - begun
                async with asyncio.timeout(10):
                    await machine.ended.wait()
                took = time.monotonic() - begun
            finally:
                os.kill(redis.pid, signal.SIGCONT)

            assert revoked < revocations.SECONDS / 2
            assert took < 2.5


async def test_when_redis_is_back_revocations_are_heard_of_again(
    desk: Desk, redis: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "ASK_SECONDS", NEVER)
    async with serving(platform()) as port, scripted_machine(keep) as machine:
        await desk.stands_at(machine.port, machine.secret)
        async with connect(port, desk, await desk.ticket()):
            await heard_of()
            redis.stop()
            place, log = DIRECTORY / "redis-of-revocations", DIRECTORY / "log" / "redis-of-revocations.log"
            with start_redis(place, log=log):
                await heard_of()
                await in_database(end_the_machine, desk)
                async with asyncio.timeout(10):
                    await machine.ended.wait()


async def test_what_was_said_while_redis_was_away_is_asked_for_when_it_is_back(
    desk: Desk, redis: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "ASK_SECONDS", NEVER)
    async with serving(platform()) as port, scripted_machine(keep) as machine:
        await desk.stands_at(machine.port, machine.secret)
        async with connect(port, desk, await desk.ticket()):
            await heard_of()
            redis.stop()
            await in_database(end_the_machine, desk)
            assert not machine.ended.is_set()
            place, log = DIRECTORY / "redis-of-revocations", DIRECTORY / "log" / "redis-of-revocations.log"
            with start_redis(place, log=log):
                async with asyncio.timeout(10):
                    await machine.ended.wait()


def grants_of(desk: Desk) -> list[UUID]:
    return list(AccessGrant.objects.filter(instance_id=desk.instance_id).values_list("id", flat=True))


async def test_what_redis_says_is_a_hint_and_never_believed(
    desk: Desk, redis: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lies and rubbish cut nothing, and a flood of them asks the database no more than ten times a second."""
    asked: list[float] = []
    ask = endpoint._still_good

    def counted(*arguments: object) -> set[UUID]:
        asked.append(time.monotonic())
        return ask(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(endpoint, "_still_good", counted)
    monkeypatch.setattr(endpoint, "ASK_SECONDS", NEVER)
    async with serving(platform()) as port, scripted_machine(keep) as machine:
        await desk.stands_at(machine.port, machine.secret)
        async with connect(port, desk, await desk.ticket()) as viewer:
            await heard_of()
            (grant,) = await in_database(grants_of, desk)
            for rubbish in (b"", b"\xff", b"[1, null, [], {}]", b'{"a": 1}', b"null", b'"x"', b"[" * 5000):
                await asyncio.to_thread(tell, rubbish)
            before, begun = len(asked), time.monotonic()
            for _ in range(300):
                await asyncio.to_thread(tell, json.dumps([str(grant)]).encode())
            async with asyncio.timeout(30):
                while len(asked) == before:  # noqa: ASYNC110 - asked in another thread
                    await asyncio.sleep(0.02)
            lasted = time.monotonic() - begun

            assert len(asked) - before <= lasted / endpoint.SOON_SECONDS + 2
            assert not machine.ended.is_set()
            assert viewer.name == "desk"


async def test_nothing_is_told_before_the_commit_nor_without_one(desk: Desk, redis: Running) -> None:
    heard: list[frozenset[str] | None] = []
    listening = asyncio.create_task(revocations.listen(heard.append))
    try:
        await heard_of()
        await in_database(undone, desk)
        ids = await in_database(done, desk)
        async with asyncio.timeout(10):
            while len(heard) < 2:  # noqa: ASYNC110 - filled by another task
                await asyncio.sleep(0.02)
    finally:
        listening.cancel()
        await asyncio.wait({listening})

    assert heard == [None, frozenset(ids)]


def undone(desk: Desk) -> None:
    grants.issue(desk.instance_id, desk.owner, session_key="another")
    with transaction.atomic():
        grants.revoke_session("another", cause="signed_out")
        transaction.set_rollback(True)


def done(desk: Desk) -> set[str]:
    grants.issue(desk.instance_id, desk.owner, session_key=desk.session_key)
    end_the_machine(desk)
    return {str(one) for one in grants_of(desk)}
