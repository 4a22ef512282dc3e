"""The desktop's websocket: who is let in, who is not, and how fast somebody is out again."""

import asyncio
import contextlib
import logging
import struct
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connection as main_connection
from django.utils import timezone
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from deploy.viewer import Viewer, ViewerFault
from instances import credentials, grants
from instances.desktop import endpoint
from instances.lifecycle import Seen, Wanted
from instances.models import AccessGrant, Connection, DesktopTicket, Instance
from tests import factories
from tests.gateway import platform, serving
from tests.instances.desktop.conftest import Desk, in_database, make_desk
from tests.instances.desktop.machines import ScriptedMachine, keep, raw_machine, scripted_machine
from tests.instances.desktop.test_tunnel import flood
from visa.accounts.models import User

ORIGIN = Origin(settings.SITE.url)
TEXT = struct.pack("!BxxxI", 6, 5) + b"hello"


@contextlib.asynccontextmanager
async def quiet_desktop(desk: Desk) -> AsyncIterator[tuple[int, ScriptedMachine]]:
    """The platform's port, and a desktop that draws nothing."""
    async with scripted_machine(keep) as machine, serving(platform()) as port:
        await desk.stands_at(machine.port, machine.secret)
        yield port, machine


def connect(
    port: int, desk: Desk, ticket: str, *, origin: str | None = ORIGIN
) -> contextlib.AbstractAsyncContextManager[Viewer]:
    return Viewer.connect(f"ws://127.0.0.1:{port}{desk.path}", origin=origin, ticket=ticket)


async def code_of(port: int, desk: Desk, ticket: str) -> int | None:
    """The close code of a connection that is not let in; None where it is."""
    try:
        async with connect(port, desk, ticket):
            return None
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006


# --- origin ----------------------------------------------------------------------------------------------------------

# the site is http://testserver
ORIGINS = {
    "none": [],
    "empty": [""],
    "null": ["null"],
    "another host": ["http://attacker.example"],
    "a sub-domain": ["http://a.testserver"],
    "a parent": ["http://server"],
    "as a prefix": ["http://testserver.attacker.example"],
    "as a suffix": ["http://attackertestserver"],
    "another scheme": ["https://testserver"],
    "the websocket's scheme": ["ws://testserver"],
    "no scheme": ["testserver"],
    "only slashes": ["//testserver"],
    "another port": ["http://testserver:8000"],
    "the usual port spelled": ["http://testserver:80"],
    "upper case": ["http://TESTSERVER"],
    "upper scheme": ["HTTP://testserver"],
    "a trailing dot": ["http://testserver."],
    "a trailing slash": ["http://testserver/"],
    "a path": ["http://testserver/launch"],
    "a user": ["http://testserver@attacker.example"],
    "IDN look-alike": ["http://xn--tstserver-g9a"],
    "a space": ["http://testserver attacker"],
    "two in one": ["http://testserver, http://testserver"],
    "two headers": ["http://testserver", "http://testserver"],
    "ours and theirs": ["http://attacker.example", "http://testserver"],
}


async def knock(port: int, path: str, origins: list[str], *, protocols: str, host: str = "testserver") -> bytes:
    """The status line of an upgrade written by hand."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    lines += [f"Sec-WebSocket-Protocol: {protocols}"] + [f"Origin: {one}" for one in origins]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        return await asyncio.wait_for(reader.readline(), 10)
    finally:
        writer.close()


async def test_only_our_own_page_may_open_a_desktop(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        for name, origins in ORIGINS.items():
            protocols = f"visa.desktop, ticket.{await desk.ticket()}"
            host = origins[0].removeprefix("http://") if origins and origins[0] else "testserver"
            answer = await knock(port, desk.path, origins, protocols=protocols)
            poisoned = await knock(port, desk.path, origins, protocols=protocols, host=host)
            # two headers are no request at all, and so is a Host like some of these
            assert (b" 400 " if len(origins) > 1 else b" 403 ") in answer, name
            assert b" 403 " in poisoned or b" 400 " in poisoned, name
        assert machine.connections == 0

        async with connect(port, desk, await desk.ticket()) as viewer:
            assert viewer.name == "desk"
        assert machine.connections == 1


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://visa.facility.eu", b"https://visa.facility.eu"),
        ("https://VISA.facility.eu:443", b"https://visa.facility.eu"),
        ("https://visa.facility.eu:8443", b"https://visa.facility.eu:8443"),
        ("http://[::1]:8000", b"http://[::1]:8000"),
        ("https://büro.example", b"https://xn--bro-hoa.example"),
    ],
)
def test_the_origin_is_spelled_as_browsers_spell_it(url: str, origin: bytes) -> None:
    assert endpoint.origin_of(url) == origin


async def test_a_client_that_does_not_ask_for_a_desktop_gets_none(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        for protocols in ("chat", "visa.desktop2, ticket.{}", "ticket.{}", "VISA.DESKTOP, ticket.{}"):
            answer = await knock(port, desk.path, [ORIGIN], protocols=protocols.format(await desk.ticket()))
            assert b" 403 " in answer, protocols
    assert machine.connections == 0


# --- tickets ---------------------------------------------------------------------------------------------------------


async def test_the_answer_does_not_return_the_ticket_and_sets_no_cookie(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, _):
        ticket = await desk.ticket()
        protocols = [Subprotocol("visa.desktop"), Subprotocol(f"ticket.{ticket}")]
        address = f"ws://127.0.0.1:{port}{desk.path}"
        async with open_websocket(address, origin=ORIGIN, subprotocols=protocols, proxy=None) as websocket:
            assert websocket.response is not None
            headers = dict(websocket.response.headers.raw_items())

    assert headers["Sec-WebSocket-Protocol"] == "visa.desktop"
    assert ticket not in str(headers)
    assert "set-cookie" not in {name.lower() for name in headers}
    assert "Sec-WebSocket-Extensions" not in headers


async def test_a_ticket_opens_one_connection_however_many_present_it_at_once(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        ticket = await desk.ticket()

        codes = await asyncio.gather(*(code_of(port, desk, ticket) for _ in range(50)))

        assert sorted(codes, key=str) == [4401] * 49 + [None]
        assert machine.connections == 1


async def test_an_old_ticket_opens_nothing(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        ticket = await desk.ticket()
        past = timezone.now() - timedelta(milliseconds=1)
        await in_database(lambda: DesktopTicket.objects.update(expires_at=past))

        assert await code_of(port, desk, ticket) == 4401
        assert machine.connections == 0


async def test_a_ticket_for_one_machine_does_not_open_another(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        other = await in_database(make_desk, desk.owner)
        await other.stands_at(machine.port, machine.secret)
        ticket = await desk.ticket()

        assert await code_of(port, other, ticket) == 4401
        assert await code_of(port, desk, ticket) == 4401
        assert machine.connections == 0


async def test_a_made_up_ticket_opens_nothing(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        for ticket in ("x", "A" * 43, "A" * 4000, "..", "%00"):
            assert await code_of(port, desk, ticket) == 4401, ticket
    assert machine.connections == 0


async def test_exactly_one_ticket_is_presented(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        for extra in ((), ("ticket.{}", "ticket.{}"), ("ticket.{}", "ticket.x"), ("ticket.",)):
            ticket = await desk.ticket()
            protocols = [Subprotocol(one.format(ticket)) for one in ("visa.desktop", *extra)]
            address = f"ws://127.0.0.1:{port}{desk.path}"
            async with open_websocket(address, origin=ORIGIN, subprotocols=protocols, proxy=None) as websocket:
                with pytest.raises(ConnectionClosed):
                    await websocket.recv()
            assert websocket.close_code == 4401, extra
    assert machine.connections == 0


# --- machines --------------------------------------------------------------------------------------------------------


async def test_a_machine_that_is_not_ready_is_said_to_have_no_desktop(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        await in_database(lambda: Instance.objects.update(seen=Seen.BUILDING))

        assert await code_of(port, desk, await desk.ticket()) == 4404
        assert machine.connections == 0


async def test_a_machine_that_does_not_answer_is_said_so(desk: Desk) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with raw_machine(end) as machine, serving(platform()) as port:
        await desk.stands_at(machine.port, machine.secret)

        assert await code_of(port, desk, await desk.ticket()) == 4502


async def test_a_machine_that_does_not_answer_is_looked_at_at_once(desk: Desk) -> None:
    """Whose desktop breaks off while it is open, too; the gateway itself says nothing of the machine."""

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    def rests() -> None:
        Instance.objects.update(due_at=timezone.now() + timedelta(hours=1))

    def is_due() -> bool:
        return Instance.objects.filter(due_at__lte=timezone.now(), silent_since=None).exists()

    async with raw_machine(end) as machine, serving(platform()) as port:
        await desk.stands_at(machine.port, machine.secret)
        await in_database(rests)
        assert await code_of(port, desk, await desk.ticket()) == 4502
        assert await in_database(is_due)
    async with quiet_desktop(desk) as (port, _machine):
        await in_database(rests)
        async with connect(port, desk, await desk.ticket()):
            pass
        assert not await in_database(is_due), "whoever leaves says nothing of the machine"


async def test_an_answer_is_as_old_as_its_question(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of answers that come late, each tells of the time before it was asked for: together they may be too old."""
    ask = endpoint._still_good

    def slowly(*arguments: Any) -> Any:
        good = ask(*arguments)
        time.sleep(1.6)  # an answer on a line that is slow
        return good

    monkeypatch.setattr(endpoint, "_still_good", slowly)
    monkeypatch.setattr(endpoint, "BLIND_SECONDS", 2.6)
    async with quiet_desktop(desk) as (port, machine), connect(port, desk, await desk.ticket()):
        async with asyncio.timeout(20):
            await machine.ended.wait()


async def test_another_machine_at_its_address_is_not_shown(desk: Desk) -> None:
    async with scripted_machine(flood) as machine, serving(platform()) as port:
        await desk.stands_at(machine.port, credentials.generate("visa-test"))

        assert await code_of(port, desk, await desk.ticket()) == 4502


async def test_an_address_outside_the_ranges_is_not_connected_to(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        await in_database(lambda: Instance.objects.update(desktop_host="169.254.169.254"))

        assert await code_of(port, desk, await desk.ticket()) == 4502
        assert machine.connections == 0


# --- how many --------------------------------------------------------------------------------------------------------


async def test_a_ninth_desktop_of_one_person_is_refused(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, _), contextlib.AsyncExitStack() as open_now:
        for _ in range(8):
            await open_now.enter_async_context(connect(port, desk, await desk.ticket()))

        assert await code_of(port, desk, await desk.ticket()) == 4429
    async with quiet_desktop(desk) as (port, _):
        assert await code_of(port, desk, await desk.ticket()) is None


async def test_a_twenty_first_desktop_of_one_machine_is_refused(desk: Desk) -> None:
    people = [await in_database(_somebody) for _ in range(3)]
    async with quiet_desktop(desk) as (port, _), contextlib.AsyncExitStack() as open_now:
        for number in range(20):
            ticket = await desk.ticket_for(people[number // 7])
            await open_now.enter_async_context(connect(port, desk, ticket))

        assert await code_of(port, desk, await desk.ticket()) == 4429


def _somebody() -> User:
    return factories.make_user()


# --- the end ---------------------------------------------------------------------------------------------------------


def _grant_revoked(desk: Desk) -> None:
    grants.revoke_machine(desk.instance_id, cause="revoked")


def _session_ended(desk: Desk) -> None:
    grants.revoke_session(desk.session_key, cause="signed out")


def _person_disabled(desk: Desk) -> None:
    User.objects.filter(pk=desk.owner.pk).update(is_active=False)


def _grant_expired(desk: Desk) -> None:
    AccessGrant.objects.filter(instance_id=desk.instance_id).update(ends_at=timezone.now())


def _machine_deleted(desk: Desk) -> None:
    Instance.objects.filter(id=desk.instance_id).update(wanted=Wanted.DELETED)


def _machine_stopped(desk: Desk) -> None:
    Instance.objects.filter(id=desk.instance_id).update(wanted=Wanted.STOPPED)


def _row_gone(desk: Desk) -> None:
    AccessGrant.objects.filter(instance_id=desk.instance_id).delete()


CAUSES = [
    _grant_revoked, _session_ended, _person_disabled, _grant_expired, _machine_deleted, _machine_stopped, _row_gone,
]  # fmt: skip


async def test_whatever_ends_a_grant_ends_its_desktop(transactional_db: None) -> None:
    """Each cause with a machine of its own, all at once; a viewer that takes nothing is cut as fast as any."""
    cases = [(cause, reading) for cause in CAUSES for reading in (True, False)]
    desks = [await in_database(_another_desk) for _ in cases]

    async with serving(platform()) as port:
        lasted = await asyncio.gather(*(_ended_by(*case, desk, port) for case, desk in zip(cases, desks, strict=True)))

    late = {(case[0].__name__, case[1]): took for case, took in zip(cases, lasted, strict=True) if took >= 2.5}
    assert late == {}


def _another_desk() -> Desk:
    return make_desk(factories.make_user())


async def _ended_by(cause: Callable[[Desk], None], reading: bool, desk: Desk, port: int) -> float:
    """Seconds from the cause until the machine's side is cut; the browser, if it reads, is told why after that."""
    async with scripted_machine(keep if reading else flood) as machine:
        await desk.stands_at(machine.port, machine.secret)
        opened = connect if reading else stalled
        async with opened(port, desk, await desk.ticket()) as viewer:
            await in_database(cause, desk)
            begun = time.monotonic()
            async with asyncio.timeout(10):
                await machine.ended.wait()
            took = time.monotonic() - begun
            if isinstance(viewer, Viewer):
                assert await viewer.closed(seconds=5) == 4403, cause.__name__
                with pytest.raises(ViewerFault):
                    await viewer.cut("too late")
    return took


@contextlib.asynccontextmanager
async def stalled(port: int, desk: Desk, ticket: str) -> AsyncIterator[ClientConnection]:
    """A viewer that finishes the handshake and reads no more."""
    protocols = [Subprotocol("visa.desktop"), Subprotocol(f"ticket.{ticket}")]
    address = f"ws://127.0.0.1:{port}{desk.path}"
    async with open_websocket(
        address, origin=ORIGIN, subprotocols=protocols, proxy=None, max_queue=1, compression=None, close_timeout=0.1
    ) as websocket:
        for message in (b"RFB 003.008\n", b"\x01", b"\x01"):
            await websocket.send(message)
        for _ in range(4):
            await websocket.recv()
        websocket.transport.pause_reading()
        await asyncio.sleep(0.2)
        yield websocket
        websocket.transport.abort()


async def test_a_grant_that_ends_while_the_machine_is_being_opened_shows_nothing(desk: Desk) -> None:
    asked = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\xde\xad" * 100)
        await reader.read()

    async with scripted_machine(slow) as proper:

        async def hold_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Relays to the proper machine, after a wait."""
            asked.set()
            await asyncio.sleep(2.5)
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", proper.port)

            async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(4096):
                    sink.write(data)

            try:
                await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
            finally:
                far_writer.transport.abort()

        async with raw_machine(hold_up, secret=proper.secret) as machine, serving(platform()) as port:
            await desk.stands_at(machine.port, machine.secret)
            code = asyncio.create_task(code_of(port, desk, await desk.ticket()))
            await asked.wait()
            await in_database(_grant_revoked, desk)

            assert await code == 4403


async def test_when_nobody_can_be_asked_desktops_are_cut(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BLIND_SECONDS", 3.0)
    async with quiet_desktop(desk) as (port, machine), connect(port, desk, await desk.ticket()) as viewer:
        name = main_connection.settings_dict["NAME"]
        async with deaf_database(name):
            begun = time.monotonic()
            async with asyncio.timeout(8):
                await machine.ended.wait()
            lasted = time.monotonic() - begun
            assert await viewer.closed(seconds=2) == 1013

    assert 1.5 < lasted < 6


@contextlib.asynccontextmanager
async def deaf_database(name: str) -> AsyncIterator[None]:
    """A database that takes no new connection."""
    facts = settings.DATABASES["default"]
    where = f"host={facts['HOST']} port={facts['PORT']} user={facts['USER']} dbname=postgres"

    def allow(yes: bool) -> None:
        with psycopg.connect(where, autocommit=True) as maintenance:
            maintenance.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {yes}')

    await asyncio.to_thread(allow, False)
    try:
        yield
    finally:
        await asyncio.to_thread(allow, True)


async def test_a_database_that_does_not_answer_holds_nobody_up_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "ANSWER_SECONDS", 1.0)
    async with quiet_desktop(desk) as (port, machine):
        ticket = await desk.ticket()
        async with locked_person(desk), asyncio.timeout(10):
            assert await code_of(port, desk, ticket) == 1013
        assert machine.connections == 0

        assert await code_of(port, desk, await desk.ticket()) is None


@contextlib.asynccontextmanager
async def locked_person(desk: Desk) -> AsyncIterator[None]:
    """The owner's row, on which somebody sits who does not end the transaction."""
    facts = main_connection.settings_dict
    where = f"host={facts['HOST']} port={facts['PORT']} user={facts['USER']} dbname={facts['NAME']}"
    async with await psycopg.AsyncConnection.connect(where) as sitting:
        await sitting.execute("SELECT 1 FROM accounts_user WHERE id = %s FOR UPDATE", [desk.owner.pk])
        yield


async def test_a_connection_is_noted_from_its_beginning_to_its_end(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        async with connect(port, desk, await desk.ticket()):
            row = await in_database(Connection.objects.get)
            assert row.closed_at is None
        async with asyncio.timeout(5):
            await machine.ended.wait()
    row = await in_database(Connection.objects.get)

    assert row.closed_at is not None
    assert row.cause == "browser_left"


async def test_what_nobody_may_say_ends_the_connection(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, _):
        for said in ("hello", b"\xfa\x00\x00\x00", "p" * 30, b"\xff\x01"):
            async with connect(port, desk, await desk.ticket()) as viewer:
                if isinstance(said, str):
                    await viewer.mark(said)
                else:
                    await viewer.send(said)
                assert await viewer.closed(seconds=5) == 4400, said


async def test_a_message_over_64_kib_ends_the_connection(desk: Desk) -> None:
    async with quiet_desktop(desk) as (port, machine):
        async with connect(port, desk, await desk.ticket()) as viewer:
            await viewer._websocket.send(bytes(65537))
            assert await viewer.closed(seconds=5) == 1009
        await machine.ended.wait()


async def test_no_secret_is_in_a_log_line(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with quiet_desktop(desk) as (port, machine):
        ticket = await desk.ticket()
        async with connect(port, desk, ticket) as viewer:
            await viewer.cut("canary text")
            await viewer.type("canary")
        assert await code_of(port, desk, ticket) == 4401
        with contextlib.suppress(InvalidStatus):
            async with connect(port, desk, ticket, origin="http://attacker.example"):
                pass
        await machine.ended.wait()

    assert caplog.text
    secret = machine.secret
    for canary in (ticket, grants.hash_of(ticket), secret.password, secret.key, secret.certificate, "canary"):
        assert canary not in caplog.text
