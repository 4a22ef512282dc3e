"""Rows against the cloud: what nobody owns is found, waits, and goes under brakes; what is missing is looked at."""

import logging
import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.db.models import F, Max
from django.db.models.functions import Now
from pytest_django import DjangoAssertNumQueries, Settings
from typing_extensions import override

from instances import actions, holds, pacing, reconciliation, sweeps
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import CloudRefused, CloudUnreachable, Desktop, Port, Server, Service, Volume
from instances.lifecycle import State
from instances.models import DatabaseIdentity, Image, Instance, ServiceState, Sighting, Sweep, SweepHold
from instances.reconciliation import Comparison
from instances.strays import DOUBTS, Doubt
from quotas.models import Allowance, Flavour, Limit, Reservation
from tests import machines
from tests.machines import stray_server
from visa.accounts.models import User
from visa.audit.models import AuditEvent
from visa.environment import SweepMode
from visa.outbox.models import Outbox

pytestmark = pytest.mark.django_db

Verdict = Sighting.Verdict
MINUTE = timedelta(minutes=1)


class AgedCloud(MemoryCloud):
    """Its things look as old as a test wants them: whatever there is was made `age` earlier than it says."""

    age = timedelta(0)

    @override
    def list(self) -> tuple[Server, ...]:
        return tuple(replace(one, created_at=one.created_at - self.age) for one in super().list())

    @override
    def ports(self) -> tuple[Port, ...]:
        return tuple(replace(one, created_at=one.created_at - self.age) for one in super().ports())

    @override
    def volumes(self) -> tuple[Volume, ...]:
        return tuple(replace(one, created_at=one.created_at - self.age) for one in super().volumes())


@pytest.fixture
def cloud(vnc: Desktop) -> AgedCloud:
    usual = machines.memory_cloud(vnc)
    return AgedCloud(desktop=vnc, offering=usual.offering(), cores=10_000, memory_mib=10**8)


@pytest.fixture
def machine(owner: User, flavour: Flavour, image: Image, limit: Limit, cloud: AgedCloud) -> Instance:
    """One that runs."""
    return Instance.objects.get(id=machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud))


@pytest.fixture
def settled(machine: Instance, cloud: AgedCloud) -> Instance:
    """The same, and this database has swept this cloud before."""
    reconciliation.sweep(cloud)
    return machine


def pass_by(cloud: AgedCloud, time: timedelta) -> None:
    """So much time goes by: all that was noted, and all that stands in the cloud, is so much older."""
    cloud.age += time
    Sighting.objects.update(
        first_seen_at=F("first_seen_at") - time,
        last_seen_at=F("last_seen_at") - time,
        quarantined_at=F("quarantined_at") - time,
    )
    Sweep.objects.update(at=F("at") - time)


def swept_for(cloud: AgedCloud, minutes: int) -> Comparison:
    """A sweep now, and one more each minute, for so long; the last one's comparison."""
    last = reconciliation.sweep(cloud)
    for _ in range(minutes):
        pass_by(cloud, MINUTE)
        last = reconciliation.sweep(cloud)
    assert last is not None
    return last


def verdict_of(thing_id: str) -> str:
    return Sighting.objects.get(provider_id=thing_id).verdict


def ids(cloud: MemoryCloud) -> set[str]:
    return {one.id for one in cloud.list()}


def test_a_machine_and_its_cloud_agree(machine: Instance, cloud: AgedCloud) -> None:
    found = swept_for(cloud, 20)

    assert found.agrees
    assert not Sighting.objects.exists()
    last = Sweep.objects.latest("at")
    assert (last.rows, last.servers, last.strays, last.swept, last.held) == (1, 1, 0, 0, "")
    assert last.ports == len(list(cloud.ports()))


def test_a_server_nobody_owns_waits_its_quarter_of_an_hour_and_goes(
    settled: Instance, cloud: AgedCloud, caplog: pytest.LogCaptureFixture
) -> None:
    stray = stray_server(cloud)

    swept_for(cloud, 9)
    assert verdict_of(stray.id) == Verdict.SIGHTED
    swept_for(cloud, 5)
    assert verdict_of(stray.id) == Verdict.QUARANTINED
    assert stray.id in ids(cloud)
    with caplog.at_level(logging.WARNING):
        swept_for(cloud, 2)

    assert ids(cloud) == {settled.server_id}
    assert verdict_of(stray.id) == Verdict.SWEPT
    assert "A defect to explain" in caplog.text
    assert sum(Sweep.objects.values_list("swept", flat=True)) == 1
    (told,) = AuditEvent.objects.filter(action="sweep.delete")
    assert (told.kind, told.object_id, told.reason) == ("server", stray.id, "unknown")
    assert [one.payload["notice"] for one in Outbox.objects.all()] == ["swept"]


def test_what_a_deleted_machine_left_behind_goes_in_its_order(settled: Instance, cloud: AgedCloud, owner: User) -> None:
    actions.delete(settled.id, by=owner)
    machines.settle(cloud, settled.id)
    assert Instance.objects.get(id=settled.id).deleted_at is not None
    port = cloud.create_port(settled.id)
    late = stray_server(cloud, of=settled.id, serial=settled.serial, port_id=port.id)
    volume = cloud.add_volume(settled.id, server_id=late.id)

    swept_for(cloud, 16)
    # What a server of ours uses goes after it, from its own first sight on.
    assert not ids(cloud)
    assert [one.id for one in cloud.ports()] == [port.id]
    assert [one.id for one in cloud.volumes()] == [volume.id]

    swept_for(cloud, 16)
    assert not list(cloud.ports())
    assert not list(cloud.volumes())
    assert set(Sighting.objects.values_list("why", flat=True)) == {"Its machine was deleted here."}


def test_a_late_server_of_a_live_machine_goes_and_the_one_its_row_names_stays(
    settled: Instance, cloud: AgedCloud
) -> None:
    late = stray_server(cloud, of=settled.id, serial=settled.serial)

    swept_for(cloud, 16)

    assert ids(cloud) == {settled.server_id}
    assert Sighting.objects.get().provider_id == late.id
    assert Sighting.objects.get().why == "Its machine has another one, which is there."


def test_a_surplus_port_of_a_live_machine_goes_and_its_own_stays(settled: Instance, cloud: AgedCloud) -> None:
    cloud.own_network = False  # where a port has no address of our choice, a second create makes a second port
    own = cloud.create_port(settled.id)
    Instance.objects.filter(id=settled.id).update(port_id=own.id)
    surplus = cloud.create_port(settled.id)

    swept_for(cloud, 16)

    assert surplus.id not in {one.id for one in cloud.ports()}
    assert own.id in {one.id for one in cloud.ports()}


def test_a_machine_whose_deletion_is_under_way_keeps_what_it_has(
    settled: Instance, cloud: AgedCloud, owner: User
) -> None:
    cloud.holding = True
    actions.delete(settled.id, by=owner)
    machines.settle(cloud, settled.id, steps=2)

    swept_for(cloud, 20)

    assert ids(cloud) == {settled.server_id}
    assert not Sighting.objects.exists()


def test_what_finds_its_row_is_explained_and_waits_anew_if_it_is_lost_again(
    settled: Instance, cloud: AgedCloud
) -> None:
    late = stray_server(cloud, of=settled.id)
    swept_for(cloud, 14)
    Instance.objects.filter(id=settled.id).update(server_id=late.id)

    found = swept_for(cloud, 1)
    assert verdict_of(late.id) == Verdict.EXPLAINED
    assert {one.thing.id for one in found.assessment.strays} == {settled.server_id}

    Instance.objects.filter(id=settled.id).update(server_id=settled.server_id)
    swept_for(cloud, 5)
    assert verdict_of(late.id) == Verdict.SIGHTED
    assert late.id in ids(cloud)


def test_other_environments_are_never_touched(settled: Instance, cloud: AgedCloud) -> None:
    theirs = stray_server(cloud.of_environment("somebody-else"))

    swept_for(cloud, 20)

    assert {one.id for one in cloud.of_environment("somebody-else").list()} == {theirs.id}
    assert not Sighting.objects.exists()


def test_few_go_at_once(settled: Instance, cloud: AgedCloud) -> None:
    for _ in range(30):
        stray_server(cloud)

    swept_for(cloud, 15)
    assert len(ids(cloud)) == 30
    swept_for(cloud, 1)

    # The first of them went in the sweep that made it fifteen minutes, and one in each after that.
    assert list(Sweep.objects.order_by("-at").values_list("swept", flat=True)[:4]) == [1, 1, 1, 0]


def test_a_table_that_lost_its_rows_deletes_no_machine(settled: Instance, cloud: AgedCloud) -> None:
    machines.make_many(settled, 8)
    for one in Instance.objects.exclude(id=settled.id):
        stray_server(cloud, of=one.id, serial=one.serial)
    reconciliation.sweep(cloud)
    Instance.objects.exclude(id=settled.id).delete()

    swept_for(cloud, 60)

    assert len(ids(cloud)) == 8
    assert {one.verdict for one in Sighting.objects.all()} == {Verdict.HELD}
    assert DOUBTS[Doubt.ROWS_LOST] in SweepHold.objects.values_list("why", flat=True)


def test_a_list_that_shrank_stops_the_sweeps_as_long_as_a_quarantine_lasts(settled: Instance, cloud: AgedCloud) -> None:
    others = [stray_server(cloud, of=settled.id) for _ in range(9)]
    Instance.objects.filter(id=settled.id).update(server_id=None)  # all of them may be its server
    swept_for(cloud, 1)
    stray = stray_server(cloud)
    swept_for(cloud, 13)
    for one in others:
        cloud.delete(one.id)

    swept_for(cloud, 14)
    assert verdict_of(stray.id) == Verdict.HELD
    assert Sweep.objects.latest("at").held
    swept_for(cloud, 3)
    assert verdict_of(stray.id) == Verdict.SWEPT


def test_a_site_that_only_reports_deletes_nothing(settled: Instance, cloud: AgedCloud, settings: Settings) -> None:
    here = settings.ENVIRONMENT
    settings.ENVIRONMENT = replace(here, cloud=replace(here.cloud, sweep=SweepMode.REPORT))
    stray = stray_server(cloud)

    swept_for(cloud, 30)
    assert stray.id in ids(cloud)
    assert verdict_of(stray.id) == Verdict.HELD
    assert "VISA_SWEEP" in Sweep.objects.latest("at").held

    reconciliation.sweep(cloud, deleting=True)
    assert stray.id not in ids(cloud)


def test_what_is_over_is_told_for_a_week(settled: Instance, cloud: AgedCloud) -> None:
    stray = stray_server(cloud)
    swept_for(cloud, 16)
    assert verdict_of(stray.id) == Verdict.SWEPT

    pass_by(cloud, timedelta(days=6))
    reconciliation.sweep(cloud)
    assert Sighting.objects.exists()
    pass_by(cloud, timedelta(days=1))
    reconciliation.sweep(cloud)
    assert not Sighting.objects.exists()


# --- a database that is not the one the cloud belongs to ----------------------------------------------------------


def newest_serial() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_value FROM instances_instance_serial")
        return int(cursor.fetchone()[0])


def test_machines_newer_than_the_database_hold_every_sweep_until_somebody_decides(
    settled: Instance, cloud: AgedCloud, administrator: User
) -> None:
    given = newest_serial()
    newer = stray_server(cloud, serial=given + 40)
    other = stray_server(cloud)

    swept_for(cloud, 30)
    hold = SweepHold.objects.get()
    assert hold.why == DOUBTS[Doubt.PUT_BACK]
    assert str(given + 40) in hold.detail
    assert [one.payload for one in Outbox.objects.all()] == [{"notice": "sweep_held", "about": str(hold.id)}]
    assert {newer.id, other.id} < ids(cloud)

    # From the moment it is known, no serial is given a second time.
    assert Instance.objects.aggregate(most=Max("serial"))["most"] <= given
    assert newest_serial() == given + 40

    assert sweeps.release(hold.id, by=administrator)
    swept_for(cloud, 3)
    assert ids(cloud) == {settled.server_id}
    assert not SweepHold.objects.filter(released_at=None).exists()
    assert set(AuditEvent.objects.filter(kind="sweep_hold").values_list("action", "actor")) == {
        ("sweep.hold", ""),
        ("sweep.release", str(administrator.public_id)),
    }


def test_machines_another_installation_accepted_under_our_tag_are_not_swept(
    settled: Instance, cloud: AgedCloud
) -> None:
    theirs = stray_server(cloud, serial=settled.serial)

    swept_for(cloud, 30)

    assert theirs.id in ids(cloud)
    assert SweepHold.objects.get().why == DOUBTS[Doubt.STRANGERS]


def test_another_database_server_or_another_history_of_it_holds_the_sweeps(settled: Instance, cloud: AgedCloud) -> None:
    DatabaseIdentity.objects.update(system="7000000000000000000/00000001/16384")

    swept_for(cloud, 2)

    (hold,) = SweepHold.objects.all()
    assert hold.why == DOUBTS[Doubt.OTHER_DATABASE]
    # The new one is noted: after the release it is the one that is known.
    assert DatabaseIdentity.objects.get().system in hold.detail
    sweeps.release_all()
    swept_for(cloud, 1)
    assert not SweepHold.objects.filter(released_at=None).exists()


def test_a_new_database_does_not_delete_what_it_finds(machine: Instance, cloud: AgedCloud) -> None:
    found = stray_server(cloud)

    swept_for(cloud, 30)

    assert SweepHold.objects.get().why == DOUBTS[Doubt.FIRST_LOOK]
    assert found.id in ids(cloud)


@pytest.mark.django_db(transaction=True)
def test_an_ordinary_role_of_the_database_may_ask_which_database_it_is(cloud: AgedCloud) -> None:
    """Installations do not run as the database's superuser."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE ordinary_reader")
        try:
            cursor.execute("GRANT SELECT ON instances_instance_serial TO ordinary_reader")
            cursor.execute("SET ROLE ordinary_reader")
            identity, _newest = holds.database()
        finally:
            cursor.execute("RESET ROLE")
            cursor.execute("DROP OWNED BY ordinary_reader")
            cursor.execute("DROP ROLE ordinary_reader")

    system, timeline, database = identity.split("/")
    assert int(system) > 0
    assert int(timeline, 16) >= 1
    assert int(database) > 0


# --- ghosts -------------------------------------------------------------------------------------------------------


def test_a_row_whose_server_is_gone_is_made_due_and_shown_gone_with_the_reason(
    settled: Instance, cloud: AgedCloud
) -> None:
    Instance.objects.filter(id=settled.id).update(due_at=Now() + timedelta(hours=1))
    cloud.delete(str(settled.server_id))

    found = reconciliation.sweep(cloud)

    assert found is not None
    assert [ghost.instance_id for ghost in found.ghosts] == [settled.id]
    assert Sweep.objects.latest("at").ghosts == 1
    assert Instance.objects.filter(due_at__lte=Now()).count() == 1
    gone = machines.settle(cloud, settled.id)
    assert (gone.state, gone.reason_code) == (State.GONE, "gone")
    again = reconciliation.sweep(cloud)
    assert again is not None
    assert not again.ghosts


# --- one at a time, and clouds that do not answer -----------------------------------------------------------------


def test_a_sweep_is_due_once_a_minute_for_all_drivers_together(settled: Instance, cloud: AgedCloud) -> None:
    assert not reconciliation.sweep_if_due(cloud)

    pass_by(cloud, timedelta(seconds=61))

    assert reconciliation.sweep_if_due(cloud)
    assert not reconciliation.sweep_if_due(cloud)


@pytest.mark.django_db(transaction=True)
def test_two_do_not_sweep_at_once(cloud: AgedCloud) -> None:
    """The second finds the lock taken, as the first waits for the cloud."""
    listing, go_on = threading.Event(), threading.Event()

    class Waiting(AgedCloud):
        @override
        def list(self) -> tuple[Server, ...]:
            listing.set()
            assert go_on.wait(20)
            return super().list()

    swept: list[bool] = []

    def first() -> None:
        with closing(connection):
            swept.append(reconciliation.sweep_if_due(Waiting()))

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert listing.wait(20)
        assert reconciliation.sweep(cloud) is None
    finally:
        go_on.set()
        thread.join(20)

    assert swept == [True]
    assert reconciliation.sweep(cloud) is not None


class SilentService(AgedCloud):
    """Lists servers; the service behind the other lists is away."""

    away = True

    @override
    def ports(self) -> tuple[Port, ...]:
        if self.away:
            raise CloudUnreachable("no answer")
        return super().ports()


def test_a_cloud_that_answers_in_part_is_compared_with_nothing(
    machine: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    partly = SilentService()

    assert not reconciliation.sweep_if_due(partly)
    assert not Sweep.objects.exists()
    assert "answers in part" in caplog.text
    assert ServiceState.objects.get().failures == 1, "it counts towards the breaker of its service"

    partly.away = False
    assert reconciliation.sweep_if_due(partly)


def test_a_cloud_that_is_away_is_not_asked_for_its_lists(cloud: AgedCloud) -> None:
    class Asked(AgedCloud):
        times = 0

        @override
        def list(self) -> tuple[Server, ...]:
            self.times += 1
            return super().list()

    asked = Asked()
    for _ in range(pacing.FAILURES):
        pacing.failed(Service.NOVA, "no answer")

    assert not reconciliation.sweep_if_due(asked)
    assert asked.times == 0

    ServiceState.objects.update(probe_at=Now())
    assert reconciliation.sweep_if_due(asked), "one probe is let through"
    assert asked.times == 1
    assert not ServiceState.objects.exists(), "and tells all others that it is back"


class Unwilling(AgedCloud):
    """Loses its deletions: refuses them, or never says whether it took them."""

    error: Exception | None = None

    @override
    def delete(self, server_id: str) -> None:
        if self.error is not None:
            raise self.error
        super().delete(server_id)


@pytest.mark.parametrize(
    ("error", "then"),
    [(CloudRefused("locked"), Verdict.QUARANTINED), (CloudUnreachable("no answer"), Verdict.SWEPT)],
)
def test_a_deletion_the_cloud_did_not_take_is_ordered_again(
    machine: Instance, vnc: Desktop, error: Exception, then: str
) -> None:
    unwilling = Unwilling(desktop=vnc, offering=machines.memory_cloud(vnc).offering())
    Instance.objects.all().update(server_id=None)
    reconciliation.sweep(unwilling)
    stray = stray_server(unwilling)
    unwilling.error = error

    swept_for(unwilling, 16)
    assert verdict_of(stray.id) == then
    assert ServiceState.objects.exists() is isinstance(error, CloudUnreachable)
    assert stray.id in ids(unwilling)

    unwilling.error = None
    swept_for(unwilling, 6)
    assert not ids(unwilling)
    assert verdict_of(stray.id) == Verdict.SWEPT


def test_a_thousand_machines_cost_no_more_queries_than_one(
    settled: Instance, cloud: AgedCloud, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    machines.make_many(settled, 1000)
    for one in range(40):
        stray_server(cloud, serial=0, of=UUID(int=one + 1))

    with django_assert_max_num_queries(30):
        reconciliation.sweep(cloud)


def test_old_sweeps_are_forgotten(settled: Instance, cloud: AgedCloud) -> None:
    pass_by(cloud, timedelta(days=8))

    reconciliation.sweep(cloud)

    assert Sweep.objects.count() == 1


# --- allowances ---------------------------------------------------------------------------------------------------


def test_counters_that_do_not_add_up_raise_an_alarm_and_are_not_repaired(
    machine: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    assert reconciliation.compare_allowances() == ()
    Allowance.objects.update(cores=F("cores") + 3)

    (told,) = reconciliation.compare_allowances()

    assert str(machine.owner.public_id) in told
    assert "do not add up" in caplog.text
    assert Allowance.objects.get().cores == machine.flavour.cores + 3


def test_a_reservation_without_a_machine_raises_an_alarm(machine: Instance) -> None:
    Instance.objects.all().update(deleted_at=Now(), wanted="deleted")

    (told,) = reconciliation.compare_allowances()

    assert str(machine.id) in told
    assert Reservation.objects.exists()
