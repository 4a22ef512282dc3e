"""How hard the cloud is asked: whose turn it is, how many at once, and what is done while it is silent."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from django.conf import LazySettings
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from typing_extensions import override

from instances import access, actions, pacing, provisioning, watch
from instances.actions import Launch
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import CloudFull, CloudLimited, CloudUnreachable, Port, Server, ServerSpec, Service
from instances.lifecycle import State
from instances.models import Image, Instance, ServiceState, Watch
from instances.pace import pace
from quotas.models import Flavour
from tests import factories
from tests.clouds import DeafCloud
from tests.machines import settle
from visa.accounts.models import User

Ask = Callable[[User], UUID]


@pytest.fixture
def ask(flavour: Flavour, image: Image) -> Ask:
    """Another launch of somebody."""
    factories.make_limit(machines=1000, cores=1000, memory_mib=10**7)
    return lambda person: actions.launch(Launch(doi=factories.make_dataset().minted), by=person).instance_id


@pytest.fixture
def places(settings: LazySettings) -> Callable[[int], None]:
    """Sets how many machines may be made at once."""

    def allow(number: int) -> None:
        environment = settings.ENVIRONMENT
        assert environment.cloud is not None
        settings.ENVIRONMENT = replace(environment, cloud=replace(environment.cloud, creates=number))

    return allow


@pytest.mark.django_db
def test_a_quarter_of_the_places_is_for_those_still_to_be_ordered(
    ask: Ask, owner: User, places: Callable[[int], None], cloud: MemoryCloud
) -> None:
    places(8)
    first, second, third, fourth = (ask(owner) for _ in range(4))

    assert pacing.admit() == [first, second]
    assert pacing.admit() == []
    assert pacing.places([third, fourth]) == {third: 1, fourth: 2}
    assert access.instance_for(owner, third).state is State.WAITING

    cloud.looks = 9
    provisioning.advance(cloud, first)
    assert Instance.objects.get(id=first).admitted_at is not None, "it is still being made"
    assert pacing.places([fourth]) == {fourth: 1}, "and who was next is let in"


@pytest.mark.django_db
def test_no_more_are_being_made_than_there_are_places(
    ask: Ask, owner: User, places: Callable[[int], None], cloud: MemoryCloud
) -> None:
    places(2)
    first, second, third = ask(owner), ask(owner), ask(owner)
    cloud.looks = 9
    provisioning.advance(cloud, first)
    provisioning.advance(cloud, second)
    assert {server.instance_id for server in cloud.list()} == {first, second}

    assert pacing.admit() == []
    assert pacing.places([third]) == {third: 1}

    settle(cloud, first)
    assert Instance.objects.get(id=third).admitted_at is not None


@pytest.mark.django_db
def test_who_waits_for_an_answer_that_did_not_come_leaves_the_next_order_to_another(
    ask: Ask, owner: User, places: Callable[[int], None], cloud: MemoryCloud
) -> None:
    class Lost(MemoryCloud):
        @override
        def create(self, spec: ServerSpec) -> Server:
            raise CloudUnreachable("no answer came")

    places(4)
    first, second = ask(owner), ask(owner)
    provisioning.advance(Lost(offering=cloud.offering()), first)
    row = Instance.objects.get(id=first)
    assert (row.intent_at is not None, row.failures, row.admitted_at is not None) == (True, 1, True)

    assert Instance.objects.get(id=second).admitted_at is not None


@pytest.mark.django_db
def test_who_has_fewest_being_made_comes_first_however_many_the_others_asked_for(
    ask: Ask, owner: User, member: User, stranger: User, places: Callable[[int], None]
) -> None:
    places(16)
    many = [ask(owner) for _ in range(6)]
    one, other = ask(member), ask(stranger)

    order = pacing.places([*many, one, other])
    assert [order[one], order[other], order[many[0]], order[many[1]]] == [2, 3, 1, 4]

    assert set(pacing.admit()) == {many[0], one, other, many[1]}


@pytest.mark.django_db
def test_a_place_is_free_as_soon_as_its_machine_is_made(
    ask: Ask, owner: User, places: Callable[[int], None], cloud: MemoryCloud
) -> None:
    places(1)
    first, second = ask(owner), ask(owner)

    settle(cloud, first)

    assert Instance.objects.get(id=first).admitted_at is None
    assert Instance.objects.get(id=second).admitted_at is not None
    assert settle(cloud, second).state == State.ACTIVE


@pytest.mark.django_db
def test_who_finds_the_cloud_full_does_not_keep_the_place_of_another(
    ask: Ask, owner: User, places: Callable[[int], None], cloud: MemoryCloud
) -> None:
    places(1)
    cloud.cores = 0
    first = ask(owner)
    provisioning.advance(cloud, first)
    row = Instance.objects.get(id=first)
    assert (row.state, row.reason_code, row.admitted_at) == (State.WAITING, "cloud_full", None)
    assert pacing.admit() == [], "it is not tried again at once"

    cloud.cores = 100
    second = ask(owner)

    assert settle(cloud, second).state == State.ACTIVE


@pytest.mark.django_db(transaction=True)
def test_eight_who_let_in_at_once_never_let_in_more_than_there_are_places(
    ask: Ask, owner: User, places: Callable[[int], None]
) -> None:
    places(12)
    for _ in range(12):
        ask(owner)
    let_in: list[UUID] = []

    def admit() -> None:
        try:
            let_in.extend(pacing.admit())
        finally:
            connection.close()

    threads = [threading.Thread(target=admit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(let_in) == len(set(let_in)) == 3
    assert Instance.objects.filter(admitted_at__isnull=False).count() == 3


class Silent(DeafCloud):
    """Counts how often it was asked."""

    asked = 0

    @override
    def gate(self) -> None:
        self.asked += 1
        super().gate()


@pytest.mark.django_db
def test_a_silent_cloud_is_left_alone_no_row_fails_and_every_page_says_why(
    ask: Ask, owner: User, places: Callable[[int], None]
) -> None:
    places(50)
    ids = [ask(owner) for _ in range(10)]
    pacing.admit()
    cloud = Silent()

    for _ in range(20):
        provisioning.advance(cloud)

    assert cloud.asked == pacing.FAILURES
    assert ServiceState.objects.get(service=Service.NOVA).opened_at is not None
    assert not Instance.objects.filter(failed=True).exists()
    assert Instance.objects.filter(due_at__lte=Now()).count() >= 5, "who was not touched stays due"
    views = access.instances_visible_to(owner)
    assert {view.reason_code for view in views} == {"cloud_silent"}
    assert all(view.cloud_away_since for view in views)
    waiting = ask(owner)
    assert pacing.admit() == []
    assert access.instance_for(owner, waiting).reason_code == "cloud_silent"
    assert len(ids) == 10


@pytest.mark.django_db
def test_one_probe_goes_through_now_and_then_and_an_answer_opens_the_way_for_all(
    ask: Ask, owner: User, cloud: MemoryCloud
) -> None:
    first, second = ask(owner), ask(owner)
    pacing.admit()
    for _ in range(pacing.FAILURES):
        pacing.failed(Service.NOVA, "no answer")
    silent = Silent()
    Instance.objects.filter(id=second).update(reason_code="cloud_silent", due_at=Now() + timedelta(minutes=5))

    ServiceState.objects.update(probe_at=Now())
    for _ in range(5):
        provisioning.advance(silent)
    assert silent.asked == 1

    ServiceState.objects.update(probe_at=Now())
    Instance.objects.filter(id=first).update(due_at=Now())
    assert provisioning.advance(cloud) is not None
    assert not ServiceState.objects.exists()
    assert Instance.objects.filter(id=second, due_at__lte=Now() + timedelta(seconds=6)).exists()


@pytest.mark.django_db
def test_failures_that_are_far_apart_open_nothing(db: None) -> None:
    for _ in range(pacing.FAILURES - 1):
        pacing.failed(Service.NOVA, "no answer")
    ServiceState.objects.update(failing_since=Now() - timedelta(minutes=1))

    pacing.failed(Service.NOVA, "no answer")

    state = ServiceState.objects.get()
    assert (state.opened_at, state.failures) == (None, 1)


@pytest.mark.django_db
def test_what_only_a_create_needs_holds_up_creates_alone(ask: Ask, owner: User, cloud: MemoryCloud) -> None:
    made = ask(owner)
    settle(cloud, made)
    for _ in range(pacing.FAILURES):
        pacing.failed(Service.NEUTRON, "no answer")
    waiting = ask(owner)

    actions.stop(made, by=owner)
    assert provisioning.advance(cloud, made) is not None
    assert provisioning.advance(cloud, waiting) is None
    assert access.instance_for(owner, waiting).reason_code == "cloud_silent"
    assert access.instance_for(owner, made).reason_code == ""


def silent(service: Service, *, untried: bool = False) -> None:
    """Its breaker is open; `untried`, and it is time to try it."""
    for _ in range(pacing.FAILURES):
        pacing.failed(service, "no answer")
    if untried:
        ServiceState.objects.filter(service=service).update(probe_at=Now())


@pytest.mark.django_db
@pytest.mark.parametrize("service", [Service.NEUTRON, Service.GLANCE])
def test_what_only_creates_ask_is_tried_by_the_next_of_them(
    ask: Ask, owner: User, cloud: MemoryCloud, service: Service
) -> None:
    waiting = ask(owner)
    silent(service)
    assert pacing.admit() == []

    ServiceState.objects.update(probe_at=Now())

    assert settle(cloud, waiting).state == State.ACTIVE
    assert not ServiceState.objects.exists()


@pytest.mark.django_db
def test_a_cloud_that_is_full_has_answered_with_all_that_a_create_needs(
    ask: Ask, owner: User, cloud: MemoryCloud
) -> None:
    class Full(MemoryCloud):
        @override
        def create(self, spec: ServerSpec) -> Server:
            raise CloudFull("Quota exceeded for instances")

    ask(owner)
    silent(Service.GLANCE, untried=True)

    provisioning.advance(Full(offering=cloud.offering()))

    assert not ServiceState.objects.exists()


@pytest.mark.django_db
def test_disks_that_nobody_can_ask_for_hold_up_no_launch(ask: Ask, owner: User, cloud: MemoryCloud) -> None:
    silent(Service.CINDER)
    waiting = ask(owner)

    assert access.instance_for(owner, waiting).reason_code == ""
    assert settle(cloud, waiting).state == State.ACTIVE


@pytest.mark.django_db
def test_who_has_nothing_to_ask_leaves_the_one_try_to_others(ask: Ask, owner: User, cloud: MemoryCloud) -> None:
    """One who waits in line is due and cannot be taken; the watch may take the try."""
    ask(owner)
    silent(Service.NOVA, untried=True)

    assert provisioning.advance(cloud) is None

    assert pacing.gate().passes(Service.NOVA)


@pytest.mark.django_db
def test_a_look_that_is_answered_does_not_excuse_an_order_that_is_not(
    ask: Ask, owner: User, cloud: MemoryCloud
) -> None:
    class DeafToOrders(MemoryCloud):
        @override
        def delete(self, server_id: str) -> None:
            raise CloudUnreachable("no answer came")

    deaf = DeafToOrders(offering=cloud.offering(), desktop=cloud.desktop)
    mine, other = ask(owner), ask(owner)
    settle(deaf, mine)
    later = Now() + timedelta(minutes=5)
    Instance.objects.filter(id=other).update(reason_code="cloud_silent", due_at=later)
    actions.delete(mine, by=owner)

    for failures in (1, 2, 3):
        provisioning.advance(deaf, mine)
        Instance.objects.filter(id=mine).update(due_at=Now())
        assert ServiceState.objects.get().failures == failures

    assert Instance.objects.filter(id=other, due_at__gt=Now() + timedelta(minutes=4)).exists(), "nobody was left alone"


@pytest.mark.django_db
def test_one_thing_of_which_a_service_can_say_nothing_is_no_outage_of_it(
    ask: Ask, owner: User, cloud: MemoryCloud
) -> None:
    class Wordless(MemoryCloud):
        @override
        def find(self, instance_id: UUID) -> tuple[Server, ...]:
            raise CloudUnreachable("an answer that says nothing", alone=True)

    instance_id = ask(owner)

    provisioning.advance(Wordless(offering=cloud.offering()), instance_id)

    assert Instance.objects.get(id=instance_id).reason_code == "cloud_silent"
    assert not ServiceState.objects.exists()


@pytest.mark.django_db
def test_who_is_let_in_has_the_cloud_asked_soon_what_changed(ask: Ask, owner: User, cloud: MemoryCloud) -> None:
    watch.turn(cloud)
    Watch.objects.update(due_at=Now() + pace().watch_idle)
    ask(owner)

    pacing.admit()

    assert Watch.objects.filter(due_at__lte=Now() + pace().watch_busy).exists()


@pytest.mark.django_db
def test_a_deletion_does_not_ask_a_network_that_is_away(owner: User, ask: Ask, cloud: MemoryCloud) -> None:
    class Counting(MemoryCloud):
        asked = 0

        @override
        def find_ports(self, instance_id: UUID) -> tuple[Port, ...]:
            self.asked += 1
            return super().find_ports(instance_id)

    counting = Counting(offering=cloud.offering(), desktop=cloud.desktop)
    instance_id = ask(owner)
    settle(counting, instance_id)
    actions.delete(instance_id, by=owner)
    for _ in range(pacing.FAILURES):
        pacing.failed(Service.NEUTRON, "no answer")

    for _step in ("the server's deletion", "the port's, which is not looked for"):
        Instance.objects.update(due_at=Now())
        assert provisioning.advance(counting, instance_id) is not None

    row = Instance.objects.get(id=instance_id)
    assert (row.state, row.reason_code, list(counting.list())) == (State.DELETING, "cloud_silent", [])
    assert counting.asked == 0

    ServiceState.objects.all().delete()
    assert settle(counting, instance_id).state == State.DELETED
    assert not list(counting.ports())


@pytest.mark.django_db
def test_who_is_told_to_come_back_later_keeps_everybody_away_until_then(
    ask: Ask, owner: User, cloud: MemoryCloud
) -> None:
    class Limited(MemoryCloud):
        @override
        def create(self, spec: ServerSpec) -> Server:
            raise CloudLimited("too many", retry_after=30.0)

    ids = [ask(owner), ask(owner)]
    assert provisioning.advance(Limited()) is not None

    assert provisioning.advance(cloud) is None, "it asked not to be called"
    for one in ids:
        view = access.instance_for(owner, one)
        assert (view.reason_code, view.cloud_away_since) == ("cloud_busy", None), "each is told why it waits"
        assert "asked us to wait" in view.reason
    state = ServiceState.objects.get(service=Service.NOVA)
    assert state.opened_at is None
    assert state.not_before is not None

    ServiceState.objects.update(not_before=Now())
    assert provisioning.advance(cloud) is not None
    assert not ServiceState.objects.exists()


@pytest.mark.django_db
def test_a_clean_sky_costs_no_write(ask: Ask, owner: User, cloud: MemoryCloud) -> None:
    instance_id = ask(owner)
    settle(cloud, instance_id)
    Instance.objects.update(due_at=Now())

    with CaptureQueriesContext(connection) as queries:
        provisioning.advance(cloud, instance_id)

    written = [one["sql"] for one in queries if "instances_servicestate" in one["sql"]]
    assert len(written) == 1
    assert written[0].startswith("SELECT")


@pytest.mark.django_db
def test_a_create_that_never_left_the_house_is_tried_again_without_a_quiet_period(
    ask: Ask, owner: User, cloud: MemoryCloud
) -> None:
    refused = iter([CloudUnreachable("nobody takes the connection", unsent=True)])

    class Closed(MemoryCloud):
        @override
        def create(self, spec: ServerSpec) -> Server:
            raise next(refused)

    instance_id = ask(owner)
    provisioning.advance(Closed(offering=cloud.offering()), instance_id)
    row = Instance.objects.get(id=instance_id)
    assert (row.intent_at, row.attempt, row.reason_code) == (None, 1, "cloud_silent")

    assert settle(cloud, instance_id).state == State.ACTIVE


def test_back_off_grows_is_capped_and_differs() -> None:
    waits = [[pacing.backed_off(failures) for _ in range(200)] for failures in (0, 3, 30)]

    assert max(waits[0]) <= timedelta(seconds=3)
    assert max(waits[1]) > timedelta(seconds=10)
    assert max(waits[2]) <= timedelta(minutes=5, seconds=1)
    assert all(len(set(some)) > 100 for some in waits)
