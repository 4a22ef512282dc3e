"""The contract of `instances.cloud.protocol`, in sentences that hold for every cloud.

Each verb, with success, repeated, for an unknown server, where there is no room, without an answer, and executed
without an answer. The memory cloud may stand in for a real one in other tests only because it passes here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from instances.cloud.protocol import (
    Cloud,
    CloudFull,
    CloudLimited,
    CloudRefused,
    CloudUnreachable,
    Port,
    PortTaken,
    Server,
    ServerGone,
    ServerStatus,
    Service,
    port_address,
    server_name,
)
from instances.userdata import LIMIT_BYTES
from tests.clouds import CloudUnderTest, LocalUnderTest, MemoryUnderTest
from tests.openstack_cloud import OpenStackUnderTest
from tests.real_cloud import real_cloud

#: an id in every cloud's own form that no server has
UNKNOWN = f"{uuid4()}"

ORDERS: dict[str, Callable[[Cloud, str], object]] = {
    "start": lambda cloud, server_id: cloud.start(server_id),
    "stop": lambda cloud, server_id: cloud.stop(server_id),
    "reboot": lambda cloud, server_id: cloud.reboot(server_id),
    "console": lambda cloud, server_id: cloud.console(server_id),
}


REAL = pytest.param("openstack", marks=pytest.mark.openstack)
#: the same cloud, with a network where a port's address is ours to choose, or is not
REAL_OTHER = pytest.param("openstack-own", marks=pytest.mark.openstack)

#: for what depends on whose the network is
both_kinds_of_network = pytest.mark.parametrize(
    "subject", ["memory", "memory-shared", "local", REAL, REAL_OTHER], indirect=True
)
#: for what a cloud in our own process cannot have: a limit on how often it is called
clouds_with_limits = pytest.mark.parametrize("subject", ["memory", REAL], indirect=True)


@pytest.fixture(params=["memory", "local", REAL])
def subject(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudUnderTest]:
    """One cloud of each kind, with nothing in it; what a test leaves is deleted."""
    with ExitStack() as stack:
        under_test: CloudUnderTest
        match request.param:
            case "memory":
                under_test = MemoryUnderTest()
            case "memory-shared":
                under_test = MemoryUnderTest(own_network=False)
            case "local":
                under_test = LocalUnderTest(tmp_path / "cloud")
            case "openstack-own":
                under_test = OpenStackUnderTest(stack.enter_context(real_cloud(tmp_path, monkeypatch)), "visa-own")
            case _:
                under_test = OpenStackUnderTest(stack.enter_context(real_cloud(tmp_path, monkeypatch)))
        stack.callback(under_test.close)
        yield under_test


def only(subject: CloudUnderTest, server: Server) -> Server:
    """The one server of this instance, as found."""
    (found,) = subject.cloud.find(server.instance_id)
    return found


def on_a_port(subject: CloudUnderTest, instance_id: UUID) -> tuple[Port, Server]:
    """A port, and a server that runs on it."""
    port = subject.cloud.create_port(instance_id)
    return port, subject.arrived(replace(subject.spec(instance_id), port_id=port.id))


# Success.


def test_a_created_server_is_found_by_instance_and_comes_to_run(subject: CloudUnderTest) -> None:
    spec = subject.spec()

    accepted = subject.cloud.create(spec)

    assert accepted.name == server_name(spec.instance_id)
    assert accepted.instance_id == spec.instance_id
    assert accepted.status in {ServerStatus.BUILD, ServerStatus.ACTIVE}
    (found,) = subject.cloud.find(spec.instance_id)
    assert found.id == accepted.id
    running = subject.settle(accepted.id, ServerStatus.ACTIVE)
    assert running is not None
    assert running.desktop is not None
    assert running.created_at.tzinfo is not None
    assert not running.fault
    assert running.ran


def test_an_instance_nobody_made_a_server_for_has_none(subject: CloudUnderTest) -> None:
    subject.arrived()

    assert subject.cloud.find(uuid4()) == ()


def test_a_stopped_server_is_off_and_starts_again(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    subject.cloud.stop(server.id)
    subject.settle(server.id, ServerStatus.SHUTOFF)
    subject.cloud.start(server.id)
    again = subject.settle(server.id, ServerStatus.ACTIVE)

    assert again is not None
    assert again.desktop is not None


def test_a_rebooted_server_runs_again_and_is_the_same(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    subject.cloud.reboot(server.id)
    subject.settle(server.id, ServerStatus.ACTIVE)

    assert only(subject, server).id == server.id


def test_a_reboot_starts_a_server_that_is_off(subject: CloudUnderTest) -> None:
    server = subject.arrived()
    subject.cloud.stop(server.id)
    subject.settle(server.id, ServerStatus.SHUTOFF)

    subject.cloud.reboot(server.id)

    subject.settle(server.id, ServerStatus.ACTIVE)


def test_a_deleted_server_is_gone_for_ever(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    subject.cloud.delete(server.id)
    subject.settle(server.id, None)

    assert subject.cloud.find(server.instance_id) == ()
    with pytest.raises(ServerGone):
        subject.cloud.start(server.id)


def test_a_server_that_is_off_can_be_deleted(subject: CloudUnderTest) -> None:
    server = subject.arrived()
    subject.cloud.stop(server.id)
    subject.settle(server.id, ServerStatus.SHUTOFF)

    subject.cloud.delete(server.id)

    subject.settle(server.id, None)


def test_the_list_holds_every_server(subject: CloudUnderTest) -> None:
    servers = {subject.arrived().id, subject.arrived().id}

    assert servers <= {server.id for server in subject.cloud.list()}


def test_a_server_is_known_by_its_id_until_it_is_deleted(subject: CloudUnderTest) -> None:
    server = subject.arrived()
    known = subject.cloud.known(server.id)
    assert known is not None
    assert (known.id, known.instance_id, known.status, known.desktop) == (
        server.id,
        server.instance_id,
        ServerStatus.ACTIVE,
        server.desktop,
    )
    assert subject.cloud.known(UNKNOWN) is None

    subject.cloud.delete(server.id)
    subject.settle(server.id, None)

    assert subject.cloud.known(server.id) is None


def test_the_console_is_text_and_no_longer_than_asked(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    said = subject.cloud.console(server.id, lines=5)

    assert len(said.splitlines()) <= 5


def test_what_can_be_launched_is_offered(subject: CloudUnderTest) -> None:
    spec, offering = subject.spec(), subject.cloud.offering()

    assert spec.image in offering.images
    assert spec.flavour in offering.flavours
    assert offering.networks


# Repeated.


def test_a_doubled_create_is_seen_as_two_servers_the_oldest_first(subject: CloudUnderTest) -> None:
    spec = subject.spec()

    first = subject.arrived(spec)
    second = subject.arrived(spec)

    assert [server.id for server in subject.cloud.find(spec.instance_id)] == [first.id, second.id]


def test_starting_what_runs_changes_nothing(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    subject.cloud.start(server.id)

    assert only(subject, server).status is ServerStatus.ACTIVE
    assert only(subject, server).desktop == server.desktop


def test_stopping_what_is_off_changes_nothing(subject: CloudUnderTest) -> None:
    server = subject.arrived()
    subject.cloud.stop(server.id)
    subject.settle(server.id, ServerStatus.SHUTOFF)

    subject.cloud.stop(server.id)

    assert only(subject, server).status is ServerStatus.SHUTOFF


def test_deleting_twice_is_as_good_as_once(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    subject.cloud.delete(server.id)
    subject.cloud.delete(server.id)

    subject.settle(server.id, None)
    subject.cloud.delete(server.id)


def test_a_second_reboot_is_a_reboot(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    subject.cloud.reboot(server.id)
    subject.settle(server.id, ServerStatus.ACTIVE)
    subject.cloud.reboot(server.id)

    subject.settle(server.id, ServerStatus.ACTIVE)


# A server nobody knows.


@pytest.mark.parametrize("order", ORDERS)
def test_orders_to_an_unknown_server_say_that_it_is_gone(subject: CloudUnderTest, order: str) -> None:
    with pytest.raises(ServerGone):
        ORDERS[order](subject.cloud, UNKNOWN)


def test_deleting_an_unknown_server_is_no_fault(subject: CloudUnderTest) -> None:
    kept = subject.arrived()

    subject.cloud.delete(UNKNOWN)

    assert only(subject, kept).status is ServerStatus.ACTIVE


@pytest.mark.parametrize("order", [*ORDERS, "delete"])
def test_servers_of_another_installation_are_invisible_to_every_verb(subject: CloudUnderTest, order: str) -> None:
    server = subject.arrived()
    stranger = subject.stranger()

    assert stranger.find(server.instance_id) == ()
    assert stranger.known(server.id) is None
    assert server.id not in {other.id for other in stranger.list()}
    if order == "delete":
        stranger.delete(server.id)
    else:
        with pytest.raises(ServerGone):
            ORDERS[order](stranger, server.id)

    assert only(subject, server).status is ServerStatus.ACTIVE


# No room, and what cannot be.


def test_a_full_cloud_says_so_and_makes_nothing(subject: CloudUnderTest) -> None:
    spec = subject.spec()

    with subject.full(), pytest.raises(CloudFull) as refusal:
        subject.cloud.create(spec)

    assert str(refusal.value)
    assert subject.cloud.find(spec.instance_id) == ()


def test_room_that_is_given_back_can_be_used_again(subject: CloudUnderTest) -> None:
    with subject.full(), pytest.raises(CloudFull):
        subject.cloud.create(subject.spec())

    subject.arrived()


def test_an_image_the_cloud_does_not_have_is_refused(subject: CloudUnderTest) -> None:
    spec = replace(subject.spec(), image="no-such-image")

    with pytest.raises(CloudRefused):
        subject.cloud.create(spec)

    assert subject.cloud.find(spec.instance_id) == ()


def test_a_document_that_is_too_large_is_refused(subject: CloudUnderTest) -> None:
    spec = subject.spec()
    large = replace(spec, user_data=spec.user_data + "#" * (LIMIT_BYTES - len(spec.user_data) + 1))

    with pytest.raises(CloudRefused):
        subject.cloud.create(large)

    assert subject.cloud.find(spec.instance_id) == ()


def test_a_refusal_tells_no_secret(subject: CloudUnderTest) -> None:
    spec = replace(subject.spec(), image="no-such-image", user_data="#cloud-config\npassword: [tell-nobody\n")

    with pytest.raises(CloudRefused) as refusal:
        subject.cloud.create(spec)

    assert "tell-nobody" not in str(refusal.value)


# No answer.


VERBS = (
    *(*ORDERS, "delete", "find", "list", "offering", "changed_since"),
    *("find_ports", "create_port", "delete_port", "ports"),
)


def call(cloud: Cloud, verb: str, server: Server, port: Port) -> object:
    """Any verb, on this server and this port."""
    calls: dict[str, Callable[[], object]] = {
        "delete": lambda: cloud.delete(server.id),
        "find": lambda: cloud.find(server.instance_id),
        "list": lambda: tuple(cloud.list()),
        "offering": cloud.offering,
        "changed_since": lambda: cloud.changed_since(datetime.now(UTC) - timedelta(minutes=1)).servers,
        "find_ports": lambda: cloud.find_ports(server.instance_id),
        "create_port": lambda: cloud.create_port(uuid4()),
        "delete_port": lambda: cloud.delete_port(port.id),
        "ports": lambda: tuple(cloud.ports()),
    }
    return calls[verb]() if verb in calls else ORDERS[verb](cloud, server.id)


@pytest.mark.parametrize("order", VERBS)
def test_silence_is_told_as_silence_and_changes_nothing(subject: CloudUnderTest, order: str) -> None:
    port, server = on_a_port(subject, uuid4())

    with subject.deaf() as deaf, pytest.raises(CloudUnreachable) as silence:
        call(deaf, order, server, port)

    assert silence.value.service in Service
    assert only(subject, server).status is ServerStatus.ACTIVE
    assert [known.id for known in subject.cloud.ports()] == [port.id]


@clouds_with_limits
@pytest.mark.parametrize("order", VERBS)
def test_a_limit_is_told_with_its_time_and_nothing_is_done(subject: CloudUnderTest, order: str) -> None:
    port, server = on_a_port(subject, uuid4())

    with subject.limited() as limited, pytest.raises(CloudLimited) as limit:
        call(limited, order, server, port)

    assert limit.value.retry_after == 7.0
    assert limit.value.unsent
    assert only(subject, server).status is ServerStatus.ACTIVE
    assert [known.id for known in subject.cloud.ports()] == [port.id]


@clouds_with_limits
def test_a_create_that_met_a_limit_made_nothing(subject: CloudUnderTest) -> None:
    spec = subject.spec()

    with subject.limited() as limited, pytest.raises(CloudLimited) as limit:
        limited.create(spec)

    assert limit.value.retry_after == 7.0
    assert subject.cloud.find(spec.instance_id) == ()


def test_a_create_that_was_never_heard_made_nothing(subject: CloudUnderTest) -> None:
    spec = subject.spec()

    with subject.deaf() as deaf, pytest.raises(CloudUnreachable):
        deaf.create(spec)

    assert subject.cloud.find(spec.instance_id) == ()


# Executed, and the answer lost.


def test_a_create_whose_answer_was_lost_is_found_by_looking(subject: CloudUnderTest) -> None:
    spec = subject.spec()

    with pytest.raises(CloudUnreachable):
        subject.losing_replies().create(spec)

    (found,) = subject.cloud.find(spec.instance_id)
    assert found.name == server_name(spec.instance_id)
    subject.settle(found.id, ServerStatus.ACTIVE)


def test_a_stop_whose_answer_was_lost_stops_and_may_be_repeated(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    with pytest.raises(CloudUnreachable):
        subject.losing_replies().stop(server.id)

    subject.settle(server.id, ServerStatus.SHUTOFF)
    subject.cloud.stop(server.id)
    assert only(subject, server).status is ServerStatus.SHUTOFF


def test_a_start_whose_answer_was_lost_starts_and_may_be_repeated(subject: CloudUnderTest) -> None:
    server = subject.arrived()
    subject.cloud.stop(server.id)
    subject.settle(server.id, ServerStatus.SHUTOFF)

    with pytest.raises(CloudUnreachable):
        subject.losing_replies().start(server.id)

    subject.settle(server.id, ServerStatus.ACTIVE)
    subject.cloud.start(server.id)
    assert only(subject, server).status is ServerStatus.ACTIVE


def test_a_reboot_whose_answer_was_lost_is_a_reboot(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    with pytest.raises(CloudUnreachable):
        subject.losing_replies().reboot(server.id)

    subject.settle(server.id, ServerStatus.ACTIVE)


def test_a_deletion_whose_answer_was_lost_deletes_and_may_be_repeated(subject: CloudUnderTest) -> None:
    server = subject.arrived()

    with pytest.raises(CloudUnreachable):
        subject.losing_replies().delete(server.id)

    subject.settle(server.id, None)
    subject.cloud.delete(server.id)


@pytest.mark.parametrize("look", ["find", "known", "list", "console", "offering"])
def test_a_look_whose_answer_was_lost_can_be_taken_again(subject: CloudUnderTest, look: str) -> None:
    server = subject.arrived()
    looks: dict[str, Callable[[Cloud], object]] = {
        "find": lambda cloud: cloud.find(server.instance_id),
        "known": lambda cloud: cloud.known(server.id),
        "list": lambda cloud: tuple(cloud.list()),
        "console": lambda cloud: cloud.console(server.id),
        "offering": lambda cloud: cloud.offering(),
    }

    with pytest.raises(CloudUnreachable):
        looks[look](subject.losing_replies(looks=True))

    assert looks[look](subject.cloud)


# What a server is, and what changed.


def test_a_server_tells_its_size_its_host_and_its_serial(subject: CloudUnderTest) -> None:
    spec = replace(subject.spec(), serial=1_234_567)

    server = subject.arrived(spec)

    assert (server.flavour, server.serial, server.deleting) == (spec.flavour, 1_234_567, False)
    assert server.host


def test_what_changed_is_told_and_what_was_deleted(subject: CloudUnderTest) -> None:
    began = datetime.now(UTC) - timedelta(seconds=2)
    kept, stopped, deleted = subject.arrived(), subject.arrived(), subject.arrived()
    subject.cloud.stop(stopped.id)
    subject.settle(stopped.id, ServerStatus.SHUTOFF)
    subject.cloud.delete(deleted.id)
    subject.settle(deleted.id, None)

    told = subject.cloud.changed_since(began)
    changed = {server.id: server for server in told.servers}

    assert {server.id: server.status for server in changed.values()} == {
        kept.id: ServerStatus.ACTIVE,
        stopped.id: ServerStatus.SHUTOFF,
        deleted.id: ServerStatus.DELETED,
    }
    assert changed[deleted.id].instance_id == deleted.instance_id
    # Another installation has none of them, and need not read again what it had to read.
    others = subject.stranger().changed_since(began)
    assert not others.servers
    assert not told.times or max(others.times) >= max(told.times)
    assert not told.times or not subject.cloud.changed_since(max(told.times) + timedelta(seconds=1)).servers


def test_nothing_was_deleted_after_all_was(subject: CloudUnderTest) -> None:
    server = subject.arrived()
    subject.cloud.delete(server.id)
    subject.settle(server.id, None)

    later = datetime.now(UTC) + timedelta(seconds=5)

    assert not [one for one in subject.cloud.changed_since(later).servers if one.status is ServerStatus.DELETED]


# Ports.


@both_kinds_of_network
def test_a_port_is_found_and_a_server_stands_on_it(subject: CloudUnderTest) -> None:
    instance_id = uuid4()

    made = subject.cloud.create_port(instance_id)

    assert (made.name, made.instance_id, made.server_id) == (server_name(instance_id), instance_id, "")
    assert made.created_at.tzinfo is not None
    assert subject.cloud.find_ports(instance_id) == (made,)
    assert subject.cloud.find_ports(uuid4()) == ()
    assert (made.mac == port_address(instance_id)) is subject.cloud.unique_ports

    server = subject.arrived(replace(subject.spec(instance_id), port_id=made.id))

    assert server.desktop is not None
    (used,) = subject.cloud.find_ports(instance_id)
    assert (used.id, used.server_id) == (made.id, server.id)


@both_kinds_of_network
def test_a_second_port_is_the_first_where_its_address_is_ours_to_choose(subject: CloudUnderTest) -> None:
    instance_id = uuid4()

    first = subject.cloud.create_port(instance_id)
    second = subject.cloud.create_port(instance_id)

    if subject.cloud.unique_ports:
        assert second == first
        assert subject.cloud.find_ports(instance_id) == (first,)
    else:
        assert {port.id for port in subject.cloud.find_ports(instance_id)} == {first.id, second.id}


@both_kinds_of_network
def test_a_port_has_one_server_and_whoever_comes_second_makes_nothing(subject: CloudUnderTest) -> None:
    instance_id = uuid4()
    port, server = on_a_port(subject, instance_id)

    with pytest.raises(PortTaken):
        subject.cloud.create(replace(subject.spec(instance_id), port_id=port.id))

    assert [found.id for found in subject.cloud.find(instance_id)] == [server.id]


def test_a_port_that_is_gone_takes_no_server(subject: CloudUnderTest) -> None:
    spec = subject.spec()
    port = subject.cloud.create_port(spec.instance_id)
    subject.cloud.delete_port(port.id)

    with pytest.raises(PortTaken):
        subject.cloud.create(replace(spec, port_id=port.id))

    assert subject.cloud.find(spec.instance_id) == ()


def test_a_port_outlives_its_server_and_carries_the_next(subject: CloudUnderTest) -> None:
    instance_id = uuid4()
    port, server = on_a_port(subject, instance_id)

    subject.cloud.delete(server.id)
    subject.settle(server.id, None)

    (left,) = subject.cloud.find_ports(instance_id)
    assert (left.id, left.server_id) == (port.id, "")
    again = subject.arrived(replace(subject.spec(instance_id), port_id=port.id))
    assert again.id != server.id


@both_kinds_of_network
def test_a_deleted_port_is_gone_and_deleting_it_again_no_fault(subject: CloudUnderTest) -> None:
    kept, port = subject.cloud.create_port(uuid4()), subject.cloud.create_port(uuid4())

    subject.cloud.delete_port(port.id)
    subject.cloud.delete_port(port.id)
    subject.cloud.delete_port(UNKNOWN)

    assert [known.id for known in subject.cloud.ports()] == [kept.id]


def test_ports_of_another_installation_are_invisible_and_out_of_reach(subject: CloudUnderTest) -> None:
    port, stranger = subject.cloud.create_port(uuid4()), subject.stranger()

    assert stranger.find_ports(port.instance_id) == ()
    assert not list(stranger.ports())
    stranger.delete_port(port.id)

    assert subject.cloud.find_ports(port.instance_id) == (port,)


@both_kinds_of_network
def test_a_port_whose_answer_was_lost_is_found_by_looking(subject: CloudUnderTest) -> None:
    instance_id = uuid4()

    with pytest.raises(CloudUnreachable) as lost:
        subject.losing_replies().create_port(instance_id)

    assert not lost.value.unsent
    (found,) = subject.cloud.find_ports(instance_id)
    assert found.name == server_name(instance_id)


def test_a_port_whose_deletion_was_not_answered_is_gone(subject: CloudUnderTest) -> None:
    port = subject.cloud.create_port(uuid4())

    with pytest.raises(CloudUnreachable):
        subject.losing_replies().delete_port(port.id)

    assert not list(subject.cloud.ports())
    subject.cloud.delete_port(port.id)


def test_a_create_on_a_port_whose_answer_was_lost_cannot_be_doubled(subject: CloudUnderTest) -> None:
    instance_id = uuid4()
    port = subject.cloud.create_port(instance_id)
    spec = replace(subject.spec(instance_id), port_id=port.id)

    with pytest.raises(CloudUnreachable) as lost:
        subject.losing_replies().create(spec)

    assert not lost.value.unsent
    (found,) = subject.cloud.find(instance_id)
    subject.settle(found.id, ServerStatus.ACTIVE)
    with pytest.raises(PortTaken):
        subject.cloud.create(spec)
    assert len(subject.cloud.find(instance_id)) == 1


# Volumes.


def test_deleting_a_volume_nobody_knows_is_no_fault(subject: CloudUnderTest) -> None:
    assert not list(subject.cloud.volumes())

    subject.cloud.delete_volume(UNKNOWN)


def test_volumes_are_listed_with_their_server_until_they_are_deleted() -> None:
    # Only here are there volumes: the others' clouds have none.
    subject = MemoryUnderTest()
    server = subject.arrived()
    used, unused = subject.memory.add_volume(server.instance_id, server.id), subject.memory.add_volume(uuid4())

    assert {volume.id: volume.server_id for volume in subject.cloud.volumes()} == {used.id: server.id, unused.id: ""}
    assert not list(subject.stranger().volumes())
    subject.stranger().delete_volume(unused.id)
    subject.cloud.delete(server.id)
    assert {volume.id: volume.server_id for volume in subject.cloud.volumes()} == {used.id: "", unused.id: ""}

    subject.cloud.delete_volume(unused.id)
    subject.cloud.delete_volume(unused.id)
    assert [volume.id for volume in subject.cloud.volumes()] == [used.id]
