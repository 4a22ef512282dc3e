"""The worker's side: one step at a time, from a wish to a desktop and back, whoever drives and whatever fails."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.apps import apps
from django.db.models import Model
from django.db.models.functions import Now
from django.utils import timezone
from typing_extensions import override

from experiments.models import Dataset
from instances import access, actions, grants, pacing, provisioning, transitions
from instances.actions import Launch
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import (
    CloudRefused,
    CloudUnreachable,
    Desktop,
    Offering,
    Port,
    Server,
    ServerSpec,
    ServerStatus,
    Service,
)
from instances.grants import NotThere
from instances.lifecycle import BUILDS, Seen, State, Wanted
from instances.models import Connection, Image, Instance, InstanceEvent, ServiceState
from quotas import allowances
from quotas.arithmetic import Resources
from quotas.models import Flavour, Limit
from tests import factories
from tests.clouds import DeafCloud, FullCloud, LosingReplies
from tests.machines import settle, stray_server
from visa.accounts.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def dataset(flavour: Flavour, image: Image, limit: Limit) -> Dataset:
    return factories.make_dataset()


@pytest.fixture
def launched(owner: User, dataset: Dataset) -> UUID:
    return actions.launch(Launch(doi=dataset.minted), by=owner).instance_id


def test_a_launch_reaches_its_desktop(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    instance = settle(cloud, launched)

    assert (instance.state, instance.seen) == (State.ACTIVE, Seen.READY)
    assert [server.id for server in cloud.list()] == [instance.server_id]
    assert instance.ready_at is not None
    kinds = [event.kind for event in access.instance_for(owner, launched).events]
    assert kinds[0] == "wanted.running"
    assert kinds[-1] == "seen.ready"


def test_every_step_of_a_start_is_shown_with_its_time(launched: UUID, vnc: Desktop, owner: User) -> None:
    slow = MemoryCloud(looks=3, desktop=vnc, offering=EVERYTHING)
    settle(slow, launched, steps=2)
    view = access.instance_for(owner, launched)
    assert [(step.key, step.done_at is not None, step.current) for step in view.progress] == [
        ("accepted", True, False),
        ("building", False, True),
        ("booting", False, False),
        ("network", False, False),
        ("data", False, False),
        ("desktop", False, False),
    ]

    settle(slow, launched)
    assert access.instance_for(owner, launched).progress == ()


def test_stop_start_reboot_and_delete(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)

    actions.stop(launched, by=owner)
    assert settle(cloud, launched).state == State.STOPPED
    assert next(iter(cloud.list())).status is ServerStatus.SHUTOFF

    actions.start(launched, by=owner)
    assert settle(cloud, launched).state == State.ACTIVE

    actions.reboot(launched, by=owner)
    assert Instance.objects.get(id=launched).state == State.REBOOTING
    rebooted = settle(cloud, launched)
    assert (rebooted.state, rebooted.reboot_wanted_at) == (State.ACTIVE, None)

    actions.delete(launched, by=owner)
    gone = settle(cloud, launched)
    assert gone.state == State.DELETED
    assert gone.deleted_at is not None
    assert not list(cloud.list())
    assert allowances.standing_of(actions.subject_of(owner)).used == Resources()
    assert gone.desktop_secret == ""


def test_the_allowance_is_held_while_the_machine_may_exist(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    actions.delete(launched, by=owner)

    assert allowances.standing_of(actions.subject_of(owner)).used.machines == 1


EVERYTHING = Offering(images=frozenset({"desktop"}), flavours=frozenset({"small"}), networks=frozenset())


class LosingCreates(LosingReplies):
    """Answers all but a create, whose answer is lost."""

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        return self.behind.find(instance_id)

    @override
    def create_port(self, instance_id: UUID) -> Port:
        return self.behind.create_port(instance_id)


class Refusing(MemoryCloud):
    """Refuses every create for good."""

    @override
    def create(self, spec: ServerSpec) -> Server:
        raise CloudRefused("Image not found.")


def test_a_server_whose_answer_was_lost_is_adopted_and_not_made_twice(launched: UUID, vnc: Desktop) -> None:
    behind = MemoryCloud(desktop=vnc, offering=EVERYTHING)
    cloud = LosingCreates(behind)

    settle(cloud, launched, steps=1)
    assert len(list(behind.list())) == 1
    cloud.losing = False

    assert settle(cloud, launched).state == State.ACTIVE
    assert len(list(behind.list())) == 1


def test_a_create_that_may_still_happen_is_waited_for(launched: UUID, cloud: MemoryCloud) -> None:
    """A worker died after its intent: until the quiet period is over nobody creates again."""
    Instance.objects.filter(id=launched).update(intent_at=Now(), admitted_at=Now(), state=State.BUILDING, attempt=1)

    settle(cloud, launched, steps=3)
    assert not list(cloud.list())

    Instance.objects.filter(id=launched).update(intent_at=Now() - timedelta(minutes=10))
    assert settle(cloud, launched).state == State.ACTIVE
    assert len(list(cloud.list())) == 1


def test_silence_from_the_cloud_changes_nothing_and_says_so(launched: UUID, vnc: Desktop, owner: User) -> None:
    cloud = DeafCloud(desktop=vnc, offering=EVERYTHING)
    cloud.deaf = False
    settle(cloud, launched)
    cloud.deaf = True

    settle(cloud, launched, steps=5)

    view = access.instance_for(owner, launched)
    assert view.state is State.ACTIVE
    assert view.reason_code == "cloud_silent"
    cloud.deaf = False
    assert settle(cloud, launched).reason_code == ""


def let_pass(instance_id: UUID, time: timedelta) -> None:
    """So much time goes by while nobody takes a step."""
    row = Instance.objects.get(id=instance_id)
    earlier = {"step_since": row.step_since - time, "due_at": row.due_at - time, "wanted_at": row.wanted_at - time}
    Instance.objects.filter(id=instance_id).update(**earlier)


@pytest.mark.parametrize("noticed", [True, False])
def test_a_launch_outlasts_a_cloud_that_is_away_for_hours(launched: UUID, vnc: Desktop, *, noticed: bool) -> None:
    cloud = DeafCloud(desktop=vnc, offering=EVERYTHING)
    pacing.admit()
    if noticed:
        settle(cloud, launched, steps=3)
    let_pass(launched, timedelta(hours=3))

    cloud.deaf = False
    ServiceState.objects.all().delete()
    provisioning.advance(cloud, launched)

    assert not Instance.objects.get(id=launched).failed
    assert settle(cloud, launched).state == State.ACTIVE


def test_a_launch_outlasts_a_network_service_that_is_away_for_hours(launched: UUID, vnc: Desktop) -> None:
    class NoPorts(MemoryCloud):
        away = True

        @override
        def create_port(self, instance_id: UUID) -> Port:
            if self.away:
                raise CloudUnreachable("no answer", service=Service.NEUTRON, unsent=True)
            return super().create_port(instance_id)

    cloud = NoPorts(desktop=vnc, offering=EVERYTHING)
    for _ in range(4):
        settle(cloud, launched, steps=2)
        let_pass(launched, timedelta(minutes=20))

    cloud.away = False
    assert settle(cloud, launched).state == State.ACTIVE


def test_a_start_that_the_cloud_could_not_hear_is_ordered_when_it_is_back(
    launched: UUID, vnc: Desktop, owner: User
) -> None:
    cloud = DeafCloud(desktop=vnc, offering=EVERYTHING)
    cloud.deaf = False
    settle(cloud, launched)
    actions.stop(launched, by=owner)
    settle(cloud, launched)
    actions.start(launched, by=owner)
    cloud.deaf = True
    settle(cloud, launched, steps=2)
    let_pass(launched, timedelta(hours=1))

    cloud.deaf = False
    assert settle(cloud, launched).state == State.ACTIVE


def test_a_deletion_waits_for_a_cloud_that_is_silent(launched: UUID, vnc: Desktop, owner: User) -> None:
    cloud = DeafCloud(desktop=vnc, offering=EVERYTHING)
    cloud.deaf = False
    settle(cloud, launched)
    cloud.deaf = True
    actions.delete(launched, by=owner)

    assert settle(cloud, launched, steps=5).state == State.DELETING

    cloud.deaf = False
    assert settle(cloud, launched).state == State.DELETED


def test_a_full_cloud_is_waited_for_with_a_reason(launched: UUID, vnc: Desktop, owner: User) -> None:
    settle(FullCloud(desktop=vnc, offering=EVERYTHING), launched, steps=3)
    view = access.instance_for(owner, launched)
    assert (view.state, view.reason_code, view.place) == (State.WAITING, "cloud_full", 1)

    assert settle(MemoryCloud(desktop=vnc, offering=EVERYTHING), launched).state == State.ACTIVE


def test_a_refused_machine_fails_with_words_for_people_and_detail_for_staff(
    launched: UUID, vnc: Desktop, owner: User
) -> None:
    instance = settle(Refusing(desktop=vnc, offering=EVERYTHING), launched)

    assert (instance.state, instance.reason_code) == (State.ERROR, "cloud_refused")
    assert instance.reason_detail == "Image not found."
    assert "Image not found" not in access.instance_for(owner, launched).reason


@pytest.mark.parametrize(
    ("fault", "code"),
    [("No valid host was found. ", "no_room"), ("Exceeded maximum number of retries.", "build_failed")],
)
def test_a_server_that_ends_in_error_says_whether_it_was_for_want_of_room(
    launched: UUID, vnc: Desktop, owner: User, fault: str, code: str
) -> None:
    class Failing(MemoryCloud):
        @override
        def create(self, spec: ServerSpec) -> Server:
            self.fail_build(super().create(spec).id, fault)
            (server,) = self.find(spec.instance_id)
            return server

    settle(Failing(desktop=vnc, offering=EVERYTHING), launched)

    view = access.instance_for(owner, launched)
    assert (view.state, view.reason_code) == (State.ERROR, code)
    assert view.way_out
    assert not view.can_start


def test_a_failed_machine_can_be_tried_again(launched: UUID, cloud: MemoryCloud, vnc: Desktop, owner: User) -> None:
    settle(Refusing(desktop=vnc, offering=EVERYTHING), launched)

    actions.start(launched, by=owner)

    assert settle(cloud, launched).state == State.ACTIVE


def test_beside_a_server_somebody_works_on_a_doubled_one_goes(launched: UUID, cloud: MemoryCloud) -> None:
    first = settle(cloud, launched).server_id
    stray_server(cloud, of=launched)

    settle(cloud, launched, steps=2)

    assert [server.id for server in cloud.list()] == [first]


class Missing(MemoryCloud):
    """Does not list the server `missed`, as where a part of a cloud does not answer the whole."""

    missed: str | None = None

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        return tuple(server for server in super().find(instance_id) if server.id != self.missed)


def test_a_doubled_server_never_takes_the_place_of_the_one_somebody_works_on(launched: UUID, vnc: Desktop) -> None:
    cloud = Missing(desktop=vnc, offering=EVERYTHING)
    first = settle(cloud, launched).server_id
    other = stray_server(cloud, of=launched).id

    cloud.missed = first
    settle(cloud, launched, steps=3)
    assert {server.id for server in cloud.list()} == {first, other}

    cloud.missed = None
    back = settle(cloud, launched, steps=3)
    assert (back.state, back.server_id) == (State.ACTIVE, first)
    assert [server.id for server in cloud.list()] == [first]


def test_a_server_that_no_list_shows_is_not_gone_while_it_is_there_by_its_id(
    launched: UUID, vnc: Desktop, owner: User
) -> None:
    cloud = Missing(desktop=vnc, offering=EVERYTHING)
    cloud.missed = settle(cloud, launched).server_id

    hidden = settle(cloud, launched, steps=5)

    assert (hidden.gone, hidden.seen, hidden.reason_code) == (False, Seen.READY, "cloud_silent")
    assert allowances.standing_of(actions.subject_of(owner)).used.machines == 1

    cloud.missed = None
    back = settle(cloud, launched)
    assert (back.state, back.reason_code, back.missed) == (State.ACTIVE, "", 0)


def test_a_server_that_somebody_renamed_is_still_its_machine_and_is_deleted_with_it(
    launched: UUID, cloud: MemoryCloud, owner: User
) -> None:
    server_id = str(settle(cloud, launched).server_id)
    cloud.rename(server_id, "my favourite")

    cloud.stop(server_id)
    seen = settle(cloud, launched)

    assert (seen.state, seen.server_id, seen.reason_code) == (State.STOPPED, server_id, "")

    actions.delete(launched, by=owner)
    settle(cloud, launched)

    assert not list(cloud.list())


def test_a_lost_build_that_no_list_shows_is_not_given_up_while_it_is_there_by_its_id(
    launched: UUID, vnc: Desktop, owner: User
) -> None:
    cloud = Missing(desktop=vnc, offering=EVERYTHING, looks=2)
    settle(cloud, launched, steps=1)
    (broken,) = cloud.list()
    Instance.objects.filter(id=launched).update(builds_lost=BUILDS - 1)
    cloud.break_down(broken.id, "No valid host was found.")
    cloud.holding = True
    settle(cloud, launched, steps=1)
    cloud.missed = broken.id

    assert not settle(cloud, launched, steps=3).failed
    assert allowances.standing_of(actions.subject_of(owner)).used.machines == 1

    cloud.let_go()
    row = settle(cloud, launched)
    assert (row.state, row.reason_code) == (State.ERROR, "no_room")
    assert allowances.standing_of(actions.subject_of(owner)).used == Resources()


def test_the_allowance_is_held_until_a_server_that_no_list_shows_is_gone_by_its_id(
    launched: UUID, vnc: Desktop, owner: User
) -> None:
    cloud = Missing(desktop=vnc, offering=EVERYTHING)
    cloud.missed = settle(cloud, launched).server_id
    cloud.holding = True
    actions.delete(launched, by=owner)

    assert settle(cloud, launched, steps=3).state == State.DELETING
    assert allowances.standing_of(actions.subject_of(owner)).used.machines == 1

    cloud.let_go()
    assert settle(cloud, launched).state == State.DELETED
    assert allowances.standing_of(actions.subject_of(owner)).used == Resources()


def test_where_a_doubled_server_alone_is_left_its_deletion_is_ours_as_well(
    launched: UUID, cloud: MemoryCloud, owner: User
) -> None:
    first = settle(cloud, launched).server_id
    stray_server(cloud, of=launched)
    cloud.delete(str(first))
    settle(cloud, launched, steps=3)

    actions.delete(launched, by=owner)

    assert settle(cloud, launched).state == State.DELETED
    assert not list(cloud.list())


def test_a_lost_build_whose_deletion_was_not_answered_is_made_again(launched: UUID, vnc: Desktop) -> None:
    class LosingDeletes(MemoryCloud):
        losing = True

        @override
        def delete(self, server_id: str) -> None:
            super().delete(server_id)
            if self.losing:
                self.losing = False
                raise CloudUnreachable("the answer was lost")

    cloud = LosingDeletes(desktop=vnc, offering=EVERYTHING, looks=2)
    settle(cloud, launched, steps=1)
    (broken,) = cloud.list()
    cloud.break_down(broken.id, "No valid host was found.")

    settle(cloud, launched, steps=1)
    assert not cloud.losing
    assert Instance.objects.get(id=launched).builds_lost == 1

    assert settle(cloud, launched).state == State.ACTIVE
    kinds = list(InstanceEvent.objects.filter(instance=launched).values_list("kind", flat=True))
    assert kinds.count("build.lost") == 1
    assert kinds.index("seen.failed") < kinds.index("build.lost")


def test_why_the_last_build_was_lost_is_told_though_its_deletion_was_not_answered(launched: UUID, vnc: Desktop) -> None:
    class DeafDeletes(MemoryCloud):
        deaf = True

        @override
        def delete(self, server_id: str) -> None:
            if self.deaf:
                raise CloudUnreachable("no answer")
            super().delete(server_id)

    cloud = DeafDeletes(desktop=vnc, offering=EVERYTHING, looks=2)
    settle(cloud, launched, steps=1)
    (broken,) = cloud.list()
    Instance.objects.filter(id=launched).update(builds_lost=BUILDS - 1)
    cloud.break_down(broken.id, "No valid host was found.")
    settle(cloud, launched, steps=3)
    cloud.deaf = False

    row = settle(cloud, launched)

    assert (row.state, row.reason_code) == (State.ERROR, "no_room")


def test_nothing_is_given_up_while_a_server_that_no_list_shows_is_on_its_port(
    launched: UUID, vnc: Desktop, owner: User
) -> None:
    """A create whose answer was lost, of which nothing is known but that its port is taken."""
    cloud = Missing(desktop=vnc, offering=EVERYTHING)
    row = settle(cloud, launched)
    cloud.missed = row.server_id
    long_ago = Now() - timedelta(minutes=40)
    Instance.objects.filter(id=launched).update(
        server_id=None,
        had_server=False,
        ready_at=None,
        fulfilled_at=None,
        seen=Seen.ABSENT,
        builds_lost=1,
        step_since=long_ago,
        admitted_at=long_ago,
        intent_at=None,
    )

    row = settle(cloud, launched, steps=3)

    assert not row.failed
    assert [port.id for port in cloud.ports()]
    assert allowances.standing_of(actions.subject_of(owner)).used.machines == 1


def test_a_deletion_ends_the_server_on_its_port_that_no_list_shows(launched: UUID, vnc: Desktop, owner: User) -> None:
    cloud = Missing(desktop=vnc, offering=EVERYTHING)
    cloud.missed = settle(cloud, launched).server_id
    Instance.objects.filter(id=launched).update(server_id=None)
    actions.delete(launched, by=owner)

    assert settle(cloud, launched).state == State.DELETED
    cloud.missed = None
    assert not list(cloud.list())


def test_of_doubled_servers_that_never_were_ready_none_is_kept(launched: UUID, vnc: Desktop) -> None:
    slow = MemoryCloud(desktop=vnc, offering=EVERYTHING, looks=3)
    settle(slow, launched, steps=1)
    early = {server.id for server in slow.list()} | {stray_server(slow, of=launched).id}

    instance = settle(slow, launched, steps=30)

    assert len(early) == 2
    assert instance.state == State.ACTIVE
    assert instance.builds_lost == 0
    (kept,) = slow.list()
    assert kept.id == instance.server_id
    assert kept.id not in early


def test_a_server_deleted_behind_our_back_is_gone_after_two_looks_and_not_made_again(
    launched: UUID, cloud: MemoryCloud, owner: User
) -> None:
    instance = settle(cloud, launched)
    cloud.delete(str(instance.server_id))

    settle(cloud, launched, steps=1)
    assert access.instance_for(owner, launched).state is State.ACTIVE

    settle(cloud, launched)
    view = access.instance_for(owner, launched)
    assert view.state is State.GONE
    assert view.way_out
    assert not list(cloud.list())


def test_a_wish_during_the_look_that_finds_it_gone_leaves_nothing_half_said(
    launched: UUID, cloud: MemoryCloud, vnc: Desktop, owner: User
) -> None:
    class Interrupted(MemoryCloud):
        @override
        def find(self, instance_id: UUID) -> tuple[Server, ...]:
            if Instance.objects.get(id=instance_id).wanted == Wanted.RUNNING:
                actions.stop(instance_id, by=owner)
            return super().find(instance_id)

    settle(cloud, launched)
    empty = Interrupted(desktop=vnc, offering=EVERYTHING)
    Instance.objects.filter(id=launched).update(missed=1)

    assert settle(empty, launched, steps=1).state == State.STOPPING
    gone = settle(empty, launched)

    assert (gone.state, gone.reason_code) == (State.GONE, "gone")
    assert allowances.standing_of(actions.subject_of(owner)).used == Resources()


def test_who_starts_a_machine_that_is_gone_meanwhile_holds_nothing_for_it(
    launched: UUID, cloud: MemoryCloud, owner: User
) -> None:
    row = settle(cloud, launched)
    cloud.delete(str(row.server_id))
    settle(cloud, launched)

    assert not transitions.wish(launched, Wanted.STOPPED, by=owner)
    assert not transitions.wish(launched, Wanted.RUNNING, by=owner)
    assert transitions.wish(launched, Wanted.DELETED, by=owner)


def test_a_size_withdrawn_between_the_click_and_the_create_is_refused(
    launched: UUID, cloud: MemoryCloud, flavour: Flavour
) -> None:
    flavour.enabled = False
    flavour.save()

    assert settle(cloud, launched).reason_code == "flavour_withdrawn"
    assert not list(cloud.list())


def test_data_withdrawn_between_the_click_and_the_create_are_not_mounted(
    launched: UUID, cloud: MemoryCloud, dataset: Dataset
) -> None:
    Dataset.objects.filter(id=dataset.id).update(available=["2099-01-01"])

    assert settle(cloud, launched).reason_code == "data_withdrawn"
    assert not list(cloud.list())


@pytest.fixture
def admitted(launched: UUID) -> UUID:
    """A machine whose turn has come."""
    assert pacing.admit() == [launched]
    return launched


def test_two_workers_never_hold_one_machine(admitted: UUID) -> None:
    launched = admitted
    first = transitions.claim(launched)

    assert first is not None
    assert transitions.claim(launched) is None


def test_a_worker_that_lost_its_lease_writes_nothing(admitted: UUID) -> None:
    launched = admitted
    slow = transitions.claim(launched)
    assert slow is not None
    Instance.objects.filter(id=launched).update(lease_until=Now() - timedelta(seconds=1))
    quick = transitions.claim(launched)
    assert quick is not None

    assert not transitions.write(slow, {"seen": Seen.READY})
    assert transitions.write(quick, {"seen": Seen.BUILDING})
    assert Instance.objects.get(id=launched).seen == Seen.BUILDING


def test_a_question_that_arrives_during_a_step_is_seen_at_once(admitted: UUID) -> None:
    claim = transitions.claim(admitted)
    assert claim is not None

    transitions.look_again(admitted)

    assert transitions.release(claim, again_in=timedelta(hours=1), changes={"missed": 1})
    assert transitions.claim(admitted) is not None


def test_a_wish_that_arrives_during_a_step_is_seen_at_once(admitted: UUID, owner: User) -> None:
    launched = admitted
    claim = transitions.claim(launched)
    assert claim is not None
    transitions.wish(launched, Wanted.DELETED, by=owner)

    transitions.release(claim, again_in=timedelta(minutes=1), changes={"failed": True, "reason": "old news"})

    row = Instance.objects.get(id=launched)
    assert not row.failed
    assert transitions.claim(launched) is not None


def test_a_desktop_opens_once_per_ticket_and_ends_with_the_session(
    launched: UUID, cloud: MemoryCloud, owner: User
) -> None:
    settle(cloud, launched)
    ticket = actions.desktop_ticket(launched, by=owner, session_key="a-session")

    entry = grants.redeem(ticket.token, launched)
    assert entry is not None
    assert len(entry.password) == 8
    assert "BEGIN CERTIFICATE" in entry.certificate_pem
    assert grants.redeem(ticket.token, launched) is None
    assert grants.still_good([entry.grant_id]) == {entry.grant_id}

    grants.revoke_session("another-session", cause="signed_out")
    assert grants.still_good([entry.grant_id]) == {entry.grant_id}
    grants.revoke_session("a-session", cause="signed_out")
    assert grants.still_good([entry.grant_id]) == set()


def test_a_stop_ends_every_grant(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    entry = grants.redeem(actions.desktop_ticket(launched, by=owner, session_key="s").token, launched)
    assert entry is not None

    actions.stop(launched, by=owner)

    assert grants.still_good([entry.grant_id]) == set()


def test_a_disabled_person_has_no_grants(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    entry = grants.redeem(actions.desktop_ticket(launched, by=owner, session_key="s").token, launched)
    assert entry is not None

    owner.is_active = False
    owner.save()

    assert grants.still_good([entry.grant_id]) == set()


def test_a_ticket_for_one_machine_opens_no_other(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    other = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id
    settle(cloud, other)

    ticket = actions.desktop_ticket(launched, by=owner, session_key="s")

    assert grants.redeem(ticket.token, other) is None


def test_a_ticket_for_a_machine_that_went_to_sleep_says_so(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    ticket = actions.desktop_ticket(launched, by=owner, session_key="s")
    Instance.objects.filter(id=launched).update(seen=Seen.BOOTING)

    with pytest.raises(NotThere):
        grants.redeem(ticket.token, launched)


def test_nobody_opens_more_desktops_than_allowed(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    for _ in range(grants.PER_PERSON):
        assert grants.redeem(actions.desktop_ticket(launched, by=owner, session_key="s").token, launched)

    with pytest.raises(grants.TooMany):
        grants.redeem(actions.desktop_ticket(launched, by=owner, session_key="s").token, launched)

    grants.closed(Connection.objects.earliest("opened_at").id, "left")
    assert grants.redeem(actions.desktop_ticket(launched, by=owner, session_key="s").token, launched)


def test_nothing_secret_stands_in_the_rows(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    ticket = actions.desktop_ticket(launched, by=owner, session_key="a-session-key")
    entry = grants.redeem(ticket.token, launched)
    assert entry is not None
    actions.desktop_ticket(launched, by=owner, session_key="a-session-key")

    rows = " ".join(str(list(model._default_manager.values_list())) for model in _all_models())
    for secret in (ticket.token, "a-session-key", entry.password):
        assert secret not in rows


def _all_models() -> list[type[Model]]:
    return [model for model in apps.get_models() if model.__module__.startswith(("instances", "quotas"))]


def test_a_long_story_is_told_in_order_and_from_its_end(launched: UUID, cloud: MemoryCloud, owner: User) -> None:
    settle(cloud, launched)
    now = timezone.now()
    more = [now + timedelta(seconds=second) for second in range(access.STORY_LINES)]
    InstanceEvent.objects.bulk_create(
        InstanceEvent(instance_id=launched, at=moment, kind="seen.ready") for moment in more
    )

    assert [event.at for event in access.instance_for(owner, launched).events] == more
