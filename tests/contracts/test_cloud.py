"""The contract of `instances.cloud.protocol`, in sentences that hold for every cloud.

Each verb, with success, repeated, for an unknown server, where there is no room, without an answer, and executed
without an answer. The memory cloud may stand in for a real one in other tests only because it passes here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from instances.cloud.protocol import (
    Cloud,
    CloudFull,
    CloudRefused,
    CloudUnreachable,
    Server,
    ServerGone,
    ServerStatus,
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


@pytest.fixture(params=["memory", "local", pytest.param("openstack", marks=pytest.mark.openstack)])
def subject(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudUnderTest]:
    """One cloud of each kind, with nothing in it; what a test leaves is deleted."""
    with ExitStack() as stack:
        under_test: CloudUnderTest
        match request.param:
            case "memory":
                under_test = MemoryUnderTest()
            case "local":
                under_test = LocalUnderTest(tmp_path / "cloud")
            case _:
                under_test = OpenStackUnderTest(stack.enter_context(real_cloud(tmp_path, monkeypatch)))
        stack.callback(under_test.close)
        yield under_test


def only(subject: CloudUnderTest, server: Server) -> Server:
    """The one server of this instance, as found."""
    (found,) = subject.cloud.find(server.instance_id)
    return found


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


@pytest.mark.parametrize("order", [*ORDERS, "delete", "find", "list", "offering"])
def test_silence_is_told_as_silence_and_changes_nothing(subject: CloudUnderTest, order: str) -> None:
    server = subject.arrived()
    orders: dict[str, Callable[[Cloud], object]] = {
        "delete": lambda cloud: cloud.delete(server.id),
        "find": lambda cloud: cloud.find(server.instance_id),
        "list": lambda cloud: tuple(cloud.list()),
        "offering": lambda cloud: cloud.offering(),
    }
    if order in ORDERS:
        orders[order] = lambda cloud: ORDERS[order](cloud, server.id)

    with subject.deaf() as deaf, pytest.raises(CloudUnreachable):
        orders[order](deaf)

    assert only(subject, server).status is ServerStatus.ACTIVE


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


@pytest.mark.parametrize("look", ["find", "list", "console", "offering"])
def test_a_look_whose_answer_was_lost_can_be_taken_again(subject: CloudUnderTest, look: str) -> None:
    server = subject.arrived()
    looks: dict[str, Callable[[Cloud], object]] = {
        "find": lambda cloud: cloud.find(server.instance_id),
        "list": lambda cloud: tuple(cloud.list()),
        "console": lambda cloud: cloud.console(server.id),
        "offering": lambda cloud: cloud.offering(),
    }

    with pytest.raises(CloudUnreachable):
        looks[look](subject.losing_replies(looks=True))

    assert looks[look](subject.cloud)
