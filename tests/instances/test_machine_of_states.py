"""The real code and a real PostgreSQL in a world where anything goes wrong: when it has come to rest, all is well.

Rules are what people wish, what workers do, how they die and freeze, what the cloud does to orders and to machines,
and time. After them everything is given time to come to rest, and the invariants of `tests.faults.oracle` must hold. At
every moment in between a machine has at most one live server.

The suite runs 200 examples; `MACHINE_EXAMPLES=10000` as many as one likes. What fails is
printed as steps, with the blob by which Hypothesis repeats it.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from typing_extensions import override

from instances import actions, checkpoints, driving, provisioning, reconciliation
from instances.actions import Launch
from instances.cloud.memory import OFFERING
from instances.cloud.protocol import CloudError, Desktop, Offering, ServerStatus
from instances.models import Instance
from tests import factories
from tests.faults import oracle
from tests.instances.wild import POINTS, Frozen, Mishap, WildCloud, age, dying, forget, passing
from visa.accounts.models import User
from visa.errors import Refusal

if TYPE_CHECKING:
    from uuid import UUID

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "200"))
OFFERS = Offering(
    images=OFFERING.images | {"desktop"}, flavours=OFFERING.flavours | {"small", "large"}, networks=OFFERING.networks
)
#: seconds at the usual pace
LEASE, QUIET = 60, 120
WHICH = st.integers(min_value=0, max_value=7)


class Machines(RuleBasedStateMachine):
    """One world: a few people, some machines, one cloud."""

    desktop: ClassVar[Desktop]
    people: ClassVar[list[User]]
    datasets: ClassVar[list[str]]

    def __init__(self) -> None:
        super().__init__()
        self.accepted: list[UUID] = []
        self.frozen: list[Frozen] = []
        #: whether something may be left that only the sweeper can explain: what came later than anybody may wait for
        self.strays = False
        self.clock = 0
        forget()

    @initialize(own_network=st.booleans(), looks=st.integers(0, 2))
    def a_cloud(self, own_network: bool, looks: int) -> None:
        self.cloud = WildCloud(
            desktop=self.desktop, offering=OFFERS, own_network=own_network, looks=looks, cores=1000, memory_mib=10**7
        )

    # What people wish.

    @rule(person=st.integers(0, 1), dataset=st.integers(0, 2), flavour=st.sampled_from(["small", "large"]))
    def launch(self, person: int, dataset: int, flavour: str) -> None:
        try:
            made = actions.launch(Launch(doi=self.datasets[dataset], flavour=flavour), by=self.people[person])
        except Refusal:
            return
        if made.instance_id not in self.accepted:
            self.accepted.append(made.instance_id)

    @rule(which=WHICH, verb=st.sampled_from(["start", "stop", "reboot", "delete", "delete"]))
    def wish(self, which: int, verb: str) -> None:
        row = self._row(which)
        if row is None:
            return
        try:
            getattr(actions, verb)(row.id, by=row.owner)
        except Refusal:
            return

    # What workers do, and what happens to them.

    @rule(times=st.integers(1, 4))
    def tick(self, times: int) -> None:
        for _ in range(times):
            provisioning.advance(self.cloud)

    @rule(which=WHICH)
    def step(self, which: int) -> None:
        row = self._row(which)
        if row is not None:
            provisioning.advance(self.cloud, row.id)

    @rule()
    def look_at_all(self) -> None:
        driving.watch_over(self.cloud)

    @rule(point=st.sampled_from(POINTS))
    def a_worker_dies(self, point: str) -> None:
        """Whatever it leaves behind is found again: nothing of that is for the sweeper."""
        dying(lambda: provisioning.advance(self.cloud), point)

    @rule(point=st.sampled_from(POINTS))
    def a_worker_freezes(self, point: str) -> None:
        if len(self.frozen) < 3:
            worker = Frozen(lambda: provisioning.advance(self.cloud), point)
            worker.since = self.clock
            if worker.frozen:
                self.frozen.append(worker)
            else:
                worker.thaw()

    @rule(
        point=st.sampled_from(POINTS),
        seconds=st.sampled_from([61, 130, 400]),
        which=WHICH,
        verb=st.sampled_from(["", "delete", "stop", "start"]),
    )
    def a_worker_oversleeps(self, point: str, seconds: int, which: int, verb: str) -> None:
        """It freezes for longer than its lease; others go on, and then it does."""
        worker = Frozen(lambda: provisioning.advance(self.cloud), point)
        if worker.frozen:
            self.strays = True
            if verb:
                self.wish(which, verb)
            self._age(seconds)
            self.look_at_all()
            self.tick(4)
        worker.thaw()

    @rule(point=st.sampled_from(POINTS))
    def a_worker_dies_and_is_followed(self, point: str) -> None:
        """It dies, its lease runs out, and another takes over."""
        if dying(lambda: provisioning.advance(self.cloud), point):
            self._age(61)
            self.tick(2)

    @rule(person=st.integers(0, 1), dataset=st.integers(0, 2))
    def a_machine_is_brought_up(self, person: int, dataset: int) -> None:
        self.launch(person, dataset, "small")
        for _ in range(4):
            self._age(2)
            self.tick(3)

    @rule(which=st.integers(0, 2))
    def a_worker_thaws(self, which: int) -> None:
        if self.frozen:
            self._thaw(self.frozen.pop(which % len(self.frozen)))

    def _thaw(self, worker: Frozen) -> None:
        self.strays |= self.clock - worker.since >= LEASE
        worker.thaw()

    # What the cloud does to orders, and others to machines.

    @rule(
        verb=st.sampled_from(["create", "create", "create_port", "delete", "delete_port", "start", "stop", "reboot"]),
        mishap=st.sampled_from(Mishap),
    )
    def the_next_order_goes_wrong(self, verb: str, mishap: Mishap) -> None:
        self.cloud.mishaps[verb] = mishap
        # A second port with another address is made, and nobody looks for one any more.
        self.strays |= (verb, mishap) == ("create_port", Mishap.TWICE) and not self.cloud.own_network

    @rule(calls=st.integers(1, 6))
    def the_cloud_is_deaf(self, calls: int) -> None:
        self.cloud.deaf_for = calls

    @rule()
    def what_was_late_happens(self) -> None:
        self.strays |= self.cloud.catch_up(self.clock) >= QUIET

    @rule(which=WHICH, what=st.sampled_from(["delete", "stop", "pause", "shelve", "break_down", "resize", "move"]))
    def somebody_else_acts(self, which: int, what: str) -> None:
        servers = [one for one in self._servers() if one.status in {ServerStatus.ACTIVE, ServerStatus.SHUTOFF}]
        if not servers:
            return
        server = servers[which % len(servers)]
        cloud = self.cloud.of_environment(self.cloud.environment)
        more = {"break_down": ["a disk failed"], "resize": ["large"]}.get(what, [])
        try:
            getattr(super(WildCloud, cloud), what)(server.id, *more)
        except CloudError:
            return

    @rule(seconds=st.sampled_from([1, 3, 10, 40, 61, 125, 400, 1000]))
    def time_passes(self, seconds: int) -> None:
        self._age(seconds)

    # What holds.

    @invariant()
    def no_machine_has_two_live_servers(self) -> None:
        if hasattr(self, "cloud"):
            twice = [one for one, number in Counter(one.instance_id for one in self._servers()).items() if number > 1]
            assert not twice, f"two live servers of {twice}"

    @override
    def teardown(self) -> None:
        for worker in self.frozen:
            self._thaw(worker)
        if hasattr(self, "cloud"):
            self._come_to_rest()

    def _come_to_rest(self) -> None:
        """Nothing goes wrong any more, time passes, and everybody does what they do: then all must hold."""
        self.cloud.unbreak()
        self.strays |= self.cloud.catch_up(self.clock) >= QUIET
        said: list[str] = []
        for turn in range(60):
            self._age([2, 5, 10, 30, 65][turn] if turn < 5 else 130)
            driving.watch_over(self.cloud)
            for _ in range(20):
                if provisioning.advance(self.cloud) is None:
                    break
            said = self._violations()
            if not said:
                return
            if turn > 4:
                # Somebody always looks; only what was late by more than the quiet period may need the sweeper's hand.
                reconciliation.sweep(self.cloud, deleting=self.strays)
        rows = [
            (str(row.id), row.wanted, row.seen, row.state, row.reason_code, row.reason_detail, row.due_at)
            for row in Instance.objects.all()
        ]
        raise AssertionError("\n".join([*said, *map(str, rows)]))

    def _violations(self) -> list[str]:
        servers = [
            oracle.Live(id=one.id, instance_id=str(one.instance_id), status=one.status, flavour=one.flavour)
            for one in self._servers()
        ]
        ports = [
            oracle.Held(id=one.id, instance_id=str(one.instance_id), server_id=one.server_id)
            for one in self.cloud._ports_seen()
        ]
        volumes = [
            oracle.Held(id=one.id, instance_id=str(one.instance_id), server_id=one.server_id)
            for _environment, one in self.cloud._volumes.values()
        ]
        return oracle.violations(servers, ports, volumes, accepted=self.accepted, sealed=False)

    def _servers(self) -> list[Any]:
        """What is there, without asking as a client does: a server that is looked at goes on its way."""
        return [machine.server for machine in self.cloud._machines.values()]

    def _age(self, seconds: int) -> None:
        by = timedelta(seconds=seconds)
        self.clock += seconds
        self.cloud.clock = self.clock
        age(by)
        self.cloud.age(by)

    def _row(self, which: int) -> Any:
        rows = list(Instance.objects.filter(id__in=self.accepted, deleted_at=None).order_by("serial"))
        return rows[which % len(rows)] if rows else None


@pytest.fixture
def world(transactional_db: None, vnc: Desktop) -> Iterator[type[Machines]]:
    """People, offers and data; the machines' desktops are a real one."""
    factories.make_flavour()
    factories.make_flavour(slug="large", cores=2, memory_mib=1024, position=1)
    factories.make_image()
    factories.make_limit(machines=4, cores=6)
    Machines.desktop = vnc
    Machines.people = [factories.make_user() for _ in range(2)]
    Machines.datasets = [factories.make_dataset().minted for _ in range(3)]
    checkpoints.told(passing)
    yield Machines
    checkpoints.told(None)
    forget()


def test_whatever_goes_wrong_all_is_well_in_the_end(world: type[Machines]) -> None:
    random.seed(1)  # back-off and spread
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            print_blob=True,
            # The same ones for every change; whoever names a number looks for new ones.
            derandomize="MACHINE_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert not oracle.chain()
