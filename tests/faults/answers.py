"""Faults of the cloud and of the way to it: answers that are lost, late, wrong, or none at all."""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import Any

from instances import checkpoints
from tests.faults.kills import stopped_at
from tests.faults.matrix import TICKS, Ground, fault
from tests.faults.site import until
from tests.faults.stores import Browser
from tests.faults.workers import alive, children, frozen_hosts, later, made, mails_to, reachable, told_once
from tests.wire import Fault, Rule

NOVA_POST: Any = {"method": "POST", "path": r"/servers$"}


def _breaker(service: str) -> Any:
    from instances.models import ServiceState

    return ServiceState.objects.filter(service=service, opened_at__isnull=False).first()


def _none_failed(ground: Ground, *machines: Any) -> None:
    for machine in machines:
        row = ground.site.row(machine)
        assert not row.failed, f"{machine} has failed: {row.reason}"


def _word(ground: Ground, machine: Any) -> str:
    """What the person reads: the reason on the machine's page."""
    from instances import access

    row = ground.site.row(machine)
    view = access.instance_for(row.owner, machine)
    return f"{view.state_words} {view.reason}"


def _posted_at(ground: Ground) -> list[float]:
    """When Nova was asked for a server, each time."""
    nova = ground.site.wires["nova"]
    # A call that arrives meanwhile may not have its time yet.
    calls = zip(list(nova.calls), list(nova.times), strict=False)
    return [at for (method, path), at in calls if method == "POST" and path.endswith("/servers")]


@fault("F07", "Nova's answer to a create is lost; it was executed", within=75)
def f07(ground: Ground) -> float:
    rule = ground.site.wires["nova"].spoil(Fault.LOSE_REPLY, count=1, **NOVA_POST)
    before = made(ground)["nova"]
    ground.launch()
    until(lambda: rule.hits, 30, "the create was struck")
    began = time.monotonic()
    ground.sound()
    assert made(ground)["nova"] == before + 1, "Nova was asked twice"
    return time.monotonic() - began


@fault("F08", "the create is lost before Nova hears of it", within=70 + 120)
def f08(ground: Ground) -> float:
    rule = ground.site.wires["nova"].spoil(Fault.LOSE_REQUEST, count=1, **NOVA_POST)
    machine = ground.launch()
    until(lambda: rule.hits, 30, "the create was struck")
    began = time.monotonic()
    ground.sound()
    assert ground.creates(machine) == 2
    return time.monotonic() - began


@fault("F08b", "the create is forwarded twice", within=70)
def f08b(ground: Ground) -> float:
    rule = ground.site.wires["nova"].spoil(Fault.TWICE, count=1, **NOVA_POST)
    ground.launch()
    until(lambda: rule.hits, 30, "the create was struck")
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


@fault("F08c", "the answer to the port's create is lost; it was executed", within=75 + 120)
def f08c(ground: Ground) -> float:
    rule = ground.site.wires["neutron"].spoil(Fault.LOSE_REPLY, method="POST", path=r"/ports$", count=1)
    ground.launch()
    until(lambda: rule.hits, 30, "the port's create was struck")
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


@fault("F20", "Nova answers 500, 502, 503 and 504 in bursts", within=30)
def f20(ground: Ground) -> float:
    nova = ground.site.wires["nova"]
    for number, status in enumerate((500, 502, 503, 504)):
        # Each strikes what those before it let pass, the last one all of that.
        nova.spoil(Fault.STATUS, path=r"/servers", status=status, each=4 - number)
    before = made(ground)["nova"]
    machines = [ground.launch() for _ in range(4)]
    until(lambda: _breaker("nova"), 60, "the breaker is open")
    time.sleep(20 * ground.site.scale)  # the storm goes on
    _none_failed(ground, *machines)
    assert "does not answer" in _word(ground, machines[-1]), _word(ground, machines[-1])
    assert made(ground)["nova"] == before, "something was created in the storm"
    nova.mend()
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


@fault("F20b", "Nova answers 5xx to creates: nobody knows whether they were executed", within=30 + 120)
def f20b(ground: Ground) -> float:
    nova = ground.site.wires["nova"]
    rules = [nova.spoil(Fault.STATUS, status=status, count=1, **NOVA_POST) for status in (500, 502, 503, 504)]
    machines = [ground.launch() for _ in range(4)]
    until(lambda: all(rule.hits for rule in rules), 60, "each create was struck")
    began = time.monotonic()
    _none_failed(ground, *machines)
    ground.sound()
    for machine in machines:
        assert ground.creates(machine) == 2
    return time.monotonic() - began


class _Leases:
    """How long steps hold these rows, as far as they are looked at."""

    def __init__(self, machines: Collection[Any]) -> None:
        self.longest = 0.0
        self._machines = list(machines)
        self._since: dict[tuple[Any, int], float] = {}

    def look(self) -> None:
        """Each claim has a fence of its own. None may be over its time, by the database's clock."""
        from django.db.models.functions import Now

        from instances.models import Instance

        held = Instance.objects.filter(id__in=self._machines).exclude(lease_until=None)
        late = list(held.filter(lease_until__lt=Now()).values_list("id", "lease_owner"))
        assert not late, f"steps outlived their lease: {late}"
        now = time.monotonic()
        self._since = {one: self._since.get(one, now) for one in held.values_list("id", "fence")}
        self.longest = max([self.longest, *(now - since for since in self._since.values())])


@contextlib.contextmanager
def _hanging(ground: Ground, **which: Any) -> Iterator[Rule]:
    """Nova takes these calls and is silent; at the end it does what it was asked, when everybody has given it up."""
    nova = ground.site.wires["nova"]
    try:
        yield nova.spoil(Fault.SILENT, **which)
    finally:
        nova.mend()
        nova.release()


def _read(browser: Browser) -> float:
    """Seconds in which a person's list of machines is answered."""
    began = time.monotonic()
    answer = browser.visitor.session.get(f"{browser.visitor.url}/api/v1/instances/", timeout=30)
    assert answer.status_code == 200, answer.status_code
    return time.monotonic() - began


@fault("F21", "Nova hangs on half of what it is asked", within=120)
def f21(ground: Ground) -> float:
    from instances.pace import pace

    lease, browser = pace().lease.total_seconds(), Browser(ground.site)
    reads: list[float] = []
    served: list[float] = []
    with _hanging(ground, path=r"/servers", each=2) as rule:
        machines = [ground.launch() for _ in range(4)]  # each of another person
        leases, began = _Leases(machines), time.monotonic()

        def long_enough() -> bool:
            """One was served, and it hangs for so long that a step which did not give up would outlive its lease."""
            leases.look()
            reads.append(_read(browser))
            if not served and any(ground.site.row(one).state == "active" for one in machines):
                served.append(time.monotonic() - began)
            return bool(served) and time.monotonic() - began > 1.5 * lease

        until(long_enough, ground.allowed, "one is ready")
        assert rule.hits, "nothing hung"
        _none_failed(ground, *machines)
    assert leases.longest < lease, f"a step held its row for {leases.longest:.1f} s, a lease is {lease:.0f} s"
    assert max(reads) < 1, f"the list of machines took {max(reads):.1f} s"
    ground.sound()
    return served[0]


@fault("F21b", "Nova hangs on all it is asked of some machines: other people's are made", within=10)
def f21b(ground: Ground) -> float:
    from instances.pace import pace

    site, lease = ground.site, pace().lease.total_seconds()
    site.stop_drivers()  # until it is said whose calls hang
    hung = [ground.launch() for _ in range(3)]
    with _hanging(ground, path="|".join(str(one) for one in hung)) as rule:
        site.start_drivers()
        until(lambda: rule.hits >= len(hung), 60, "their calls hang")
        leases, began = _Leases(hung), time.monotonic()
        others = [ground.launch() for _ in range(3)]

        def served() -> bool:
            leases.look()
            return all(site.row(one).state == "active" for one in others)

        # One after the other at worst, and behind one call that hangs until its time-out.
        until(served, (1 + len(others)) * ground.usual + pace().call.total_seconds(), "the others are ready")
        took = time.monotonic() - began
        _none_failed(ground, *hung)
        assert not any(site.row(one).server_id for one in hung), "their calls did not hang"
    assert leases.longest < lease, f"a step held its row for {leases.longest:.1f} s, a lease is {lease:.0f} s"
    ground.sound()
    return took


@fault("F22", "409 to a delete, 404 to a stop", within=10)
def f22(ground: Ground) -> float:
    from instances import actions

    ended, stopped = ground.ready(), ground.ready()
    nova = ground.site.wires["nova"]
    first = nova.spoil(Fault.STATUS, method="DELETE", path=r"/servers/", status=409, count=2)
    second = nova.spoil(Fault.STATUS, method="POST", path=r"/action$", status=404, count=1)
    ground.delete(ended)
    actions.stop(stopped, by=ground.site.row(stopped).owner)
    until(lambda: first.hits == 2 and second.hits == 1, 60, "both were struck")
    began = time.monotonic()
    ground.sound()
    took = time.monotonic() - began
    assert ground.site.row(stopped).state == "stopped"
    return took


@fault("F23", "the project's quota at Nova is used up though ours is not", within=60)
def f23(ground: Ground) -> float:
    from instances.creating import FULL_TRIES
    from instances.pace import pace
    from visa.accounts.claims import Role
    from visa.outbox.models import Outbox

    project = ground.site.sdk("user").current_project_id
    admin = ground.site.sdk("admin")
    before = admin.get_compute_quotas(project).instances
    there = len(list(ground.site.sdk().compute.servers(details=False)))
    administrator = reachable(ground, roles=[Role.ADMINISTRATOR.value])
    told = Outbox.objects.filter(key__startswith="site_full:")
    told.delete()  # it is told once a day: today nobody has heard of it
    pause = 0.8 * FULL_TRIES * pace().soon.total_seconds()  # `pacing.spread` takes a fifth away at most
    posts = len(_posted_at(ground))
    admin.set_compute_quotas(project, instances=there)
    try:
        machine = ground.launch()
        until(lambda: ground.site.row(machine).reason_code == "cloud_full", 60, "it waits for room")
        assert "no room" in _word(ground, machine), _word(ground, machine)
        until(lambda: len(_posted_at(ground)) >= posts + 2, 2 * pause + TICKS, "it is tried again")
        first, second = _posted_at(ground)[posts:][:2]
        assert second - first >= pause, f"tried again after {second - first:.1f} s, and not {pause:.0f}"
        other = ground.launch()
        until(lambda: ground.site.row(other).reason_code == "cloud_full", 60, "another waits for room")
        until(lambda: mails_to(ground, administrator), 60, "administrators are told")
        until(lambda: not told.filter(sent_at=None).exists(), 60, "all is told")
        subjects = [str(mail["Subject"]) for mail in mails_to(ground, administrator)]
        assert sum("no room" in one for one in subjects) == 1, f"an administrator was told {subjects}"
        _none_failed(ground, machine, other)
    finally:
        admin.set_compute_quotas(project, instances=before)
        administrator.is_active = False  # what other faults tell is not theirs
        administrator.save()
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


@fault("F24", "no host will take it: the server ends in ERROR each time", within=300)
def f24(ground: Ground) -> float:
    from django.db.models import Exists, OuterRef

    from instances.models import Instance
    from instances.pace import pace
    from quotas.models import Flavour, Reservation

    nova, wire = ground.site.sdk("admin").compute, ground.site.wires["nova"]
    name = f"impossible-{ground.site.environment}"
    flavour = nova.create_flavor(name=name, ram=1024, vcpus=1, disk=4, is_public=True)
    nova.create_flavor_extra_specs(flavour, {"trait:CUSTOM_NOBODY_HAS": "required"})
    try:
        row = Flavour.objects.create(slug=name, name="Impossible", cloud_name=name, cores=1, memory_mib=1024)
        posts, orders = len(_posted_at(ground)), len(wire.orders)
        began = time.monotonic()
        machine = ground.launch(flavour=row.slug)
        judged = Instance.objects.annotate(holds=Exists(Reservation.objects.filter(holder=OuterRef("id"))))

        def failed() -> bool:
            """Row and allowance, in one look: the second is given back with the verdict and not before."""
            now = judged.get(id=machine)
            assert now.holds is not now.failed, f"failed: {now.failed}, holds its allowance: {now.holds}"
            return now.failed

        until(failed, ground.allowed, "it has failed")
        took = time.monotonic() - began
        # So that what was given back was free: nothing of it is there.
        left = [one.status for one in ground.site.servers() if one.metadata["visa_instance"] == str(machine)]
        assert not left, f"its allowance was given back, and there is a server: {left}"
        ended = ground.site.row(machine)
        assert ended.builds_lost == 3, f"{ended.builds_lost} builds: {ended.reason_code} {ended.reason_detail}"
        assert ended.reason_code == "no_room", ended.reason_code
        assert "no room" in _word(ground, machine), _word(ground, machine)
        asked = _posted_at(ground)[posts:]
        assert len(asked) == 3, f"{len(asked)} servers were ordered"
        pauses = [after - before for before, after in pairwise(asked)]
        least = [one.total_seconds() for one in pace().rebuild]
        assert all(pause >= one for pause, one in zip(pauses, least, strict=False)), f"{pauses}, not {least}"
        assert pauses[0] < pauses[1], f"pauses do not grow: {pauses}"
        deletes = sum(method == "DELETE" and "/servers/" in path for method, path in wire.orders[orders:])
        assert deletes >= 3, f"{deletes} deletions of three servers in ERROR"
        ground.sound()
        assert not Reservation.objects.filter(holder=machine).exists()
    finally:
        nova.delete_flavor(flavour.id, ignore_missing=True)
    return took


@fault("F25", "a build never ends", within=60)
def f25(ground: Ground) -> float:
    with frozen_hosts():
        machine = ground.launch()
        until(lambda: ground.site.row(machine).seen == "building", 60, "it is being built")
        time.sleep(5)
        assert ground.site.row(machine).builds_lost == 0
        later(machine, 16)
        until(lambda: ground.site.row(machine).builds_lost == 1, 60, "the build is given up")
    began = time.monotonic()
    ground.sound()
    assert ground.site.row(machine).state == "active"
    return time.monotonic() - began


@fault("F26", "a deletion is swallowed again and again", within=60)
def f26(ground: Ground) -> float:
    from instances.models import InstanceEvent
    from quotas.models import Reservation

    machine = ground.ready()
    nova = ground.site.wires["nova"]
    rule = nova.spoil(Fault.STATUS, method="DELETE", path=r"/servers/", status=204, body=b"")
    ground.delete(machine)
    until(lambda: rule.hits >= 2, 120, "it was ordered again")
    assert ground.site.row(machine).state == "deleting"
    assert Reservation.objects.filter(holder=machine).exists()
    later(machine, 11)
    until(
        lambda: InstanceEvent.objects.filter(instance_id=machine, kind="delete.stuck").exists(), 60, "there is an alarm"
    )
    nova.mend()
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


def _tokens(ground: Ground) -> int:
    """How often somebody has signed in at Keystone."""
    orders = ground.site.wires["keystone"].orders
    return sum(method == "POST" and path.endswith("/auth/tokens") for method, path in orders)


@fault("F27", "401 in the middle: the token is not taken any more", within=5)
def f27(ground: Ground) -> float:
    site, nova = ground.site, ground.site.wires["nova"]
    # A process signs in once, with all its threads. With one alone, which has done so, each new token is a refused
    # call's, and none of them may cost two.
    site.stop_drivers()
    site.start_drivers("reconciler")
    ground.ready()
    tokens = _tokens(ground)
    rule = nova.spoil(Fault.STATUS, path=r"/servers", status=401, count=2)
    ground.launch()
    began = time.monotonic()
    until(lambda: rule.hits >= 1, 30, "a call was refused")
    ground.sound()
    took = time.monotonic() - began
    again = _tokens(ground) - tokens
    assert 1 <= again <= rule.hits == 2, f"{again} new tokens for {rule.hits} refused calls"
    # All drivers, none of which has signed in: one token for each process that calls, and one for each refused call.
    site.stop_drivers()
    nova.mend()
    tokens = _tokens(ground)
    rule = nova.spoil(Fault.STATUS, path=r"/servers", status=401, count=2)
    site.start_drivers()
    ground.launch()
    until(lambda: rule.hits == 2, 30, "two calls were refused")
    ground.sound()
    sessions = 1 + children(site.running("worker").pid)
    again = _tokens(ground) - tokens
    assert again <= sessions + rule.hits, f"{again} tokens for {sessions} processes and {rule.hits} refused calls"
    return took


@fault("F28", "Keystone is away", within=30)
def f28(ground: Ground) -> float:
    site = ground.site
    # One process that has a token for all its threads, and a fresh one.
    site.stop_drivers()
    site.start_drivers("reconciler")
    machine = ground.ready()
    with site.wires["keystone"].away():
        signed_in = ground.launch()
        site.until_state(signed_in, "active", seconds=ground.allowed)
        # New processes have no token, and get none.
        site.stop_drivers()
        site.start_drivers()
        waiting = ground.launch()
        ground.delete(machine)
        until(lambda: _breaker("keystone"), 120, "the breaker is open")
        time.sleep(10 * site.scale)  # so long it stays away
        _none_failed(ground, waiting, signed_in, machine)
        assert "does not answer" in _word(ground, waiting), _word(ground, waiting)
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


@fault("F29", "Neutron is away in the middle of a launch", within=30)
def f29(ground: Ground) -> float:
    with ground.site.wires["neutron"].away():
        machines = [ground.launch() for _ in range(3)]
        time.sleep(40 * ground.site.scale)
        _none_failed(ground, *machines)
        assert not ground.site.servers()
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


def _ports_of(ground: Ground, machine: Any) -> list[str]:
    """The ports there are of this machine, by Neutron's own word."""
    return [port.id for port in ground.site.ports() if port.name == f"visa-{machine}"]


@fault("F29b", "Neutron goes away when a launch has its port", within=30)
def f29b(ground: Ground) -> float:
    site, before = ground.site, made(ground)
    with contextlib.ExitStack() as fault_ends:
        with stopped_at(site.platform.directory / "checkpoints", checkpoints.PORT_CREATED) as stop:
            machine = ground.launch()
            stop.pid(30 * ground.usual)
            stop.arrived.unlink()  # nobody else stops here
            fault_ends.enter_context(site.wires["neutron"].away())
        # Its step goes on. It has all that it needs of Neutron, and the rest is Nova's.
        site.until_state(machine, "active", seconds=ground.allowed)
        ports = _ports_of(ground, machine)
        assert len(ports) == 1, f"ports {ports}"
    began = time.monotonic()
    ground.sound()
    took = time.monotonic() - began
    assert _ports_of(ground, machine) == ports
    asked = made(ground) - before
    assert asked == Counter(nova=1, neutron=1), f"made {asked}"
    return took


@fault("F29c", "Neutron goes away when a port is made and its driver killed: the next one waits", within=30)
def f29c(ground: Ground) -> float:
    site, before = ground.site, made(ground)["nova"]
    with contextlib.ExitStack() as fault_ends:
        with stopped_at(site.platform.directory / "checkpoints", checkpoints.PORT_CREATED) as stop:
            machine = ground.launch()
            pid = stop.pid(30 * ground.usual)
            stop.arrived.unlink()  # before its successor comes by
            fault_ends.enter_context(site.wires["neutron"].away())
            os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), 10, "the killed one is dead")
        site.start_drivers()
        # When the lease is over somebody looks for the port, and nobody answers.
        seconds = (60 + 30) * site.scale + TICKS
        until(lambda: site.row(machine).reason_code == "cloud_silent", seconds, "it waits for Neutron")
        _none_failed(ground, machine)
        assert made(ground)["nova"] == before, "a server was ordered without its port"
        ports = _ports_of(ground, machine)
        assert len(ports) == 1, f"ports {ports}"
    began = time.monotonic()
    ground.sound()
    took = time.monotonic() - began
    assert _ports_of(ground, machine) == ports, "it has another port"
    assert made(ground)["nova"] == before + 1
    return took


@fault("F30", "429 with Retry-After: all workers keep to it", within=20)
def f30(ground: Ground) -> float:
    nova = ground.site.wires["nova"]
    told = 12.0
    rule = nova.spoil(Fault.LIMITED, path=r"/servers", seconds=told, count=1)
    for _ in range(3):
        ground.launch()
    until(lambda: rule.hits == 1, 30, "the limit was told")
    began = time.monotonic()
    time.sleep(3)  # steps that were under way already
    calls = len(nova.calls)
    time.sleep(told - 5)
    extra = nova.calls[calls:]
    assert not extra, f"{Counter(extra)} within the time that was told"
    ground.sound()
    return time.monotonic() - began


@fault("F34", "machines are deleted, stopped and rebooted behind our back", within=60)
def f34(ground: Ground) -> float:
    from quotas.models import Reservation

    person = reachable(ground)
    lost, stopped, rebooted = ground.ready(by=person), ground.ready(), ground.ready()
    before, asked = _lasting(ground, lost), made(ground)
    nova = ground.site.sdk("user").compute
    nova.delete_server(ground.site.row(lost).server_id)
    nova.stop_server(ground.site.row(stopped).server_id)
    nova.reboot_server(ground.site.row(rebooted).server_id, "HARD")
    began = time.monotonic()
    ground.site.until_state(lost, "gone", seconds=ground.allowed)
    ground.site.until_state(stopped, "stopped", seconds=ground.allowed)
    ground.sound()
    told_once(ground, person, f"gone:{lost}")
    took = time.monotonic() - began
    assert "no longer exists" in str(mails_to(ground, person)[0]["Subject"])
    assert not Reservation.objects.filter(holder=lost).exists()
    # Never made again by itself, also where it is looked at an hour later; and nobody is told again.
    fence = ground.site.row(lost).fence
    later(lost, 60)

    def looked_at() -> bool:
        row = ground.site.row(lost)
        return row.fence > fence and row.lease_until is None

    until(looked_at, 30, "it was looked at")
    assert ground.site.row(lost).state == "gone"
    assert _lasting(ground, lost) == before, f"{before} became {_lasting(ground, lost)}"
    assert made(ground) == asked, f"made {made(ground) - asked}"
    told_once(ground, person, f"gone:{lost}")
    return took


def _lasting(ground: Ground, machine: Any) -> tuple[object, ...]:
    """What stays in a row that has lost its server: whose it was, what it was, and for what."""
    row = ground.site.row(machine)
    return (row.owner_id, row.name, row.dataset_id, row.flavour_id, row.image_id, row.specification, row.ready_at)


@fault("F37a", "the desktop is not up", within=10)
def f37a(ground: Ground) -> float:
    ground.site.desks.shut = True
    machine = ground.launch()
    ground.site.until_state(machine, "starting", seconds=30 * ground.usual)
    time.sleep(5)
    assert ground.site.row(machine).state == "starting"
    assert not ground.site.row(machine).failed
    ground.site.desks.shut = False
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


#: what a page may take to tell the truth of a desktop, in seconds of the real clock: what it is made of does not scale
TRUTHFUL = 10.0


def _said_silent(ground: Ground, machine: Any) -> float:
    """How long it takes until the machine's page says that its desktop is silent, since when, and offers a restart."""
    from instances import access
    from instances.lifecycle import State

    owner, began = ground.site.row(machine).owner, time.monotonic()
    until(
        lambda: "desktop does not answer" in access.instance_for(owner, machine).reason,
        TRUTHFUL,
        "its page says that the desktop does not answer",
    )
    took = time.monotonic() - began
    view = access.instance_for(owner, machine)
    assert view.state is State.ACTIVE, f"it is said to be {view.state}"
    assert view.silent_since is not None
    assert view.can_reboot, f"no restart is offered: {view.may}"
    assert "restart" in view.way_out, view.way_out
    return took


def _back(ground: Ground, machine: Any, *, server: str, orders: int) -> None:
    """It answers again and says so; nobody has touched the machine meanwhile, by no order since that many."""
    until(lambda: ground.site.row(machine).silent_since is None, ground.allowed, "it is back")
    assert ground.site.row(machine).server_id == server, "it was killed"
    given = ground.site.wires["nova"].orders[orders:]
    assert not given, f"while it was silent Nova was told {given}"
    ground.sound()


@fault("F37b", "the desktop hangs (SIGSTOP) and comes back", within=10)
def f37b(ground: Ground) -> float:
    machine = ground.ready()
    server, orders = ground.site.row(machine).server_id, len(ground.site.wires["nova"].orders)
    ground.site.desks.freeze()
    try:
        took = _said_silent(ground, machine)
    finally:
        ground.site.desks.thaw()
    _back(ground, machine, server=server, orders=orders)
    return took


@fault("F37c", "the desktop's process crashed: nobody listens", within=10)
def f37c(ground: Ground) -> float:
    machine = ground.ready()
    server, orders = ground.site.row(machine).server_id, len(ground.site.wires["nova"].orders)
    ground.site.desks.shut = True
    took = _said_silent(ground, machine)
    ground.site.desks.shut = False
    _back(ground, machine, server=server, orders=orders)
    return took


@fault("F37d", "something answers in the desktop's place that is none", within=10)
def f37d(ground: Ground) -> float:
    site, desks = ground.site, ground.site.desks
    desks.shut = True  # until it is known where it listens
    machine = ground.launch()
    address = until(lambda: site.row(machine).desktop_host, 30 * ground.usual, "it has an address")
    try:
        desks.babbling.add(address)
        desks.shut = False
        until(lambda: desks.babbled.get(address, 0) >= 10, 30, "it was asked ten times")
        row = site.row(machine)
        assert row.state == "starting", row.state
        assert not row.failed, row.reason
        desks.babbling.clear()
        began = time.monotonic()
        ground.sound()
        took = time.monotonic() - began
        server, orders = site.row(machine).server_id, len(site.wires["nova"].orders)
        desks.babbling.add(address)
        took = max(took, _said_silent(ground, machine))
    finally:
        desks.babbling.clear()
    _back(ground, machine, server=server, orders=orders)
    return took
