"""What people ask of machines: accepted once, refused with reasons, and nobody reaches another's machine."""

import threading
from uuid import uuid4

import pytest
from django.db import connection

from experiments.access import DatasetClosed, NotADoi, UnknownDoi
from experiments.models import Dataset
from instances import access, actions
from instances.access import NoSuchMachine
from instances.actions import KeyReused, Launch, Launched
from instances.cloud.protocol import Desktop
from instances.lifecycle import Permission, State
from instances.models import Image, Instance
from quotas.allowances import QuotaExceeded
from quotas.models import Allowance, Flavour, Limit, Reservation
from tests import factories
from tests.machines import machine_at, memory_cloud
from visa.accounts.models import User
from visa.audit.models import AuditEvent, AuditText
from visa.errors import Conflict, Invalid, NotAllowed

pytestmark = pytest.mark.django_db


@pytest.fixture
def dataset(flavour: Flavour, image: Image, limit: Limit) -> Dataset:
    return factories.make_dataset()


def test_a_launch_is_a_row_a_reservation_and_a_promise(owner: User, dataset: Dataset) -> None:
    launched = actions.launch(Launch(doi=dataset.minted), by=owner)

    view = access.instance_for(owner, launched.instance_id)
    assert not launched.resumed
    assert (view.state, view.dataset_doi, view.is_owner, view.starting) == (State.WAITING, dataset.minted, True, True)
    assert view.mounts[0].target.startswith("/data/")
    assert Reservation.objects.get().holder == launched.instance_id


@pytest.mark.parametrize("spelling", ["{doi}", "doi:{doi}", "https://doi.org/{doi}", "{upper}"])
def test_any_spelling_of_the_doi_is_the_same_machine(owner: User, dataset: Dataset, spelling: str) -> None:
    first = actions.launch(Launch(doi=dataset.minted), by=owner)

    text = spelling.format(doi=dataset.minted, upper=dataset.minted.upper())
    assert actions.launch(Launch(doi=text), by=owner) == Launched(instance_id=first.instance_id, resumed=True)


def test_the_same_key_is_the_same_launch_and_another_wish_under_it_is_refused(owner: User, dataset: Dataset) -> None:
    first = actions.launch(Launch(doi=dataset.minted, key="k"), by=owner)
    other = factories.make_dataset()

    assert actions.launch(Launch(doi=dataset.minted, key="k"), by=owner).instance_id == first.instance_id
    with pytest.raises(KeyReused):
        actions.launch(Launch(doi=other.minted, key="k"), by=owner)


def test_two_people_have_two_machines_for_one_dataset(owner: User, member: User, dataset: Dataset) -> None:
    mine = actions.launch(Launch(doi=dataset.minted), by=owner)
    theirs = actions.launch(Launch(doi=dataset.minted), by=member)

    assert mine.instance_id != theirs.instance_id


@pytest.mark.django_db(transaction=True)
def test_twenty_tabs_of_one_link_make_one_machine(owner: User, dataset: Dataset) -> None:
    answers: list[Launched] = []
    together = threading.Barrier(20)

    def tab() -> None:
        together.wait()
        answers.append(actions.launch(Launch(doi=dataset.minted), by=owner))
        connection.close()

    tabs = [threading.Thread(target=tab) for _ in range(20)]
    for one in tabs:
        one.start()
    for one in tabs:
        one.join()

    assert len(answers) == 20
    assert len({answer.instance_id for answer in answers}) == 1
    assert [answer.resumed for answer in answers].count(False) == 1
    assert Instance.objects.count() == Reservation.objects.count() == 1
    assert Allowance.objects.get().machines == 1


def test_what_the_allowance_does_not_hold_is_refused_and_leaves_nothing(
    owner: User, dataset: Dataset, limit: Limit
) -> None:
    factories.make_flavour(slug="huge", cores=10_000)

    with pytest.raises(QuotaExceeded) as refused:
        actions.launch(Launch(doi=dataset.minted, flavour="huge"), by=owner)

    assert refused.value.detail["shortfalls"]
    assert not Instance.objects.exists()
    assert not Reservation.objects.exists()


@pytest.mark.parametrize(("field", "wish"), [("flavour", {"flavour": "nonsense"}), ("image", {"image": "nonsense"})])
def test_a_size_or_software_that_does_not_exist_is_named(
    owner: User, dataset: Dataset, field: str, wish: dict[str, str]
) -> None:
    with pytest.raises(Invalid) as refused:
        actions.launch(Launch(doi=dataset.minted, **wish), by=owner)

    assert refused.value.field == field
    assert refused.value.way_out


def test_a_withdrawn_size_does_not_exist(owner: User, dataset: Dataset) -> None:
    factories.make_flavour(slug="old", enabled=False)

    with pytest.raises(Invalid):
        actions.launch(Launch(doi=dataset.minted, flavour="old"), by=owner)


def test_data_that_are_closed_unknown_or_no_doi_cannot_be_launched(owner: User, dataset: Dataset) -> None:
    closed = factories.make_dataset(open_to_all=False)

    with pytest.raises(DatasetClosed):
        actions.launch(Launch(doi=closed.minted), by=owner)
    with pytest.raises(UnknownDoi):
        actions.launch(Launch(doi="10.5555/never-heard-of"), by=owner)
    with pytest.raises(NotADoi):
        actions.launch(Launch(doi="lysozyme"), by=owner)


def test_closed_data_can_be_launched_by_their_team(owner: User, dataset: Dataset) -> None:
    mine = factories.make_dataset(open_to_all=False, experiment=factories.make_experiment(team=[owner]))

    assert not actions.launch(Launch(doi=mine.minted), by=owner).resumed


@pytest.mark.parametrize("verb", [actions.start, actions.stop, actions.reboot, actions.delete])
def test_a_stranger_meets_nothing(owner: User, stranger: User, dataset: Dataset, verb: object) -> None:
    launched = actions.launch(Launch(doi=dataset.minted), by=owner)

    with pytest.raises(NoSuchMachine) as others:
        verb(launched.instance_id, by=stranger)  # type: ignore[operator]
    with pytest.raises(NoSuchMachine) as nobodys:
        verb(uuid4(), by=stranger)  # type: ignore[operator]

    assert (others.value.message, others.value.way_out) == (nobodys.value.message, nobodys.value.way_out)


def test_support_sees_and_operates_and_neither_enters_nor_deletes(owner: User, support: User, dataset: Dataset) -> None:
    launched = actions.launch(Launch(doi=dataset.minted), by=owner)

    assert access.instance_for(support, launched.instance_id).owner_name == owner.name
    actions.stop(launched.instance_id, by=support)
    with pytest.raises(NotAllowed):
        actions.delete(launched.instance_id, by=support)
    with pytest.raises(NotAllowed):
        access.instance_for(support, launched.instance_id, to=Permission.CONNECT)


def test_an_administrator_deletes_anothers_machine_and_says_why(
    owner: User, administrator: User, dataset: Dataset
) -> None:
    machine = actions.launch(Launch(doi=dataset.minted), by=owner).instance_id

    for why in ("", " \n "):
        with pytest.raises(Invalid, match="Say why"):
            actions.delete(machine, by=administrator, why=why)
    with pytest.raises(NotAllowed):
        access.instance_for(administrator, machine, to=Permission.CONNECT)
    assert access.instance_for(owner, machine).state is not State.DELETING

    actions.delete(machine, by=administrator, why="Left behind\x1b[31m since March")

    view = access.instance_for(owner, machine)
    assert view.state is State.DELETING
    told = [(event.words, event.by) for event in view.events][-2:]
    assert told == [("Deletion asked for", administrator.name), ("Left behind [31m since March", administrator.name)]
    deeds = AuditEvent.objects.filter(object_id=str(machine), actor=str(administrator.public_id))
    assert list(deeds.order_by("id").values_list("action", flat=True)) == ["instance.wanted.deleted", "instance.reason"]
    assert AuditText.objects.filter(text__contains="Left behind").exists()


def test_a_restart_does_not_say_that_the_cloud_makes_the_machine(owner: User, dataset: Dataset, vnc: Desktop) -> None:
    machine = machine_at(State.ACTIVE, owner=owner, cloud=memory_cloud(vnc))

    steps = [step.key for step in actions.reboot(machine, by=owner).progress]

    assert "building" not in steps
    assert steps[0] == "accepted"
    assert "desktop" in steps


def test_what_is_to_be_deleted_stays_so(owner: User, dataset: Dataset) -> None:
    launched = actions.launch(Launch(doi=dataset.minted), by=owner)
    actions.delete(launched.instance_id, by=owner)
    actions.delete(launched.instance_id, by=owner)

    with pytest.raises(Conflict):
        actions.start(launched.instance_id, by=owner)
    assert access.instance_for(owner, launched.instance_id).state is State.DELETING


def test_a_new_launch_beside_a_deletion_is_a_new_machine(owner: User, dataset: Dataset) -> None:
    first = actions.launch(Launch(doi=dataset.minted), by=owner)
    actions.delete(first.instance_id, by=owner)

    second = actions.launch(Launch(doi=dataset.minted), by=owner)

    assert second.instance_id != first.instance_id
    assert not second.resumed


def test_no_desktop_before_there_is_one(owner: User, dataset: Dataset) -> None:
    launched = actions.launch(Launch(doi=dataset.minted), by=owner)

    with pytest.raises(Conflict):
        actions.desktop_ticket(launched.instance_id, by=owner, session_key="s")


def test_the_list_of_machines_costs_the_same_for_five_and_for_fifty(
    owner: User, flavour: Flavour, image: Image, django_assert_num_queries: object
) -> None:
    factories.make_limit(kind=Limit.Kind.PERSON, key=str(owner.public_id), machines=100, cores=1000, memory_mib=10**7)
    counts = []
    for wanted in (5, 50):
        while Instance.objects.count() < wanted:
            actions.launch(Launch(doi=factories.make_dataset().minted), by=owner)
        with django_assert_num_queries(5):  # type: ignore[operator]
            counts.append(len(access.instances_visible_to(owner)))

    assert counts == [5, 50]


def test_an_edited_size_changes_what_comes_and_not_what_is(owner: User, dataset: Dataset, flavour: Flavour) -> None:
    launched = actions.launch(Launch(doi=dataset.minted), by=owner)
    before = access.instance_for(owner, launched.instance_id)

    flavour.memory_mib *= 2
    flavour.name = "Renamed"
    flavour.save()

    after = access.instance_for(owner, launched.instance_id)
    assert (after.flavour_name, after.memory_mib) == (before.flavour_name, before.memory_mib)
    assert after.memory_mib == Reservation.objects.get().memory_mib
