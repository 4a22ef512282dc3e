"""Faults of the cloud and of the way to it: answers that are lost, late, wrong, or none at all."""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.faults.matrix import Ground, fault
from tests.faults.site import STATE, until
from tests.faults.workers import made
from tests.wire import Fault

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


@fault("F21", "Nova hangs on half of what it is asked", within=120)
def f21(ground: Ground) -> float:
    nova = ground.site.wires["nova"]
    nova.spoil(Fault.DELAY, path=r"/servers", seconds=90, each=2)
    machines = [ground.launch() for _ in range(4)]
    began = time.monotonic()
    # Others are served meanwhile: at least one comes through although half of the calls hang.
    until(
        lambda: any(ground.site.row(one).state == "active" for one in machines), 240 * ground.site.scale, "one is ready"
    )
    took = time.monotonic() - began
    _none_failed(ground, *machines)
    nova.mend()
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
    project = ground.site.sdk("user").current_project_id
    admin = ground.site.sdk("admin")
    before = admin.get_compute_quotas(project).instances
    there = len(list(ground.site.sdk().compute.servers(details=False)))
    admin.set_compute_quotas(project, instances=there)
    try:
        machine = ground.launch()
        until(lambda: ground.site.row(machine).reason_code == "cloud_full", 60, "it waits for room")
        tried = made(ground)["nova"]
        time.sleep(20 * ground.site.scale)
        busy = made(ground)["nova"] - tried
        assert busy <= 3, f"{busy} creates within {20 * ground.site.scale:.0f} s"
        assert "no room" in _word(ground, machine), _word(ground, machine)
    finally:
        admin.set_compute_quotas(project, instances=before)
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


@fault("F24", "no host will take it: the server ends in ERROR each time", within=300)
def f24(ground: Ground) -> float:
    from quotas.models import Flavour, Reservation

    nova = ground.site.sdk("admin").compute
    name = f"impossible-{ground.site.environment}"
    flavour = nova.create_flavor(name=name, ram=1024, vcpus=1, disk=4, is_public=True)
    nova.create_flavor_extra_specs(flavour, {"trait:CUSTOM_NOBODY_HAS": "required"})
    try:
        row = Flavour.objects.create(slug=name, name="Impossible", cloud_name=name, cores=1, memory_mib=1024)
        began = time.monotonic()
        machine = ground.launch(flavour=row.slug)
        seen: list[int] = []

        def failed() -> bool:
            seen.append(int(Reservation.objects.filter(holder=machine).count()))
            return bool(ground.site.row(machine).failed)

        until(failed, ground.allowed, "it has failed")
        took = time.monotonic() - began
        ended = ground.site.row(machine)
        assert ended.builds_lost == 3, f"{ended.builds_lost} builds: {ended.reason_code} {ended.reason_detail}"
        assert ended.reason_code == "no_room", ended.reason_code
        ground.sound()
        assert not Reservation.objects.filter(holder=machine).exists()
    finally:
        nova.delete_flavor(flavour.id, ignore_missing=True)
    return took


@contextlib.contextmanager
def _frozen_hosts() -> Iterator[None]:
    """Nova's compute hosts stand still."""
    pids = [int(path.read_text()) for path in (STATE / "run").glob("nova-compute*.pid")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _later(machine: Any, minutes: int) -> None:
    """So much time has passed for this row: a test does not wait for a quarter of an hour."""
    from datetime import timedelta

    from django.db.models import F
    from django.db.models.functions import Now

    from instances.models import Instance

    by = timedelta(minutes=minutes)
    Instance.objects.filter(id=machine).update(
        step_since=F("step_since") - by, wanted_at=F("wanted_at") - by, due_at=Now()
    )


@fault("F25", "a build never ends", within=60)
def f25(ground: Ground) -> float:
    with _frozen_hosts():
        machine = ground.launch()
        until(lambda: ground.site.row(machine).seen == "building", 60, "it is being built")
        time.sleep(5)
        assert ground.site.row(machine).builds_lost == 0
        _later(machine, 16)
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
    _later(machine, 11)
    until(
        lambda: InstanceEvent.objects.filter(instance_id=machine, kind="delete.stuck").exists(), 60, "there is an alarm"
    )
    nova.mend()
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


@fault("F27", "401 in the middle: the token is not taken any more", within=5)
def f27(ground: Ground) -> float:
    tokens = len([one for one in ground.site.wires["keystone"].orders if one[1].endswith("/auth/tokens")])
    rule = ground.site.wires["nova"].spoil(Fault.STATUS, path=r"/servers", status=401, count=2)
    ground.launch()
    began = time.monotonic()
    until(lambda: rule.hits >= 1, 30, "a call was refused")
    ground.sound()
    again = len([one for one in ground.site.wires["keystone"].orders if one[1].endswith("/auth/tokens")]) - tokens
    assert again <= 6, f"{again} new tokens for two refused calls"
    return time.monotonic() - began


@fault("F28", "Keystone is away", within=30)
def f28(ground: Ground) -> float:
    machine = ground.ready()
    # Tokens are in use: what has one goes on. New processes have none.
    ground.site.stop_drivers()
    with ground.site.wires["keystone"].away():
        ground.site.start_drivers()
        waiting = ground.launch()
        ground.delete(machine)
        until(lambda: _breaker("keystone"), 120, "the breaker is open")
        time.sleep(10 * ground.site.scale)
        _none_failed(ground, waiting)
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

    lost, stopped, rebooted = ground.ready(), ground.ready(), ground.ready()
    nova = ground.site.sdk("user").compute
    nova.delete_server(ground.site.row(lost).server_id)
    nova.stop_server(ground.site.row(stopped).server_id)
    nova.reboot_server(ground.site.row(rebooted).server_id, "HARD")
    began = time.monotonic()
    ground.site.until_state(lost, "gone", seconds=ground.allowed)
    ground.site.until_state(stopped, "stopped", seconds=ground.allowed)
    ground.sound()
    took = time.monotonic() - began
    assert not Reservation.objects.filter(holder=lost).exists()
    assert ground.site.row(lost).dataset_id is not None
    # Never made again by itself.
    time.sleep(3)
    assert ground.site.row(lost).state == "gone"
    until(lambda: any("no longer exists" in str(mail) or "gone" in str(mail).lower() for mail in ground.site.mail.mails)
          or not ground.site.row(lost).owner.email, 30, "the owner is told")  # fmt: skip
    return took


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


@fault("F37b", "the desktop hangs (SIGSTOP) and comes back", within=90)
def f37b(ground: Ground) -> float:
    machine = ground.ready()
    server = ground.site.row(machine).server_id
    ground.site.desks.freeze()
    try:
        began = time.monotonic()
        until(lambda: ground.site.row(machine).silent_since, ground.allowed, "it is said to be silent")
        took = time.monotonic() - began
        assert "does not answer" in _word(ground, machine), _word(ground, machine)
    finally:
        ground.site.desks.thaw()
    until(lambda: ground.site.row(machine).silent_since is None, ground.allowed, "it is back")
    ground.sound()
    assert ground.site.row(machine).server_id == server, "it was killed"
    return took


@fault("F37c", "the desktop's process crashed: nobody listens", within=90)
def f37c(ground: Ground) -> float:
    machine = ground.ready()
    ground.site.desks.shut = True
    began = time.monotonic()
    until(lambda: ground.site.row(machine).silent_since, ground.allowed, "it is said to be silent")
    took = time.monotonic() - began
    assert ground.site.row(machine).state == "active"
    ground.site.desks.shut = False
    until(lambda: ground.site.row(machine).silent_since is None, ground.allowed, "it is back")
    ground.sound()
    return took
