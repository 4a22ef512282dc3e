"""Faults of the platform's own processes: killed, doubled, frozen, with a wrong clock, replaced."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

from deploy.processes import ROOT
from instances import checkpoints
from tests.faults.kills import stopped_at
from tests.faults.matrix import Ground, fault
from tests.faults.site import until


def made(ground: Ground) -> Counter[str]:
    """Orders that make something, so far."""
    counted: Counter[str] = Counter()
    for name, end in (("nova", "/servers"), ("neutron", "/ports")):
        counted[name] = sum(method == "POST" and path.endswith(end) for method, path in ground.site.wires[name].orders)
    return counted


def _killed(ground: Ground, point: str, *, instance_id: Any = None) -> float:
    """A launch (or this machine's end) whose driver is killed at this point; what comes after is the others'."""
    directory = ground.site.platform.directory / "checkpoints"
    with stopped_at(directory, point) as stop:
        if instance_id is None:
            ground.launch()
        else:
            ground.delete(instance_id)
        pid = stop.pid(30 * ground.usual)
        stop.arrived.unlink()  # before its successor comes by
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    # A supervisor starts again what has died.
    until(lambda: not _alive(pid), 10, "the killed one is dead")
    ground.site.start_drivers()
    ground.sound()
    return time.monotonic() - began


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as told:  # noqa: PTH123 - one line of the kernel's
            return told.read().rsplit(")", 1)[1].split()[0] not in {"Z", "X"}
    except OSError:
        return False


@fault("F01", "a worker is killed after its claim, before any call", within=70)
def f01(ground: Ground) -> float:
    return _killed(ground, checkpoints.CLAIMED)


@fault("F02", "killed after the port was made, before its id is saved", within=70)
def f02(ground: Ground) -> float:
    return _killed(ground, checkpoints.PORT_CREATED)


@fault("F03", "killed after the intent, before the POST", within=70 + 120)
def f03(ground: Ground) -> float:
    return _killed(ground, checkpoints.INTENT_COMMITTED)


@fault("F04", "killed after Nova accepted, before the id is saved", within=75)
def f04(ground: Ground) -> float:
    before = made(ground)["nova"]
    took = _killed(ground, checkpoints.SERVER_ACCEPTED)
    assert made(ground)["nova"] == before + 1, "Nova was asked twice"
    return took


@fault("F05a", "killed after the id is saved", within=70)
def f05a(ground: Ground) -> float:
    return _killed(ground, checkpoints.ID_SAVED)


@fault("F05b", "killed when the server was seen to run", within=70)
def f05b(ground: Ground) -> float:
    ground.site.desks.shut = True
    directory = ground.site.platform.directory / "checkpoints"
    with stopped_at(directory, checkpoints.ACTIVE_SEEN) as stop:
        ground.launch()
        pid = stop.pid(30 * ground.usual)
        stop.arrived.unlink()
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    ground.site.desks.shut = False
    until(lambda: not _alive(pid), 10, "the killed one is dead")
    ground.site.start_drivers()
    ground.sound()
    return time.monotonic() - began


@fault("F05c", "killed when the desktop answered, before that is written or told", within=70)
def f05c(ground: Ground) -> float:
    return _killed(ground, checkpoints.READY_SEEN)


@fault("F06a", "killed before a deletion is ordered", within=70)
def f06a(ground: Ground) -> float:
    return _killed(ground, checkpoints.DELETE_BEFORE, instance_id=ground.ready())


@fault("F06b", "killed after a deletion was ordered", within=70)
def f06b(ground: Ground) -> float:
    return _killed(ground, checkpoints.DELETE_AFTER, instance_id=ground.ready())


@fault("F06c", "killed before the allowance is given back", within=70)
def f06c(ground: Ground) -> float:
    return _killed(ground, checkpoints.QUOTA_BEFORE_RELEASE, instance_id=ground.ready())


@fault("F11", "two workers are handed the same machine, 1,000 times", within=5)
def f11(ground: Ground) -> float:
    from django.db import connection
    from django.db.models.functions import Now

    from instances import transitions
    from instances.models import Instance

    machine = ground.ready()
    ground.site.stop_drivers()
    posts = made(ground)
    together = threading.Barrier(3)
    won: list[Any] = []

    def claimant() -> None:
        for _ in range(1000):
            together.wait()
            mine = transitions.claim(machine)
            won.append(mine)
            together.wait()
        connection.close()

    threads = [threading.Thread(target=claimant, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(1000):
        Instance.objects.filter(id=machine).update(due_at=Now(), lease_until=None)
        together.wait()
        together.wait()
        got = [one for one in won[2 * turn :] if one is not None]
        assert len(got) == 1, f"turn {turn}: {len(got)} of two have claimed"
    for thread in threads:
        thread.join()
    Instance.objects.filter(id=machine).update(due_at=Now(), lease_until=None)
    ground.site.start_drivers()
    began = time.monotonic()
    ground.sound()
    assert made(ground) == posts, "something was made twice"
    return time.monotonic() - began


@fault("F12", "a task is delivered five times at once, and again much later", within=5)
def f12(ground: Ground) -> float:
    from instances import tasks

    before = made(ground)
    machine = ground.launch()
    for _ in range(5):
        tasks.advance_instance.delay(str(machine))
    began = time.monotonic()
    ground.sound()
    took = time.monotonic() - began
    for _ in range(5):
        tasks.advance_instance.delay(str(machine))
    time.sleep(2)  # as long as a worker needs to take all five
    ground.sound()
    asked = made(ground) - before
    assert asked == Counter(nova=1, neutron=1), f"made {asked}"
    return took


@fault("F39", "every process is replaced by SIGTERM while machines are made and ended", within=70)
def f39(ground: Ground) -> float:
    machines = [ground.ready() for _ in range(2)]
    for _ in range(4):
        ground.launch()
    for machine in machines:
        ground.delete(machine)
    until(lambda: any(ground.site.row(one).lease_until for one in ground.accepted[-4:]), 20, "a lease is held")
    began = time.monotonic()
    ground.site.stop_drivers()
    from instances.models import Instance

    held = Instance.objects.exclude(lease_until=None).count()
    assert held == 0, f"{held} leases outlive an orderly end"
    ground.site.running("web").stop(30)
    ground.site.platform.start_web()
    ground.site.start_drivers()
    ground.sound()
    return time.monotonic() - began


@fault("F43", "the timetable runs twice, then not at all", within=10)
def f43(ground: Ground) -> float:
    from deploy import processes

    platform = ground.site.platform
    schedule = str(platform.directory / "beat-schedule-2")
    command = [*platform_python(), "-m", "celery", "-A", "visa", "beat", "--schedule", schedule, "--pidfile", ""]
    before = made(ground)
    second = processes.start(
        "beat-2", command, log=platform.directory / "log" / "beat-2.log", environment=platform.variables("worker")
    )
    ground.launch()
    ground.launch()
    began = time.monotonic()
    ground.sound()
    took = time.monotonic() - began
    second.stop()
    asked = made(ground) - before
    assert asked == Counter(nova=2, neutron=2), f"made {asked}"
    ground.site.stop_drivers("beat")
    ground.launch()
    began = time.monotonic()
    ground.sound()
    return max(took, time.monotonic() - began)


def platform_python() -> list[str]:
    from deploy.demo_platform import PYTHON

    return list(PYTHON)


@fault("F09", "a worker freezes before its POST, for longer than its lease and the quiet period", within=60 + 120 + 60)
def f09(ground: Ground) -> float:
    site = ground.site
    with stopped_at(site.platform.directory / "checkpoints", checkpoints.INTENT_COMMITTED) as stop:
        machine = ground.launch()
        stop.pid(30 * ground.usual)
        stop.arrived.unlink()  # nobody else stops here
        began = time.monotonic()
        site.until_state(machine, "active", seconds=ground.allowed)
        before = made(ground)["nova"]
    # It goes on, and asks Nova for a second server on the same port.
    until(lambda: made(ground)["nova"] > before, 30, "the frozen one asks")
    live = [one for one in site.servers() if one.metadata["visa_instance"] == str(machine) and one.status == "ACTIVE"]
    assert len(live) == 1, f"{len(live)} servers run"
    ground.sound()
    return time.monotonic() - began


@fault("F40", "old code runs on new tables, and code that is too old takes no step", within=120)
def f40(ground: Ground) -> float:
    test = "tests/instances/test_releases.py"
    began = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", test],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("VISA_", "DJANGO_", "OS_"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, f"{test}: {said.stdout[-300:]}"
    return time.monotonic() - began


@fault("F41", "many launch at once: creates are paced, people take turns, everybody is told their place", within=10)
def f41(ground: Ground) -> float:
    from instances import access
    from instances.models import Instance

    site = ground.site
    greedy, modest = site.person(), site.person()
    began = time.monotonic()
    many = [ground.launch(by=greedy) for _ in range(site.creates + 3)]
    last = ground.launch(by=modest)
    took = (time.monotonic() - began) / (len(many) + 1)
    assert took < 1, f"{took:.1f} s for a launch to be accepted"
    waiting = [one for one in many if site.row(one).state == "waiting"]
    if waiting:
        view = access.instance_for(greedy, waiting[-1])
        assert view.place, view
    most = 0

    def all_made() -> bool:
        nonlocal most
        most = max(most, Instance.objects.filter(admitted_at__isnull=False, deleted_at=None).count())
        return not Instance.objects.filter(id__in=[*many, last]).exclude(state="active").exists()

    until(all_made, ground.allowed, "all are made")
    assert most <= site.creates, f"{most} creates in flight"
    ready = {one: site.row(one).ready_at for one in [*many, last]}
    assert ready[last] < max(ready[one] for one in many), "who came last with one machine waited for all of another's"
    ground.sound()
    return time.monotonic() - began
