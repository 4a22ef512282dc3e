"""What nobody asked for waits while it is doubtful that the rows belong to the cloud.

Nothing is lost by a wrong setting, nor by a database put back from a copy.
"""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from django.db.models import F
from django.db.models.functions import Now
from typing_extensions import override

from instances import access, actions, reconciliation, sweeps, transitions
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import CloudUnreachable, Desktop, Server
from instances.lifecycle import Seen, State, Wanted
from instances.models import DatabaseIdentity, Image, Instance, Sighting, Sweep, SweepHold
from instances.strays import DOUBTS, Doubt
from quotas import allowances
from quotas.models import Flavour
from tests import factories, machines
from tests.machines import settle
from visa.accounts.models import User
from visa.outbox.models import Outbox

pytestmark = pytest.mark.django_db


@pytest.fixture
def four(owner: User, flavour: Flavour, image: Image, cloud: MemoryCloud) -> list[UUID]:
    """Machines that run, of one person."""
    factories.make_limit(machines=10, cores=100, memory_mib=1_000_000)
    return [machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud) for _ in range(4)]


def states(ids: list[UUID]) -> list[str]:
    return [Instance.objects.get(id=one).state for one in ids]


def test_machines_that_vanish_together_are_not_called_gone_and_come_back(
    four: list[UUID], cloud: MemoryCloud, owner: User, administrator: User
) -> None:
    """As where clouds.yaml names another project, or the environment was renamed."""
    before = {one.id for one in cloud.list()}
    cloud.environment = "renamed"

    for one in four:
        settle(cloud, one, steps=4)

    assert states(four) == [State.ACTIVE] * 4
    hold = SweepHold.objects.get()
    assert (hold.why, hold.detail) == (DOUBTS[Doubt.VANISHED], "4 of 4 machines are missing")
    assert [one.payload["notice"] for one in Outbox.objects.all()].count("sweep_held") == 1
    view = access.instance_for(owner, four[0])
    assert (view.reason_code, bool(view.way_out)) == ("held", True)
    assert allowances.standing_of(actions.subject_of(owner)).used.machines == 4
    # who follows the link again finds theirs, and loses nothing
    doi = Instance.objects.get(id=four[0]).dataset.minted  # type: ignore[union-attr]  # it has one
    assert actions.launch(actions.Launch(doi=doi), by=owner).instance_id == four[0]

    cloud.environment = "test"
    for one in four:
        settle(cloud, one, steps=2)

    assert {one.id for one in cloud.list()} == before
    assert access.instance_for(owner, four[0]).reason_code == ""
    assert sweeps.release(hold.id, by=administrator)


def test_machines_that_are_gone_together_are_called_so_when_somebody_has_looked(
    four: list[UUID], cloud: MemoryCloud, administrator: User
) -> None:
    for server in list(cloud.list())[:3]:
        cloud.delete(server.id)
    for one in four:
        settle(cloud, one, steps=4)
    assert State.GONE not in states(four)

    sweeps.release(SweepHold.objects.get().id, by=administrator)
    for one in four:
        settle(cloud, one, steps=4)

    assert sorted(states(four)) == [State.ACTIVE, State.GONE, State.GONE, State.GONE]


def test_up_to_half_may_go_without_anybody_being_asked(four: list[UUID], cloud: MemoryCloud) -> None:
    for server in list(cloud.list())[:2]:
        cloud.delete(server.id)

    for one in four:
        settle(cloud, one, steps=4)

    assert sorted(states(four)) == [State.ACTIVE, State.ACTIVE, State.GONE, State.GONE]
    assert not SweepHold.objects.exists()


def test_without_the_whole_list_none_is_called_gone(four: list[UUID], cloud: MemoryCloud, vnc: Desktop) -> None:
    class Listless(MemoryCloud):
        @override
        def list(self) -> tuple[Server, ...]:
            raise CloudUnreachable("a page of the list does not come")

    row = settle(Listless(desktop=vnc), four[0], steps=4)

    assert (row.state, row.reason_code) == (State.ACTIVE, "cloud_silent")


def test_a_hold_ends_by_itself_when_what_was_wrong_is_mended_and_another_mistake_opens_one_again(
    four: list[UUID], cloud: MemoryCloud
) -> None:
    cloud.environment = "renamed"
    settle(cloud, four[0], steps=4)
    cloud.environment = "test"
    reconciliation.sweep(cloud)
    assert SweepHold.objects.count() == 1  # not at once

    SweepHold.objects.update(since=F("since") - timedelta(minutes=6))
    reconciliation.sweep(cloud)
    assert not SweepHold.objects.exists()

    cloud.environment = "renamed again"
    settle(cloud, four[1], steps=4)
    assert SweepHold.objects.filter(released_at=None).exists()


def test_a_release_is_for_those_that_were_missing_then(
    four: list[UUID], cloud: MemoryCloud, administrator: User
) -> None:
    cloud.environment = "renamed"
    settle(cloud, four[0], steps=4)
    cloud.environment = "test"
    for one in four:
        settle(cloud, one, steps=2)
    assert sweeps.release(SweepHold.objects.get().id, by=administrator)

    cloud.environment = "renamed again"
    for one in four:
        settle(cloud, one, steps=4)

    assert states(four) == [State.ACTIVE] * 4
    assert SweepHold.objects.filter(released_at=None).exists()


def test_a_part_of_the_cloud_that_is_away_is_not_the_wrong_project(
    four: list[UUID], cloud: MemoryCloud, vnc: Desktop
) -> None:
    """Its lists leave out what stands there; by their ids they are there."""
    shown = {server.id: server for server in cloud.list() if server.instance_id in four[1:]}

    class Away(MemoryCloud):
        @override
        def known(self, server_id: str) -> Server | None:
            return shown.get(server_id)

    for one in four:
        settle(Away(desktop=vnc), one, steps=4)

    assert states(four) == [State.ACTIVE] * 4
    assert not SweepHold.objects.exists()


def test_builds_that_were_lost_are_not_missed(four: list[UUID], cloud: MemoryCloud) -> None:
    for server in list(cloud.list())[:3]:
        cloud.delete(server.id)
    lost = [one for one in four if not cloud.find(one)]
    Instance.objects.filter(id__in=lost[:2]).update(discarding_since=Now())

    settle(cloud, lost[2], steps=4)

    assert states([lost[2]]) == [State.GONE]


@pytest.fixture
def lost(owner: User, flavour: Flavour, image: Image, cloud: MemoryCloud) -> UUID:
    """One that was called gone, since of few machines nothing can be told by their number, and is there."""
    factories.make_limit(machines=10, cores=100, memory_mib=1_000_000)
    machine = machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud)
    reconciliation.sweep(cloud)
    cloud.environment = "renamed"
    assert settle(cloud, machine, steps=4).state == State.GONE
    return machine


def cleared_away_before_it_is_mended(cloud: MemoryCloud, lost: UUID, owner: User) -> None:
    actions.delete(lost, by=owner)
    assert settle(cloud, lost).state == State.DELETED
    cloud.environment = "test"


def cleared_away_while_it_is_mended(cloud: MemoryCloud, lost: UUID, owner: User) -> None:
    actions.delete(lost, by=owner)
    cloud.environment = "test"


def launched_anew_while_it_is_mended(cloud: MemoryCloud, lost: UUID, owner: User) -> None:
    doi = Instance.objects.get(id=lost).dataset.minted  # type: ignore[union-attr]  # it has one
    assert actions.launch(actions.Launch(doi=doi), by=owner).instance_id != lost
    cloud.environment = "test"


@pytest.mark.parametrize(
    "wished",
    [cleared_away_before_it_is_mended, cleared_away_while_it_is_mended, launched_anew_while_it_is_mended],
)
def test_what_was_taken_for_gone_and_cleared_away_is_left_to_people(
    lost: UUID, cloud: MemoryCloud, owner: User, wished: Callable[[MemoryCloud, UUID, User], None]
) -> None:
    server_id = str(Instance.objects.get(id=lost).server_id)
    wished(cloud, lost, owner)

    assert settle(cloud, lost).state == State.DELETED
    for _ in range(30):
        reconciliation.sweep(cloud)
        Sighting.objects.update(first_seen_at=F("first_seen_at") - timedelta(minutes=1))
        Sweep.objects.update(at=F("at") - timedelta(minutes=1))

    assert server_id in {one.id for one in cloud.list()}
    assert Sighting.objects.get(provider_id=server_id).times_seen == 30


def test_a_machine_that_came_back_before_the_click_is_resumed(lost: UUID, cloud: MemoryCloud, owner: User) -> None:
    cloud.environment = "test"
    settle(cloud, lost)

    assert not transitions.wish(lost, Wanted.DELETED, by=owner, gone=True)
    assert Instance.objects.get(id=lost).state == State.ACTIVE


# --- a database put back from a copy ------------------------------------------------------------------------------


@pytest.fixture
def broken(owner: User, flavour: Flavour, image: Image, cloud: MemoryCloud) -> UUID:
    """A machine in ERROR that its row, which is older, takes for one that never came up; nor does the cloud know."""
    factories.make_limit(machines=10, cores=100, memory_mib=1_000_000)
    machine = machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud)
    reconciliation.sweep(cloud)
    row = Instance.objects.get(id=machine)
    cloud.fail_build(str(row.server_id), "The host is away.")
    Instance.objects.filter(id=machine).update(ready_at=None, seen=Seen.BUILDING, fulfilled_at=None, seen_at=None)
    return machine


def put_back_elsewhere() -> None:
    DatabaseIdentity.objects.update(system="7000000000000000000/00000001/16384")


def put_back_over_itself() -> None:
    """The same database, and all that is in it is older: its last sweep, too."""
    Sweep.objects.update(at=Now() - timedelta(hours=3))


def somebody_is_asked() -> None:
    SweepHold.objects.create(why="something", since=Sweep.objects.latest("at").at)


@pytest.mark.parametrize("older", [put_back_elsewhere, put_back_over_itself, somebody_is_asked])
def test_in_a_database_put_back_nothing_is_discarded(
    broken: UUID, cloud: MemoryCloud, owner: User, older: Callable[[], None]
) -> None:
    older()

    row = settle(cloud, broken, steps=4)

    assert [one.id for one in cloud.list()] == [row.server_id]
    assert (row.reason_code, row.builds_lost, row.discarding_since) == ("held", 0, None)
    # what its owner wishes is done
    actions.delete(broken, by=owner)
    assert settle(cloud, broken).state == State.DELETED


def test_after_the_release_a_lost_build_is_discarded(broken: UUID, cloud: MemoryCloud) -> None:
    put_back_elsewhere()
    lost = Instance.objects.get(id=broken).server_id
    settle(cloud, broken, steps=2)
    reconciliation.sweep(cloud)
    assert settle(cloud, broken, steps=2).server_id == lost

    sweeps.release_all()

    row = settle(cloud, broken)
    assert (row.state, row.server_id == lost) == (State.ACTIVE, False)


@pytest.mark.parametrize("discarding", [False, True])
def test_a_server_that_has_run_is_never_a_lost_build(broken: UUID, cloud: MemoryCloud, discarding: bool) -> None:
    """Whatever its row says, which may be older than its first minute."""
    server_id = str(Instance.objects.get(id=broken).server_id)
    cloud.move(server_id)
    cloud.break_down(server_id, "The host is away.")
    if discarding:
        Instance.objects.filter(id=broken).update(discarding_since=Now(), builds_lost=1)

    row = settle(cloud, broken)

    assert [one.id for one in cloud.list()] == [server_id]
    assert (row.state, row.reason_code) == (State.ERROR, "cloud_error")


def test_a_build_that_is_held_keeps_nobody_from_being_made(broken: UUID, cloud: MemoryCloud) -> None:
    Instance.objects.filter(id=broken).update(admitted_at=Now())
    somebody_is_asked()

    assert settle(cloud, broken, steps=2).admitted_at is None


def test_a_second_server_beside_one_at_work_stays_while_a_hold_stands(four: list[UUID], cloud: MemoryCloud) -> None:
    row = Instance.objects.get(id=four[0])
    reconciliation.sweep(cloud)
    somebody_is_asked()
    second = machines.stray_server(cloud, of=row.id).id
    settle(cloud, row.id, steps=2)
    assert second in {one.id for one in cloud.list()}

    sweeps.release_all()
    settle(cloud, row.id, steps=2)
    assert second not in {one.id for one in cloud.list()}
