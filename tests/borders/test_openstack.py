"""A real OpenStack: that what the platform believes of Nova is so, also when the wire between them is bad.

What all clouds have in common is in tests/contracts/test_cloud.py; here is what only this one has.
"""

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from instances import driving
from instances.cloud.openstack import OpenStackCloud
from instances.cloud.protocol import (
    CloudDenied,
    CloudFull,
    CloudLimited,
    CloudRefused,
    CloudUnreachable,
    PortTaken,
    Server,
    ServerGone,
    ServerStatus,
    Service,
    port_address,
    server_name,
)
from tests.real_cloud import RealCloud, has_guests, real_cloud, until
from tests.wire import Fault

pytestmark = pytest.mark.openstack


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCloud]:
    with real_cloud(tmp_path, monkeypatch) as cloud:
        yield cloud


@pytest.fixture
def cloud(real: RealCloud) -> OpenStackCloud:
    return real.connect()


def someone_elses(real: RealCloud, **body: Any) -> Any:
    """A server that somebody else made in the same project."""
    sdk = real.sdk("visa-user")
    (network,) = sdk.network.networks(name="visa")
    return sdk.compute.create_server(
        image_id=sdk.image.find_image("visa-desktop").id,
        flavor_id=sdk.compute.find_flavor("visa.small").id,
        networks=[{"uuid": network.id}],
        **body,
    )


def test_a_server_lives_from_create_to_gone(real: RealCloud, cloud: OpenStackCloud) -> None:
    spec = real.spec()

    made = cloud.create(spec)
    assert made.status is ServerStatus.BUILD
    assert [server.id for server in cloud.find(spec.instance_id)] == [made.id]

    server = real.settled(cloud, spec, ServerStatus.ACTIVE)
    assert server.name == server_name(spec.instance_id)
    assert server.instance_id == spec.instance_id
    assert server.desktop is not None
    assert server.desktop.host.startswith("10.77.")
    assert server.desktop.port == 5901

    cloud.start(server.id)
    cloud.stop(server.id)
    cloud.stop(server.id)
    real.settled(cloud, spec, ServerStatus.SHUTOFF)
    cloud.stop(server.id)
    cloud.reboot(server.id)
    real.settled(cloud, spec, ServerStatus.ACTIVE)

    cloud.delete(server.id)
    real.gone(cloud, spec)
    cloud.delete(server.id)
    for verb in (cloud.start, cloud.stop, cloud.reboot, cloud.console):
        with pytest.raises(ServerGone):
            verb(server.id)


def test_nova_holds_our_name_tags_metadata_and_a_config_drive(real: RealCloud, cloud: OpenStackCloud) -> None:
    spec = real.spec()

    made = cloud.create(spec)

    record = real.sdk("visa-user").compute.get_server(made.id)
    assert record.name == f"visa-{spec.instance_id}"
    assert set(record.tags) == {f"visa:instance={spec.instance_id}", f"visa:environment={real.environment}"}
    assert record.metadata == {
        "visa_instance": str(spec.instance_id),
        "visa_environment": real.environment,
        "visa_serial": "0",
    }
    assert record.description == f"visa:environment={real.environment}"
    assert record.has_config_drive in {True, "True"}


def test_another_environments_servers_are_invisible_and_out_of_reach(real: RealCloud, cloud: OpenStackCloud) -> None:
    other = real.connect(environment=f"other-{uuid.uuid4().hex[:8]}")
    spec = real.spec()
    made = other.create(spec)

    assert cloud.find(spec.instance_id) == ()
    assert made.id not in {server.id for server in cloud.list()}
    cloud.delete(made.id)
    with pytest.raises(ServerGone):
        cloud.stop(made.id)

    assert [server.id for server in other.find(spec.instance_id)] == [made.id]


def test_a_server_that_somebody_took_the_tags_from_is_found(real: RealCloud, cloud: OpenStackCloud) -> None:
    spec = real.spec()
    server_id = cloud.create(spec).id
    real.settled(cloud, spec, ServerStatus.ACTIVE)

    real.sdk().compute.put(f"/servers/{server_id}/tags", json={"tags": []}).raise_for_status()

    assert not real.sdk().compute.get_server(server_id).tags
    assert [server.id for server in cloud.find(spec.instance_id)] == [server_id]


def test_a_server_with_our_name_and_tags_but_other_metadata_is_not_ours(real: RealCloud, cloud: OpenStackCloud) -> None:
    instance_id = uuid.uuid4()
    stranger = someone_elses(
        real,
        name=f"visa-{instance_id}",
        tags=[f"visa:instance={instance_id}", f"visa:environment={real.environment}"],
        metadata={"visa_instance": str(uuid.uuid4()), "visa_environment": "production"},
    )

    try:
        assert cloud.find(instance_id) == ()
        cloud.delete(stranger.id)
        assert real.sdk("visa-user").compute.get_server(stranger.id).status != "DELETED"
    finally:
        real.sdk("visa-user").compute.delete_server(stranger.id)


def test_a_doubled_create_is_found_twice_oldest_first(real: RealCloud, cloud: OpenStackCloud) -> None:
    spec = real.spec()

    first = cloud.create(spec)
    until(lambda: cloud.find(spec.instance_id), 10, "the first is found")
    second = cloud.create(spec)

    assert {server.id for server in cloud.find(spec.instance_id)} == {first.id, second.id}
    found = cloud.find(spec.instance_id)
    assert [server.created_at for server in found] == sorted(server.created_at for server in found)


def test_a_listing_of_several_pages_is_whole(real: RealCloud, cloud: OpenStackCloud) -> None:
    # Nova's pages hold three there; with guests that boot, four would be too many for one machine.
    if has_guests():
        made = {cloud.create(real.spec()).id for _ in range(2)}
    else:
        made = {cloud.create(real.spec()).id for _ in range(7)}

    assert {server.id for server in cloud.list()} == made


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": "no-such-image"}, "no image called 'no-such-image'"),
        ({"flavour": "no.such"}, "no flavour called 'no.such'"),
        ({"user_data": "#" * 49_150}, "user-data of 49,150 bytes; Nova takes 49,149"),
    ],
)
def test_what_can_never_be_made_is_refused_with_its_reason(
    real: RealCloud, cloud: OpenStackCloud, change: dict[str, str], sentence: str
) -> None:
    spec = real.spec(**change)

    with pytest.raises(CloudRefused, match=sentence):
        cloud.create(spec)

    assert cloud.find(spec.instance_id) == ()


def test_the_largest_user_data_is_taken(real: RealCloud, cloud: OpenStackCloud) -> None:
    spec = real.spec(user_data="#cloud-config\n#" + "x" * (49_149 - 15))

    assert cloud.create(spec).status is ServerStatus.BUILD


def test_a_network_that_is_not_there_is_refused(real: RealCloud) -> None:
    with pytest.raises(CloudRefused, match="no network called 'elsewhere'"):
        real.connect(network="elsewhere").create(real.spec())


def test_a_used_up_quota_is_full_in_novas_own_words(real: RealCloud, cloud: OpenStackCloud) -> None:
    admin = real.sdk()
    project = admin.identity.find_project("visa")
    admin.compute.update_quota_set(project, instances=0, force=True)
    spec = real.spec()

    try:
        with pytest.raises(CloudFull, match="Quota exceeded for instances"):
            cloud.create(spec)
        assert cloud.find(spec.instance_id) == ()
    finally:
        admin.compute.revert_quota_set(project)


def test_a_cloud_without_room_says_so_on_the_server(real: RealCloud, cloud: OpenStackCloud) -> None:
    # Every host has one GPU; the scheduler finds that out after the create was accepted.
    gpus = {"flavour": "visa.gpu", "vcpus": 2, "memory_mib": 2048, "disk_gib": 8, "gpus": 1}
    refused: list[Server] = []
    while not refused:
        spec = real.spec(**gpus)
        cloud.create(spec)
        server = real.settled(cloud, spec, ServerStatus.ACTIVE, ServerStatus.ERROR)
        refused += [server] if server.status is ServerStatus.ERROR else []

    assert refused[0].fault.startswith("No valid host was found.")
    assert not refused[0].ran


def test_an_order_whose_answer_is_lost_was_given_once_and_is_found(real: RealCloud, cloud: OpenStackCloud) -> None:
    with real.wire() as wire:
        deaf = real.connect(wire=wire)
        spec = real.spec()
        wire.fault = Fault.LOSE_REPLY

        with pytest.raises(CloudUnreachable):
            deaf.create(spec)

        assert wire.orders == [("POST", "/v2.1/servers")]
        assert len(cloud.find(spec.instance_id)) == 1
        server = real.settled(cloud, spec, ServerStatus.ACTIVE)
        with pytest.raises(CloudUnreachable):
            deaf.stop(server.id)
        real.settled(cloud, spec, ServerStatus.SHUTOFF)
        with pytest.raises(CloudUnreachable):
            deaf.start(server.id)
        real.settled(cloud, spec, ServerStatus.ACTIVE)
        with pytest.raises(CloudUnreachable):
            deaf.delete(server.id)
        real.gone(cloud, spec)


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.UNAVAILABLE, Fault.NONSENSE, Fault.LIMITED])
def test_an_answer_that_says_nothing_is_no_answer_and_nothing_is_sent_again(
    real: RealCloud, cloud: OpenStackCloud, fault: Fault
) -> None:
    with real.wire() as wire:
        spec = real.spec()
        wire.fault = fault

        with pytest.raises(CloudUnreachable):
            real.connect(wire=wire).create(spec)

        assert wire.orders == [("POST", "/v2.1/servers")]
        assert cloud.find(spec.instance_id) == ()


def test_a_silent_cloud_is_given_up_in_time_and_may_still_do_it_late(real: RealCloud, cloud: OpenStackCloud) -> None:
    with real.wire() as wire:
        hasty = real.connect(wire=wire, seconds=3.0)
        spec = real.spec()
        hasty.list()
        wire.fault = Fault.SILENT

        with pytest.raises(CloudUnreachable):
            hasty.create(spec)
        assert cloud.find(spec.instance_id) == ()

        wire.release()
        assert len(cloud.find(spec.instance_id)) == 1
        assert wire.orders == [("POST", "/v2.1/servers")]


def test_an_answer_that_drips_is_given_up_in_time(real: RealCloud) -> None:
    with real.wire() as wire:
        hasty = real.connect(wire=wire, seconds=3.0)
        hasty.list()
        wire.spoil(Fault.SLOW_BODY, seconds=20.0)  # a byte a second or so

        with pytest.raises(CloudUnreachable):
            hasty.list()


def test_a_renamed_server_is_found_by_no_name_and_is_known(real: RealCloud, cloud: OpenStackCloud) -> None:
    spec = real.spec()
    made = cloud.create(spec)
    real.settled(cloud, spec, ServerStatus.ACTIVE)

    real.sdk().compute.update_server(made.id, name="my favourite")

    assert cloud.find(spec.instance_id) == ()
    known = cloud.known(made.id)
    assert known is not None
    assert (known.instance_id, known.name) == (spec.instance_id, "my favourite")
    assert [one.id for one in cloud.list()] == [made.id]
    cloud.delete(made.id)
    until(lambda: cloud.known(made.id) is None, 60, "the server is gone")


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.UNAVAILABLE, Fault.NONSENSE])
def test_a_look_without_an_answer_is_never_an_empty_one(real: RealCloud, fault: Fault) -> None:
    with real.wire() as wire:
        deaf = real.connect(wire=wire)
        spec = real.spec()
        deaf.create(spec)
        wire.fault, wire.reads = fault, True

        for look in (lambda: deaf.find(spec.instance_id), deaf.list, deaf.offering):
            with pytest.raises(CloudUnreachable):
                look()

        wire.fault = Fault.NONE
        assert len(deaf.find(spec.instance_id)) == 1


def test_a_cloud_that_is_not_there_is_unreachable(real: RealCloud) -> None:
    with real.wire() as wire:
        url = wire.url
    nobody = real.connect(compute_endpoint_override=url)

    with pytest.raises(CloudUnreachable):
        nobody.find(uuid.uuid4())
    with pytest.raises(CloudUnreachable):
        real.connect(auth={"auth_url": "http://127.0.0.1:9/v3"}).find(uuid.uuid4())


def test_a_wrong_or_missing_credential_is_denied(real: RealCloud) -> None:
    with pytest.raises(CloudDenied):
        real.connect(auth={"application_credential_secret": "wrong"}).list()
    with pytest.raises(CloudDenied, match=r"clouds\.yaml"):
        real.connect(cloud="nowhere").list()


@pytest.mark.parametrize(
    ("service", "method", "path"),
    [
        ("compute", "POST", "/os-keypairs"),
        ("compute", "PUT", "/servers/any"),
        ("compute", "GET", "/os-hypervisors"),
        ("compute", "GET", "/limits"),
        ("image", "POST", "/images"),
        ("image", "DELETE", "/images/any"),
        ("network", "POST", "/networks"),
        ("network", "PUT", "/security-groups/any"),
        ("network", "PUT", "/ports/any"),
        ("network", "PUT", "/ports/any/tags"),
        ("identity", "POST", "/users/any/application_credentials"),
    ],
)
def test_the_platforms_credential_can_do_nothing_else(real: RealCloud, service: str, method: str, path: str) -> None:
    sdk = real.sdk("visa")

    answer = getattr(sdk, service).request(path, method, json={}, raise_exc=False)

    assert answer.status_code in {401, 403}


def test_each_thread_and_each_process_has_a_connection_of_its_own(real: RealCloud, cloud: OpenStackCloud) -> None:
    cloud.list()
    failed: list[Exception] = []

    def look() -> None:
        try:
            for _ in range(3):
                cloud.list()
        except Exception as error:  # noqa: BLE001 - told to the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []

    child = os.fork()
    if child == 0:
        try:
            cloud.list()
        except BaseException:  # noqa: BLE001 - whatever it is, the parent must hear of it
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_the_offering_names_what_a_site_can_choose_from(cloud: OpenStackCloud) -> None:
    offering = cloud.offering()

    assert "visa-desktop" in offering.images
    assert {"visa.small", "visa.medium", "visa.gpu"} <= offering.flavours
    assert "visa" in offering.networks


# Ports.


@pytest.mark.parametrize(("network", "own"), [("visa", False), ("visa-own", True)])
def test_a_port_has_our_address_where_the_network_is_our_projects(real: RealCloud, network: str, own: bool) -> None:
    cloud, instance_id = real.connect(network=network), uuid.uuid4()

    port = cloud.create_port(instance_id)

    assert cloud.unique_ports is own
    record = real.sdk("visa-user").network.get_port(port.id)
    assert (record.mac_address == port_address(instance_id)) is own
    assert (record.name, record.description) == (port.name, f"visa:environment={real.environment}")


def test_a_network_that_takes_no_address_of_ours_gets_a_port_without(real: RealCloud) -> None:
    cloud, instance_id = real.connect(network="visa-own"), uuid.uuid4()
    with real.wire(Service.NEUTRON) as wire:
        strict = real.connect(network="visa-own", wire=wire)
        wire.spoil(Fault.STATUS, method="POST", path=r"/ports$", status=403, count=1)

        port = strict.create_port(instance_id)

        assert port.mac != port_address(instance_id)
        assert not strict.unique_ports
    assert [found.id for found in cloud.find_ports(instance_id)] == [port.id]


def test_a_used_up_quota_of_ports_is_full(real: RealCloud, cloud: OpenStackCloud) -> None:
    admin, project = real.sdk(), real.sdk("visa-user").current_project_id
    admin.network.update_quota(project, ports=0)

    try:
        with pytest.raises(CloudFull) as full:
            cloud.create_port(uuid.uuid4())
    finally:
        admin.network.delete_quota(project)
    assert full.value.service is Service.NEUTRON


def test_of_two_racing_creates_on_one_port_at_most_one_runs(real: RealCloud, cloud: OpenStackCloud) -> None:
    spec = real.spec()
    spec = replace(spec, port_id=cloud.create_port(spec.instance_id).id)
    ready, taken, clouds = threading.Barrier(2), [], [real.connect(), real.connect()]

    def create() -> None:
        racer = clouds.pop()
        racer.list()
        ready.wait(60)
        try:
            racer.create(spec)
        except PortTaken as error:
            taken.append(error)

    racers = [threading.Thread(target=create) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()

    settled = {ServerStatus.ACTIVE, ServerStatus.ERROR}
    until(lambda: {one.status for one in cloud.find(spec.instance_id)} <= settled, 120, "both are settled")
    servers = cloud.find(spec.instance_id)
    assert len(servers) + len(taken) == 2
    assert [one.status for one in servers].count(ServerStatus.ACTIVE) == 1


# What operators do.


def test_what_operators_do_to_a_server_is_seen_and_a_start_brings_it_back(
    real: RealCloud, cloud: OpenStackCloud
) -> None:
    nova, spec = real.sdk().compute, real.spec()
    server_id = cloud.create(spec).id
    first = real.settled(cloud, spec, ServerStatus.ACTIVE)
    assert first.flavour == "visa.small"

    nova.pause_server(server_id)
    real.settled(cloud, spec, ServerStatus.PAUSED)
    cloud.start(server_id)
    real.settled(cloud, spec, ServerStatus.ACTIVE)

    nova.suspend_server(server_id)
    real.settled(cloud, spec, ServerStatus.PAUSED)
    cloud.stop(server_id)
    real.settled(cloud, spec, ServerStatus.ACTIVE)

    nova.shelve_server(server_id)
    # On its way there Nova refuses to bring it back (409), and whoever wants it orders again after the next look.
    until(lambda: nova.get_server(server_id).status == "SHELVED_OFFLOADED", 120, "it is put away")
    assert real.settled(cloud, spec, ServerStatus.SHELVED).id == server_id
    cloud.stop(server_id)
    cloud.start(server_id)
    real.settled(cloud, spec, ServerStatus.ACTIVE)

    nova.resize_server(server_id, nova.find_flavor("visa.medium").id)
    until(lambda: cloud.find(spec.instance_id)[0].flavour == "visa.medium", 120, "it has its new size")
    assert real.settled(cloud, spec, ServerStatus.ACTIVE).host


# What an error says.


@pytest.mark.parametrize("service", [Service.KEYSTONE, Service.NOVA, Service.NEUTRON, Service.GLANCE])
def test_nobody_there_is_told_of_the_service_and_nothing_was_sent(real: RealCloud, service: Service) -> None:
    with real.wire(service) as wire:
        cloud = real.connect(wire=wire)
        with wire.away(), pytest.raises(CloudUnreachable) as silence:
            cloud.create(real.spec())

        assert silence.value.service is service
        assert silence.value.unsent
        assert cloud.create(real.spec()).id


def test_an_order_that_nobody_took_was_not_given_and_one_without_an_answer_may_have_been(real: RealCloud) -> None:
    with real.wire() as wire:
        cloud, spec = real.connect(wire=wire), real.spec()
        cloud.create(spec)  # signed in, and all names known

        with wire.away(), pytest.raises(CloudUnreachable) as refused:
            cloud.create(real.spec())
        assert refused.value.unsent
        for fault in (Fault.LOSE_REQUEST, Fault.UNAVAILABLE, Fault.TRUNCATE, Fault.NONSENSE):
            wire.spoil(fault, method="POST", count=1)
            with pytest.raises(CloudUnreachable) as lost:
                cloud.create(real.spec())
            assert (lost.value.service, lost.value.unsent) == (Service.NOVA, False)
            wire.mend()


@pytest.mark.parametrize("service", [Service.KEYSTONE, Service.NOVA, Service.NEUTRON, Service.GLANCE])
@pytest.mark.parametrize(
    ("status", "told", "seconds"),
    [
        (429, (("Retry-After", "12"),), 12.0),
        (429, (), 1.0),
        (503, (("Retry-After", "30"),), 30.0),
        (503, (("Retry-After", "Thu, 01 Jan 1970 00:00:00 GMT"),), 0.0),
    ],
)
def test_a_limit_is_obeyed_as_it_is_told(
    real: RealCloud, service: Service, status: int, told: tuple[tuple[str, str], ...], seconds: float
) -> None:
    with real.wire(service) as wire:
        wire.spoil(Fault.STATUS, status=status, headers=told)

        with pytest.raises(CloudLimited) as limit:
            real.connect(wire=wire).create(real.spec())

        assert (limit.value.service, limit.value.retry_after, limit.value.unsent) == (service, seconds, True)
        assert len(wire.orders) <= 1


def test_a_token_that_is_not_taken_any_more_is_fetched_anew_once(real: RealCloud) -> None:
    with real.wire(Service.KEYSTONE) as keystone, real.wire() as nova:
        cloud, spec = real.connect(wires=(keystone, nova)), real.spec()
        cloud.list()
        signed_in = len(keystone.orders)

        nova.spoil(Fault.STATUS, status=401, count=1)
        cloud.create(spec)
        assert len(keystone.orders) == signed_in + 1
        assert len(cloud.find(spec.instance_id)) == 1

        nova.spoil(Fault.STATUS, status=401)
        with pytest.raises(CloudDenied):
            cloud.list()
        assert len(keystone.orders) == signed_in + 2


def test_keystone_away_is_no_matter_until_the_token_ends(real: RealCloud) -> None:
    with real.wire(Service.KEYSTONE) as keystone:
        cloud = real.connect(wire=keystone)
        cloud.list()

        with keystone.away():
            assert cloud.create(real.spec()).id


# How often it asks.


def test_a_thread_that_ends_leaves_no_connection_behind(real: RealCloud) -> None:
    with real.wire() as nova, real.wire(Service.NEUTRON) as neutron:
        cloud, open_then = real.connect(wires=(nova, neutron)), []

        def look() -> None:
            list(cloud.list())
            cloud.find_ports(uuid.uuid4())
            open_then.append((nova.open, neutron.open))

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert all(min(each) >= 1 for each in open_then)
        until(lambda: not nova.open and not neutron.open, 10, "every connection is closed")


def test_all_threads_of_a_process_sign_in_once(real: RealCloud) -> None:
    with real.wire(Service.KEYSTONE) as keystone, real.wire() as nova:
        cloud = real.connect(wires=(keystone, nova))
        together, told = threading.Barrier(4), []

        def look() -> None:
            together.wait()
            told.append(len(list(cloud.list())))

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert told == [0] * 4
        assert keystone.calls.count(("POST", "/v3/auth/tokens")) == 1
        before = len(nova.calls)
        later = threading.Thread(target=lambda: told.append(len(list(cloud.list()))))
        later.start()
        later.join()
        # nor does it ask again where Nova listens
        assert nova.calls[before:] == [("GET", nova.calls[-1][1])]


def test_names_are_looked_up_once_and_a_list_takes_as_many_calls_as_it_has_pages(real: RealCloud) -> None:
    with ExitStack() as stack:
        wires = {one: stack.enter_context(real.wire(one)) for one in (Service.NOVA, Service.NEUTRON, Service.GLANCE)}
        cloud = real.connect(wires=wires.values())
        for _ in range(4):
            spec = real.spec()
            cloud.create(replace(spec, port_id=cloud.create_port(spec.instance_id).id))
        assert sum(path.startswith("/v2/images") for _, path in wires[Service.GLANCE].calls) == 1
        assert sum(path.startswith("/v2.0/networks") for _, path in wires[Service.NEUTRON].calls) == 1
        before = len(wires[Service.NOVA].calls)

        assert len(list(cloud.list())) == 4

        assert len(wires[Service.NOVA].calls) - before == 2  # Nova's pages hold three there


def test_a_process_that_was_made_known_asks_for_nothing_but_the_port_and_the_machine(real: RealCloud) -> None:
    with ExitStack() as stack:
        services = (Service.KEYSTONE, Service.NOVA, Service.NEUTRON, Service.GLANCE)
        wires = [stack.enter_context(real.wire(one)) for one in services]
        cloud = real.connect(wires=wires)
        driving.warm_up(cloud).join()
        before = [len(wire.calls) for wire in wires]

        spec = real.spec()
        cloud.create(replace(spec, port_id=cloud.create_port(spec.instance_id).id))

        asked = [path for wire, number in zip(wires, before, strict=True) for _, path in wire.calls[number:]]
        assert asked == ["/v2.1/servers", "/v2.0/ports"]


def test_an_id_that_has_become_wrong_is_looked_up_anew_before_it_is_refused(real: RealCloud) -> None:
    with real.wire() as nova, real.wire(Service.GLANCE) as glance:
        cloud = real.connect(wires=(nova, glance))
        wrong = f'{{"images": [{{"id": "{uuid.uuid4()}", "name": "visa-desktop", "status": "active"}}]}}'
        glance.spoil(Fault.STATUS, path="/images", status=200, body=wrong.encode(), count=1)

        assert cloud.create(real.spec()).id

        assert nova.orders == [("POST", "/v2.1/servers")] * 2
        assert sum(path.startswith("/v2/images") for _, path in glance.calls) == 2


def test_changes_are_told_of_servers_that_carry_no_mark_any_more(real: RealCloud, cloud: OpenStackCloud) -> None:
    began, spec = datetime.now(UTC) - timedelta(seconds=2), real.spec()
    made = cloud.create(spec)
    real.settled(cloud, spec, ServerStatus.ACTIVE)
    cloud.delete(made.id)
    real.gone(cloud, spec)

    (record,) = [one for one in real.sdk().compute.servers(all_projects=True, deleted=True) if one.id == made.id]
    assert (record.metadata, record.tags) == ({}, [])
    assert [(one.id, one.status) for one in cloud.changed_since(began).servers] == [(made.id, ServerStatus.DELETED)]


def test_a_cloud_without_cinder_has_no_volumes(cloud: OpenStackCloud) -> None:
    assert cloud.volumes() == ()
