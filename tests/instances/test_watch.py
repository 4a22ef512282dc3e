"""The watch: a few calls for all machines wake exactly the rows that say otherwise than the cloud."""

import signal
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from typing_extensions import override

from deploy.processes import free_port
from instances import access, actions, driving, provisioning, watch
from instances.actions import Launch
from instances.cloud.greeting import PATIENCE
from instances.cloud.memory import OFFERING, MemoryCloud
from instances.cloud.protocol import Changes, Desktop, Offering, Server, ServerStatus
from instances.lifecycle import Seen, State, Wanted
from instances.models import Image, Instance, ServiceState, Watch
from instances.pace import pace
from quotas import allowances
from quotas.models import Flavour, Limit
from tests import factories, machines
from tests.clouds import CountingCloud, DeafCloud
from tests.machines import settle
from tests.processes import vnc_server
from visa.accounts.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def launched(owner: User, flavour: Flavour, image: Image, limit: Limit, cloud: MemoryCloud) -> UUID:
    instance_id = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id
    settle(cloud, instance_id)
    return instance_id


def look(cloud: MemoryCloud, *, full: bool = False) -> None:
    """A round of the watch over the servers, due now, and only that."""
    watch.turn(cloud)
    never = Now() + timedelta(days=1)
    Watch.objects.update(due_at=None, full_at=None if full else Now(), booting_due_at=never, ready_due_at=never)
    watch.turn(cloud)


def is_due(instance_id: UUID) -> bool:
    return Instance.objects.filter(id=instance_id, due_at__lte=Now()).exists()


def rested(instance_id: UUID) -> None:
    Instance.objects.filter(id=instance_id).update(due_at=Now() + timedelta(hours=1))


def test_what_is_as_it_was_wakes_nobody(launched: UUID, cloud: MemoryCloud) -> None:
    rested(launched)

    look(cloud)
    look(cloud, full=True)

    assert not is_due(launched)


@pytest.mark.parametrize("full", [False, True])
def test_a_server_that_is_deleted_outside_wakes_its_machine(launched: UUID, cloud: MemoryCloud, full: bool) -> None:
    rested(launched)
    cloud.delete(str(Instance.objects.get(id=launched).server_id))

    look(cloud, full=full)

    assert is_due(launched)
    assert settle(cloud, launched).state == State.GONE


class OtherClock(MemoryCloud):
    """Its clock is an hour slow."""

    slow = timedelta(hours=1)

    def _shown(self, servers: Iterable[Server]) -> tuple[Server, ...]:
        return tuple(replace(one, changed_at=one.changed_at and one.changed_at - self.slow) for one in servers)

    @override
    def list(self) -> Iterable[Server]:
        return self._shown(super().list())

    @override
    def changed_since(self, when: datetime) -> Changes:
        told = super().changed_since(when + self.slow)
        return Changes(servers=self._shown(told.servers), times=tuple(at - self.slow for at in told.times))


@pytest.mark.parametrize("slow", [timedelta(hours=1), timedelta(seconds=-90), timedelta(0)])
def test_what_changes_is_seen_whatever_the_clouds_clock_says(
    owner: User, flavour: Flavour, image: Image, limit: Limit, vnc: Desktop, slow: timedelta
) -> None:
    cloud = OtherClock(desktop=vnc, offering=machines.memory_cloud(vnc).offering())
    cloud.slow = slow
    instance_id = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id
    settle(cloud, instance_id)
    rested(instance_id)
    look(cloud, full=True)
    assert not is_due(instance_id)

    cloud.stop(str(Instance.objects.get(id=instance_id).server_id))
    look(cloud)

    assert is_due(instance_id)


class Telling(MemoryCloud):
    """Its changes are what a test says; it remembers since when it was asked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[datetime] = []
        self.told = Changes(servers=())

    @override
    def changed_since(self, when: datetime) -> Changes:
        self.asked.append(when)
        return self.told


def test_after_a_while_without_news_what_was_listed_is_not_listed_again(launched: UUID, cloud: MemoryCloud) -> None:
    look(cloud, full=True)
    newest = Watch.objects.get().newest_at
    assert newest is not None
    telling = Telling()

    look(telling)
    Watch.objects.update(newest_since=Now() - pace().watch_late)
    look(telling)

    assert (telling.asked[0], telling.asked[-1]) == (newest - pace().watch_late, newest + watch.TICK)


def test_others_changes_are_not_read_again_and_a_clock_far_ahead_is_not_believed(
    launched: UUID, cloud: MemoryCloud
) -> None:
    look(cloud, full=True)
    theirs, telling = datetime.now(UTC) + timedelta(seconds=5), Telling()
    telling.told = Changes(servers=(), times=(theirs, theirs - timedelta(minutes=1), theirs + timedelta(days=1)))

    look(telling)
    look(telling)

    assert telling.asked[-1] == theirs - pace().watch_late


def test_what_is_gone_is_not_counted_any_more(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    cloud.delete(str(Instance.objects.get(id=launched).server_id))
    settle(cloud, launched)

    assert allowances.standing_of(actions.subject_of(owner)).used.machines == 0


def test_a_machine_stopped_outside_is_shown_stopped_and_not_started_again(
    launched: UUID, cloud: MemoryCloud, owner: User
) -> None:
    rested(launched)
    cloud.stop(str(Instance.objects.get(id=launched).server_id))

    look(cloud)
    assert is_due(launched)
    row = settle(cloud, launched)

    assert (row.state, row.wanted) == (State.STOPPED, Wanted.STOPPED)
    kinds = [event.kind for event in access.instance_for(owner, launched).events]
    assert kinds[-2:] == ["seen.stopped", "stopped.outside"]

    cloud.start(str(row.server_id))
    look(cloud)
    assert is_due(launched)
    assert settle(cloud, launched).state == State.ACTIVE


def test_a_machine_that_was_asked_to_start_is_started_though_it_was_stopped_outside(
    launched: UUID, cloud: MemoryCloud, owner: User
) -> None:
    actions.stop(launched, by=owner)
    settle(cloud, launched)

    actions.start(launched, by=owner)

    assert settle(cloud, launched).state == State.ACTIVE


def test_each_round_is_done_once_by_whoever_comes_first(launched: UUID, cloud: MemoryCloud) -> None:
    asked = []

    class Counting(MemoryCloud):
        @override
        def list(self) -> Iterable[Server]:
            asked.append("all")
            return cloud.list()

        @override
        def changed_since(self, when: datetime) -> Changes:
            asked.append("changes")
            return cloud.changed_since(when)

    counting = Counting()
    watch.turn(counting)
    watch.turn(counting)
    assert asked == ["all"]

    Watch.objects.update(due_at=Now())
    watch.turn(counting)
    watch.turn(counting)
    assert asked == ["all", "changes"]


def test_a_thousand_machines_cost_as_many_queries_as_one(launched: UUID, cloud: MemoryCloud) -> None:
    counts = []
    for number in (1, 1000):
        machines.make_many(Instance.objects.get(id=launched), number)
        # beside the first, none has a server of its own: a list of all misses them, and that is one more row, no query
        Instance.objects.exclude(id=launched).update(seen=Seen.ABSENT, had_server=False, gone=True, state=State.GONE)
        Instance.objects.update(due_at=Now() + timedelta(hours=1))
        for full in (False, True):
            watch.turn(cloud)
            Watch.objects.update(due_at=None, full_at=None if full else Now(), ready_due_at=None)
            with CaptureQueriesContext(connection) as queries:
                watch.turn(cloud)
            counts.append(len(queries))

    assert counts[:2] == counts[2:]


def test_a_cloud_that_is_silent_is_asked_again_soon_and_wakes_nobody(launched: UUID, cloud: MemoryCloud) -> None:
    rested(launched)
    before = Watch.objects.count() and Watch.objects.get().changes_at
    deaf = DeafCloud()

    look(deaf, full=True)

    assert not is_due(launched)
    assert ServiceState.objects.get(service="nova").failures > 0
    assert (Watch.objects.get().changes_at is None) is (not before)


def test_a_desktop_that_begins_to_answer_wakes_its_machine(
    owner: User, flavour: Flavour, image: Image, limit: Limit, vnc: Desktop
) -> None:
    cloud = MemoryCloud(desktop=Desktop(host="127.0.0.1", port=free_port()), offering=_everything())
    instance_id = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id
    assert settle(cloud, instance_id, steps=5).seen == Seen.BOOTING
    rested(instance_id)

    Watch.objects.update(booting_due_at=None)
    watch.turn(cloud)
    assert not is_due(instance_id)

    cloud.desktop = vnc
    Instance.objects.filter(id=instance_id).update(desktop_port=vnc.port)
    Watch.objects.update(booting_due_at=None)
    watch.turn(cloud)
    assert is_due(instance_id)


def test_a_desktop_that_stops_answering_is_said_to_and_nothing_is_done_to_the_machine(
    launched: UUID, cloud: MemoryCloud, owner: User, vnc: Desktop
) -> None:
    rested(launched)
    watch.turn(cloud)
    server = next(iter(cloud.list()))
    cloud._machines[server.id].server = _elsewhere(server, free_port())
    nobody = next(iter(cloud.list())).desktop
    assert nobody is not None
    Instance.objects.filter(id=launched).update(desktop_port=nobody.port)

    Watch.objects.update(ready_due_at=None)
    watch.turn(cloud)
    assert is_due(launched)
    provisioning.advance(cloud, launched)

    view = access.instance_for(owner, launched)
    assert (view.state, view.reason_code, view.can_reboot) == (State.ACTIVE, "desktop_silent", True)
    assert view.silent_since is not None
    assert [one.id for one in cloud.list()] == [server.id]

    cloud._machines[server.id].server = _elsewhere(server, vnc.port)
    Instance.objects.filter(id=launched).update(desktop_port=vnc.port)
    rested(launched)
    Watch.objects.update(ready_due_at=None)
    watch.turn(cloud)
    assert is_due(launched)
    provisioning.advance(cloud, launched)
    view = access.instance_for(owner, launched)
    assert (view.state, view.reason_code, view.silent_since) == (State.ACTIVE, "", None)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_a_desktop_that_crashed_or_hangs_is_said_to_be_silent_while_somebody_looks(
    owner: User, flavour: Flavour, image: Image, limit: Limit, tmp_path: Path, ending: signal.Signals
) -> None:
    """Driven as the reconciler drives: nobody is told anything but by the greeting that does not come."""
    with vnc_server(tmp_path / "log") as (desktop, server):
        cloud = MemoryCloud(desktop=desktop, offering=_everything())
        instance_id = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id
        assert settle(cloud, instance_id).state == State.ACTIVE
        watch.turn(cloud)
        server.send_signal(ending)
        until = time.monotonic() + 60  # on a busy machine; what it takes by itself is the next test's

        while (view := access.instance_for(owner, instance_id)).reason_code != "desktop_silent":
            assert time.monotonic() < until
            watch.turn(cloud)
            provisioning.advance(cloud)
            time.sleep(pace().greet_booting.total_seconds())

        assert (view.state, view.can_reboot) == (State.ACTIVE, True)
        assert len(list(cloud.list())) == 1
        server.send_signal(signal.SIGCONT)


def test_a_desktop_that_is_late_once_is_asked_again_before_the_cloud_is(launched: UUID, cloud: MemoryCloud) -> None:
    """As all are on a host that is busy: each look at the cloud would keep it busier."""
    settle(cloud, launched)
    rested(launched)
    watch.turn(cloud)
    with socket.create_server(("127.0.0.1", 0)) as late:
        greeted = threading.Thread(target=_greets_the_second, args=(late,))
        greeted.start()
        Instance.objects.filter(id=launched).update(desktop_port=late.getsockname()[1])
        Watch.objects.update(ready_due_at=None)

        watch.turn(cloud)
        greeted.join()

    assert not is_due(launched)


def _greets_the_second(door: socket.socket) -> None:
    """Who comes first is not spoken to."""
    door.settimeout(20)
    silent, _ = door.accept()
    answered, _ = door.accept()
    answered.sendall(b"RFB 003.008\n")
    answered.recv(1)
    for one in (silent, answered):
        one.close()


def test_what_a_silent_desktop_waits_for_adds_up_to_less_than_ten_seconds() -> None:
    """The next round, a turn of the loop, the greeting that does not come in the round, and in the step."""
    in_the_round = sum(patience for patience, _at_once in watch.GREETING_PATIENCE)
    waits = pace().greet_ready + pace().greet_booting + timedelta(seconds=in_the_round + PATIENCE)

    assert waits < timedelta(seconds=10)


def test_a_machine_nobody_has_seen_for_a_while_is_shown_as_not_seen_and_its_desktop_stays(
    launched: UUID, cloud: MemoryCloud, owner: User
) -> None:
    long_ago = Now() - timedelta(minutes=10)
    Watch.objects.update_or_create(id=1, defaults={"changes_at": long_ago})
    Instance.objects.filter(id=launched).update(seen_at=long_ago)

    view = access.instance_for(owner, launched)
    assert (view.state, view.known_state, view.can_connect) == (State.UNKNOWN, State.ACTIVE, True)

    look(cloud)
    assert access.instance_for(owner, launched).state is State.ACTIVE


def _everything() -> Offering:
    return Offering(
        images=OFFERING.images | {"desktop"}, flavours=OFFERING.flavours | {"small"}, networks=OFFERING.networks
    )


def _elsewhere(server: Server, port: int) -> Server:
    return replace(server, desktop=Desktop(host="127.0.0.1", port=port))


@pytest.fixture
def made(owner: User, flavour: Flavour, image: Image, limit: Limit, vnc: Desktop) -> tuple[UUID, CountingCloud]:
    """A machine that was made for five minutes and has just come up, which its row does not know."""
    cloud = CountingCloud(desktop=vnc, offering=_everything(), looks=1)
    instance_id = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id
    provisioning.advance(cloud)
    Instance.objects.filter(id=instance_id).update(step_since=Now() - timedelta(minutes=5))
    assert Instance.objects.get(id=instance_id).seen == Seen.BUILDING
    assert [server.status for server in (*cloud.list(), *cloud.list())] == [ServerStatus.BUILD, ServerStatus.ACTIVE]
    rested(instance_id)
    return instance_id, cloud


def test_a_machine_that_is_listed_as_running_boots_and_the_cloud_is_not_asked_again(
    made: tuple[UUID, CountingCloud],
) -> None:
    instance_id, cloud = made
    found = cloud.finds

    driving.watch_over(cloud)

    row = Instance.objects.get(id=instance_id)
    assert (row.seen, row.admitted_at, row.desktop_port) == (Seen.BOOTING, None, cloud.desktop.port)
    assert (cloud.finds, cloud.consoles) == (found, 0)
    # Whether it is ready nobody says without having asked the cloud.
    assert settle(cloud, instance_id).state == State.ACTIVE
    assert cloud.finds > found


def test_what_a_list_told_is_no_answer_for_a_machine_that_is_to_be_gone(
    made: tuple[UUID, CountingCloud], owner: User
) -> None:
    instance_id, cloud = made
    (told,), found = cloud.list(), cloud.finds
    actions.delete(instance_id, by=owner)

    provisioning.advance(cloud, instance_id, told=told)

    assert cloud.finds == found + 1
    assert not [server for server in cloud.list() if not server.deleting]


def test_of_two_servers_none_is_told(made: tuple[UUID, CountingCloud]) -> None:
    instance_id, cloud = made
    machines.stray_server(cloud, of=instance_id)

    assert watch.turn(cloud) == {}
    assert is_due(instance_id)
