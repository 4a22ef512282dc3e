"""Exactly one machine on its own port, however often a build is lost or an answer does not come; and its whole end."""

import time
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from django.conf import LazySettings
from django.db.models.functions import Now
from django.utils import timezone
from typing_extensions import override

from instances import access, actions, pacing, provisioning
from instances.actions import Launch
from instances.cloud.memory import OFFERING, MemoryCloud
from instances.cloud.protocol import (
    CloudRefused,
    CloudUnreachable,
    Desktop,
    Port,
    Server,
    ServerSpec,
    ServerStatus,
    Service,
)
from instances.lifecycle import BUILDS, Seen, State, Wanted
from instances.models import Image, Instance
from instances.pace import pace
from quotas import allowances
from quotas.arithmetic import Resources
from quotas.models import Flavour, Limit, Reservation
from tests import factories
from tests.machines import settle
from visa.accounts.models import User

pytestmark = pytest.mark.django_db
EVERYTHING = replace(OFFERING, images=frozenset({"desktop"}), flavours=frozenset({"small", "large"}))


@pytest.fixture
def launched(owner: User, flavour: Flavour, image: Image, limit: Limit) -> UUID:
    return actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id


def events(owner: User, instance_id: UUID) -> list[str]:
    return [event.kind for event in access.instance_for(owner, instance_id).events]


def used(owner: User) -> Resources:
    return allowances.standing_of(actions.subject_of(owner)).used


class Failing(MemoryCloud):
    """Its first `faults` builds end in ERROR."""

    def __init__(self, *, faults: int, fault: str = "Build of instance aborted", desktop: Desktop) -> None:
        super().__init__(desktop=desktop, offering=EVERYTHING)
        self.faults, self.fault, self.made = faults, fault, 0

    @override
    def create(self, spec: ServerSpec) -> Server:
        server = super().create(spec)
        self.made += 1
        if self.made <= self.faults:
            self.fail_build(server.id, self.fault)
            return next(one for one in self.list() if one.id == server.id)
        return server


def test_a_machine_stands_on_its_own_port_and_carries_its_serial(launched: UUID, cloud: MemoryCloud) -> None:
    row = settle(cloud, launched)

    assert [port.id for port in cloud.ports()] == [row.port_id]
    spec = cloud.spec(str(row.server_id))
    assert (spec.port_id, spec.serial) == (row.port_id, row.serial)


@pytest.mark.parametrize("faults", [1, 2])
def test_a_build_that_fails_is_deleted_and_made_again_after_a_pause(
    launched: UUID, vnc: Desktop, owner: User, faults: int
) -> None:
    cloud = Failing(faults=faults, desktop=vnc)

    row = settle(cloud, launched, steps=40)

    assert (row.state, row.builds_lost, cloud.made) == (State.ACTIVE, 0, faults + 1)
    assert len(list(cloud.list())) == 1
    assert events(owner, launched).count("build.lost") == faults


def test_between_two_builds_the_machine_waits_and_says_why(launched: UUID, vnc: Desktop, owner: User) -> None:
    cloud = Failing(faults=1, fault="No valid host was found.", desktop=vnc)
    pacing.admit()
    for _ in range(4):
        Instance.objects.exclude(state=State.WAITING).update(due_at=Now())
        provisioning.advance(cloud, launched)

    row = Instance.objects.get(id=launched)
    assert (row.state, row.reason_code, row.builds_lost) == (State.WAITING, "retry_no_room", 1)
    assert Instance.objects.filter(due_at__gt=Now() + timedelta(seconds=5), due_at__lte=Now() + timedelta(seconds=10))
    assert not list(cloud.list())


@pytest.mark.parametrize(
    ("fault", "code"), [("No valid host was found. ", "no_room"), ("Exceeded retries.", "build_failed")]
)
def test_after_the_last_build_nothing_is_left_and_nothing_is_held(
    launched: UUID, vnc: Desktop, owner: User, fault: str, code: str
) -> None:
    cloud = Failing(faults=99, fault=fault, desktop=vnc)

    row = settle(cloud, launched, steps=60)

    assert (row.state, row.reason_code, cloud.made) == (State.ERROR, code, BUILDS)
    assert row.reason_detail == fault
    assert not list(cloud.list())
    assert not list(cloud.ports())
    assert used(owner) == Resources()


def test_what_was_given_back_is_reserved_again_before_another_try(
    launched: UUID, vnc: Desktop, owner: User, limit: Limit
) -> None:
    settle(Failing(faults=99, desktop=vnc), launched, steps=60)
    limit.machines = 0
    limit.save()
    with pytest.raises(allowances.QuotaExceeded):
        actions.start(launched, by=owner)
    assert Instance.objects.get(id=launched).state == State.ERROR

    limit.machines = 1
    limit.save()
    actions.start(launched, by=owner)

    assert used(owner).machines == 1
    assert settle(Failing(faults=0, desktop=vnc), launched).state == State.ACTIVE


def test_a_build_that_never_ends_is_made_again_once(launched: UUID, vnc: Desktop) -> None:
    class Stuck(MemoryCloud):
        made = 0

        @override
        def create(self, spec: ServerSpec) -> Server:
            self.made += 1
            return super().create(spec)

    cloud = Stuck(looks=10**6, desktop=vnc, offering=EVERYTHING)
    for _ in range(3):
        settle(cloud, launched, steps=8)
        Instance.objects.filter(id=launched, seen="building").update(step_since=Now() - timedelta(minutes=16))

    row = settle(cloud, launched, steps=8)

    assert (row.state, row.reason_code, cloud.made) == (State.ERROR, "too_slow", 2)
    assert not list(cloud.list())


def test_a_size_may_take_longer_to_be_made_than_others(launched: UUID, vnc: Desktop, flavour: Flavour) -> None:
    """A large image on a slow store is no fault; a size that is always quick may say so too."""
    cloud = MemoryCloud(looks=10**6, desktop=vnc, offering=EVERYTHING)

    def state_after(minutes: int) -> str:
        settle(cloud, launched, steps=4)
        Instance.objects.filter(id=launched, seen="building").update(step_since=Now() - timedelta(minutes=minutes))
        settle(cloud, launched, steps=1)
        return Instance.objects.get(id=launched).reason_code

    flavour.build_minutes = 40
    flavour.save()
    assert state_after(39) == ""
    assert state_after(41) == "retry_too_slow"


def test_an_error_of_a_machine_that_was_ready_is_shown_and_nothing_is_deleted(
    launched: UUID, cloud: MemoryCloud, owner: User
) -> None:
    row = settle(cloud, launched)
    cloud.break_down(str(row.server_id), "the host is on fire")

    row = settle(cloud, launched)

    assert (row.state, row.reason_code) == (State.ERROR, "cloud_error")
    assert len(list(cloud.list())) == 1
    assert used(owner).machines == 1
    assert access.instance_for(owner, launched).way_out


class Shared(MemoryCloud):
    """On a network of another project's, where addresses cannot be chosen; loses the answers to its first ports."""

    losing = 0

    @property
    @override
    def unique_ports(self) -> bool:
        return False

    @override
    def create_port(self, instance_id: UUID) -> Port:
        port = self._another_port(instance_id)
        if self.losing > 0:
            self.losing -= 1
            raise CloudUnreachable("the answer was lost")
        return port

    def _another_port(self, instance_id: UUID) -> Port:
        return super().create_port(instance_id)


def test_a_port_whose_answer_was_lost_is_found_and_used(launched: UUID, vnc: Desktop) -> None:
    cloud = Shared(desktop=vnc, offering=EVERYTHING)
    cloud.losing = 1

    row = settle(cloud, launched)

    assert row.state == State.ACTIVE
    assert [port.id for port in cloud.ports()] == [row.port_id]


def test_a_port_that_may_still_come_is_waited_for(launched: UUID, vnc: Desktop) -> None:
    cloud = Shared(desktop=vnc, offering=EVERYTHING)
    pacing.admit()
    Instance.objects.filter(id=launched).update(port_intent_at=Now())

    settle(cloud, launched, steps=3)
    assert not list(cloud.ports())

    Instance.objects.filter(id=launched).update(port_intent_at=Now() - timedelta(minutes=3))
    assert settle(cloud, launched).state == State.ACTIVE


def test_nothing_is_ordered_under_a_lease_that_is_half_over(
    launched: UUID, vnc: Desktop, settings: LazySettings
) -> None:
    class Late(MemoryCloud):
        """Its port takes so long that half of the lease is over."""

        seconds = 0.0

        @override
        def create_port(self, instance_id: UUID) -> Port:
            time.sleep(self.seconds)
            return super().create_port(instance_id)

    environment = settings.ENVIRONMENT
    settings.ENVIRONMENT = replace(environment, tests=replace(environment.tests, scale=0.02))
    cloud = Late(desktop=vnc, offering=EVERYTHING)
    cloud.seconds = pace().budget.total_seconds() * 1.2

    provisioning.advance(cloud, launched)

    row = Instance.objects.get(id=launched)
    assert (row.attempt, row.intent_at) == (0, None)
    assert not list(cloud.list())

    settings.ENVIRONMENT = environment
    Instance.objects.filter(id=launched).update(lease_until=None)
    cloud.seconds = 0.0
    assert settle(cloud, launched).state == State.ACTIVE


def test_no_deletion_is_ordered_under_a_lease_that_is_half_over(
    launched: UUID, vnc: Desktop, owner: User, settings: LazySettings
) -> None:
    class Late(MemoryCloud):
        """Its list takes so long that half of the lease is over."""

        seconds = 0.0

        @override
        def find(self, instance_id: UUID) -> tuple[Server, ...]:
            time.sleep(self.seconds)
            return super().find(instance_id)

    cloud = Late(desktop=vnc, offering=EVERYTHING)
    settle(cloud, launched)
    actions.delete(launched, by=owner)
    environment = settings.ENVIRONMENT
    settings.ENVIRONMENT = replace(environment, tests=replace(environment.tests, scale=0.02))
    cloud.seconds = pace().budget.total_seconds() * 1.2

    provisioning.advance(cloud, launched)

    assert [server.instance_id for server in cloud.list()] == [launched]
    assert Instance.objects.get(id=launched).failures == 0

    settings.ENVIRONMENT = environment
    cloud.seconds = 0.0
    assert settle(cloud, launched).state == State.DELETED
    assert not list(cloud.list())


def test_a_deletion_ends_with_nothing_of_it_left(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    actions.delete(launched, by=owner)

    row = settle(cloud, launched)

    assert (row.state, row.server_id, row.port_id) == (State.DELETED, None, None)
    assert not list(cloud.list())
    assert not list(cloud.ports())
    assert used(owner) == Resources()
    assert not Reservation.objects.exists()


class Swallowing(MemoryCloud):
    """Takes a deletion and does nothing, while `swallowing`."""

    swallowing = True
    ordered = 0

    @override
    def delete(self, server_id: str) -> None:
        self.ordered += 1
        if not self.swallowing:
            super().delete(server_id)


def test_a_deletion_that_does_nothing_is_ordered_again_told_and_never_shown_as_done(
    launched: UUID, vnc: Desktop, owner: User
) -> None:
    cloud = Swallowing(desktop=vnc, offering=EVERYTHING)
    settle(cloud, launched)
    actions.delete(launched, by=owner)

    row = settle(cloud, launched, steps=5)
    assert (row.state, row.alarmed_at, cloud.ordered) == (State.DELETING, None, 5)
    assert used(owner).machines == 1

    Instance.objects.filter(id=launched).update(wanted_at=Now() - timedelta(minutes=11))
    row = settle(cloud, launched, steps=3)
    assert row.alarmed_at is not None
    assert events(owner, launched).count("delete.stuck") == 1

    cloud.swallowing = False
    assert settle(cloud, launched).state == State.DELETED


def test_a_port_that_may_not_go_holds_a_deletion_up_in_words_and_is_told(
    launched: UUID, vnc: Desktop, owner: User
) -> None:
    class Holding(MemoryCloud):
        @override
        def delete_port(self, port_id: str) -> None:
            raise CloudRefused("Port is currently a parent port for trunk", service=Service.NEUTRON)

    cloud = Holding(desktop=vnc, offering=EVERYTHING)
    settle(cloud, launched)
    actions.delete(launched, by=owner)
    row = settle(cloud, launched, steps=5)
    assert (row.state, row.reason_code, row.alarmed_at) == (State.DELETING, "cloud_refused", None)

    Instance.objects.filter(id=launched).update(wanted_at=Now() - timedelta(minutes=11))
    row = settle(cloud, launched, steps=3)

    assert events(owner, launched).count("delete.stuck") == 1
    assert used(owner).machines == 1


def test_a_lost_build_that_comes_up_before_it_is_deleted_is_kept(launched: UUID, vnc: Desktop) -> None:
    cloud = Swallowing(desktop=vnc, offering=EVERYTHING, looks=2)
    settle(cloud, launched, steps=1)
    (server,) = cloud.list()
    cloud.break_down(server.id, "Build took too long.")
    assert settle(cloud, launched, steps=1).discarding_since is not None

    cloud.move(server.id)
    cloud.swallowing = False
    row = settle(cloud, launched, steps=3)

    assert (row.state, row.server_id, row.discarding_since) == (State.ACTIVE, server.id, None)
    assert [one.id for one in cloud.list()] == [server.id]


def test_a_build_that_took_too_long_and_comes_up_is_kept_also_where_a_list_tells_of_it_first(
    launched: UUID, vnc: Desktop
) -> None:
    cloud = Swallowing(desktop=vnc, offering=EVERYTHING, looks=5)
    settle(cloud, launched, steps=2)
    Instance.objects.filter(id=launched).update(step_since=Now() - timedelta(hours=1))
    row = settle(cloud, launched, steps=1)
    assert (row.seen, row.reason_code) == (Seen.BUILDING, "retry_too_slow")
    assert row.discarding_since is not None

    cloud.swallowing = False
    cloud.move(str(row.server_id))
    (told,) = cloud.list()
    assert told.status is ServerStatus.ACTIVE
    Instance.objects.filter(id=launched).update(due_at=Now())
    provisioning.advance(cloud, launched, told=told)

    row = settle(cloud, launched, steps=2)
    assert (row.state, row.server_id, row.discarding_since) == (State.ACTIVE, told.id, None)


def test_a_lost_build_that_is_being_deleted_is_not_kept_whatever_answers(launched: UUID, vnc: Desktop) -> None:
    cloud = MemoryCloud(desktop=vnc, offering=EVERYTHING, looks=2)
    settle(cloud, launched, steps=1)
    (server,) = cloud.list()
    cloud.break_down(server.id, "Build took too long.")
    cloud.holding = True
    settle(cloud, launched, steps=1)
    cloud.move(server.id)

    assert settle(cloud, launched, steps=2).discarding_since is not None
    cloud.let_go()

    assert settle(cloud, launched).server_id != server.id


def test_a_machine_that_waits_in_line_can_be_given_up(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    actions.delete(launched, by=owner)

    assert settle(cloud, launched).state == State.DELETED
    assert used(owner) == Resources()
    assert not list(cloud.list())


def test_a_size_changed_at_the_cloud_is_shown_and_counted(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    large = factories.make_flavour(slug="large", cores=4, memory_mib=4096)
    row = settle(cloud, launched)
    Instance.objects.filter(id=launched).update(cloud_flavour="small")

    class Resized(MemoryCloud):
        @override
        def find(self, instance_id: UUID) -> tuple[Server, ...]:
            return tuple(replace(one, flavour="large", host="h2") for one in cloud.find(instance_id))

    settle(Resized(), launched, steps=1)

    view = access.instance_for(owner, launched)
    assert (view.cores, view.flavour_name, view.state) == (4, large.name, State.ACTIVE)
    assert used(owner).cores == 4
    assert "resized" in events(owner, launched)
    assert row.flavour_id != Instance.objects.get(id=launched).flavour_id


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (ServerStatus.PAUSED, State.PAUSED),
        (ServerStatus.SHELVED, State.SHELVED),
        (ServerStatus.RESIZE, State.RESIZING),
    ],
)
def test_what_an_operator_did_is_shown(
    launched: UUID, cloud: MemoryCloud, owner: User, status: ServerStatus, state: State
) -> None:
    settle(cloud, launched)

    class Operated(MemoryCloud):
        @override
        def find(self, instance_id: UUID) -> tuple[Server, ...]:
            return tuple(replace(one, status=status) for one in cloud.find(instance_id))

    row = settle(Operated(), launched, steps=4)

    assert row.state == state
    view = access.instance_for(owner, launched)
    assert view.state_words
    assert (row.wanted == Wanted.STOPPED) is (state is not State.RESIZING)
    assert view.can_start is (state is not State.RESIZING)


def test_a_machine_that_was_moved_to_another_host_says_so_once(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    assert "moved" not in events(owner, launched), "where it is seen for the first time is no move"

    class Moved(MemoryCloud):
        @override
        def find(self, instance_id: UUID) -> tuple[Server, ...]:
            return tuple(replace(one, host="h2") for one in cloud.find(instance_id))

    settle(Moved(), launched, steps=2)

    assert events(owner, launched).count("moved") == 1
    assert Instance.objects.get(id=launched).cloud_host == "h2"


def test_a_step_that_breaks_holds_up_its_own_machine_alone_and_waits_ever_longer(
    launched: UUID, vnc: Desktop, owner: User, caplog: pytest.LogCaptureFixture
) -> None:
    class Surprising(MemoryCloud):
        breaks = True

        @override
        def create_port(self, instance_id: UUID) -> Port:
            if self.breaks and instance_id == launched:
                raise ZeroDivisionError("nobody thought of this")
            return super().create_port(instance_id)

    cloud = Surprising(desktop=vnc, offering=EVERYTHING)
    other = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id
    pacing.admit()

    while provisioning.advance(cloud) is not None:
        pass  # a tick: it takes what is due until nothing is

    assert Instance.objects.get(id=other).had_server
    row = Instance.objects.get(id=launched)
    assert (row.failures, row.reason_code, row.lease_until) == (1, "step_broke", None)
    assert "nobody thought of this" in caplog.text
    assert "nobody thought" not in access.instance_for(owner, launched).reason
    settle(cloud, launched, steps=9)
    again = Instance.objects.filter(id=launched).values_list("due_at", flat=True)[0] - timezone.now()
    assert again > timedelta(0)
    assert Instance.objects.get(id=launched).failures == 10

    cloud.breaks = False
    assert (settle(cloud, launched).state, settle(cloud, launched).reason_code) == (State.ACTIVE, "")


def test_a_database_from_before_the_order_makes_no_second_machine(launched: UUID, vnc: Desktop) -> None:
    cloud = MemoryCloud(desktop=vnc, offering=EVERYTHING)
    before = Instance.objects.filter(id=launched).values().get()
    ready = settle(cloud, launched)
    Instance.objects.filter(id=launched).update(
        **{name: value for name, value in before.items() if name not in {"id", "state", "serial", "fence"}}
    )

    again = settle(cloud, launched)

    assert (again.state, again.server_id) == (State.ACTIVE, ready.server_id)
    assert len(list(cloud.list())) == len(list(cloud.ports())) == 1


def test_a_double_of_a_machine_that_boots_is_found_and_none_of_the_two_is_kept(launched: UUID, owner: User) -> None:
    """Neither has a network then (decision 0008), so no desktop greets."""
    cloud = MemoryCloud(offering=EVERYTHING)
    settle(cloud, launched, steps=3)
    row = Instance.objects.get(id=launched)
    assert row.seen == Seen.BOOTING
    cloud.create(replace(cloud.spec(str(row.server_id)), port_id=""))

    settle(cloud, launched, steps=6)

    assert "build.lost" in events(owner, launched)
    (server,) = cloud.find(launched)
    assert server.id != row.server_id
