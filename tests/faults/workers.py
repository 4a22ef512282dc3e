"""Faults of the platform's own processes: killed, doubled, frozen, with a wrong clock, replaced."""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import requests

from deploy.processes import LOOPBACK, ROOT
from instances import checkpoints
from tests.benchmarks.herd import Student
from tests.benchmarks.kills import quantile
from tests.faults.kills import stopped_at
from tests.faults.matrix import TICKS, Ground, fault
from tests.faults.site import STATE, until


def made(ground: Ground) -> Counter[str]:
    """Orders that make something, so far."""
    counted: Counter[str] = Counter()
    for name, end in (("nova", "/servers"), ("neutron", "/ports")):
        counted[name] = sum(method == "POST" and path.endswith(end) for method, path in ground.site.wires[name].orders)
    return counted


# --- time, people and mails --------------------------------------------------------------------------------------


def later(machine: Any, minutes: int) -> None:
    """So much time has passed for this row: a test does not wait for a quarter of an hour."""
    from datetime import timedelta

    from django.db.models import F
    from django.db.models.functions import Now

    from instances.models import Instance

    by = timedelta(minutes=minutes)
    Instance.objects.filter(id=machine).update(
        step_since=F("step_since") - by, wanted_at=F("wanted_at") - by, due_at=Now()
    )


def reachable(ground: Ground, *, roles: Iterable[str] = ()) -> Any:
    """A person with an e-mail address of their own."""
    person = ground.site.person()
    person.email = f"{secrets.token_hex(4)}@facility.example"
    person.roles = list(roles)
    person.save()
    return person


def mails_to(ground: Ground, person: Any) -> list[EmailMessage]:
    """What the mail server was given for this person."""
    return [mail for mail in ground.site.mail.mails if mail["To"] == person.email]


def told_once(ground: Ground, person: Any, key: str) -> None:
    """Waits until the outbox has done with this: then the person has had one mail, this one, and none is to come."""
    from visa.outbox.mail import message_id
    from visa.outbox.models import Outbox

    put = Outbox.objects.filter(key=key)
    until(lambda: put.exclude(sent_at=None).exists(), ground.allowed, f"{key} has left the outbox")
    told = [str(mail["Message-ID"]).strip() for mail in mails_to(ground, person)]
    assert told == [message_id(key)], f"{len(told)} mails of {key}: {told}; {put.get().said}"
    waiting = list(Outbox.objects.filter(payload__to=str(person.public_id), sent_at=None).values_list("key", flat=True))
    assert not waiting, f"more is to come: {waiting}"


def _long_launch(ground: Ground, person: Any) -> Any:
    """A launch whose end is worth a mail: by its row it was asked for longer ago than `notices.LONG_LAUNCH`."""
    from datetime import timedelta

    from django.db.models import F

    from instances.models import Instance
    from instances.notices import LONG_LAUNCH

    machine = ground.launch(by=person)
    before = F("created_at") - (LONG_LAUNCH + timedelta(minutes=1))
    assert Instance.objects.filter(id=machine, ready_at=None).update(created_at=before), "it was ready too soon"
    return machine


# --- killing -----------------------------------------------------------------------------------------------------


def _kill(ground: Ground, point: str, begin: Callable[[], object]) -> float:
    """Kills whoever drives what this begins, at this point. Returns when, on the monotonic clock."""
    with stopped_at(ground.site.platform.directory / "checkpoints", point) as stop:
        begin()
        pid = stop.pid(30 * ground.usual)
        stop.arrived.unlink()  # before its successor comes by
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: not alive(pid), 10, "the killed one is dead")
    return killed


def _killed(ground: Ground, point: str, begin: Callable[[], object]) -> float:
    """Whoever drives what this begins is killed at this point; what comes after is the others'."""
    killed = _kill(ground, point, begin)
    ground.site.start_drivers()  # a supervisor starts again what has died
    ground.sound()
    return time.monotonic() - killed


def _told_after(ground: Ground, point: str) -> float:
    """A launch whose driver is killed at this point: it gets ready all the same, and its owner hears of it once."""
    person = reachable(ground)
    killed = _kill(ground, point, lambda: _long_launch(ground, person))
    ground.site.desks.shut = False
    ground.site.start_drivers()
    ground.sound()
    told_once(ground, person, f"ready:{ground.accepted[-1]}")
    return time.monotonic() - killed


def alive(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of one."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as told:  # noqa: PTH123 - one line of the kernel's
            return told.read().rsplit(")", 1)[1].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def children(pid: int) -> int:
    """How many processes this one has started that are there."""
    number = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            number += place.read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()[1] == str(pid)
    return number


@contextlib.contextmanager
def frozen_hosts() -> Iterator[None]:
    """Nova's compute hosts stand still: what is ordered is accepted, and nothing is built."""
    pids = [int(path.read_text()) for path in (STATE / "run").glob("nova-compute*.pid")]
    assert pids, f"{STATE} tells of no compute host"
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@fault("F01", "a worker is killed after its claim, before any call", within=70)
def f01(ground: Ground) -> float:
    return _killed(ground, checkpoints.CLAIMED, ground.launch)


@fault("F02", "killed after the port was made, before its id is saved", within=70)
def f02(ground: Ground) -> float:
    return _killed(ground, checkpoints.PORT_CREATED, ground.launch)


@fault("F03", "killed after the intent, before the POST", within=70 + 120)
def f03(ground: Ground) -> float:
    return _killed(ground, checkpoints.INTENT_COMMITTED, ground.launch)


@fault("F04", "killed after Nova accepted, before the id is saved", within=75)
def f04(ground: Ground) -> float:
    before = made(ground)["nova"]
    took = _killed(ground, checkpoints.SERVER_ACCEPTED, ground.launch)
    assert made(ground)["nova"] == before + 1, "Nova was asked twice"
    return took


@fault("F05a", "killed after the id is saved", within=70)
def f05a(ground: Ground) -> float:
    return _told_after(ground, checkpoints.ID_SAVED)


@fault("F05b", "killed when the server was seen to run", within=70)
def f05b(ground: Ground) -> float:
    ground.site.desks.shut = True
    return _told_after(ground, checkpoints.ACTIVE_SEEN)


@fault("F05c", "killed when the desktop answered, before that is written or told", within=70)
def f05c(ground: Ground) -> float:
    return _told_after(ground, checkpoints.READY_SEEN)


@contextlib.contextmanager
def _mute_mail(ground: Ground) -> Iterator[socket.socket]:
    """In the mail server's place stands one that takes connections and says nothing."""
    mail = ground.site.mail
    mail.stop()
    try:
        with socket.create_server((LOOPBACK, mail.port)) as mute:
            mute.settimeout(10)
            yield mute
    finally:
        mail.start()


@fault("F05d", "whoever carries mails is killed between the outbox and the mail server", within=70)
def f05d(ground: Ground) -> float:
    from django.db.models import F

    from visa.outbox.models import Outbox
    from visa.outbox.sending import LEASE

    site, person = ground.site, reachable(ground)
    with _mute_mail(ground) as mute:
        machine = _long_launch(ground, person)
        put = Outbox.objects.filter(key=f"ready:{machine}", sent_at=None)
        until(lambda: put.filter(attempts=1).exists(), 30 * ground.usual, "somebody carries its mail", every=0.02)
        with mute.accept()[0]:
            for name in ("worker", "reconciler"):
                os.killpg(site.running(name).pid, signal.SIGKILL)  # a session of its own, with all its children
                site.running(name).kill()
            killed = time.monotonic()
    assert put.exclude(lease_until=None).exists(), "it was written down as sent, or as not sent"
    assert not mails_to(ground, person), "it was sent before the kill"
    # The outbox's lease is not one of the times that the site shortens: it is shortened here by the same factor.
    put.update(lease_until=F("lease_until") - LEASE * (1 - site.scale))
    site.start_drivers()
    ground.sound()
    told_once(ground, person, f"ready:{machine}")
    return time.monotonic() - killed


def _killed_at_end(ground: Ground, point: str) -> float:
    """A machine's end whose driver is killed at this point."""
    machine = ground.ready()
    return _killed(ground, point, lambda: ground.delete(machine))


@fault("F06a", "killed before a deletion is ordered", within=70)
def f06a(ground: Ground) -> float:
    return _killed_at_end(ground, checkpoints.DELETE_BEFORE)


@fault("F06b", "killed after a deletion was ordered", within=70)
def f06b(ground: Ground) -> float:
    return _killed_at_end(ground, checkpoints.DELETE_AFTER)


@fault("F06c", "killed before the allowance is given back", within=70)
def f06c(ground: Ground) -> float:
    return _killed_at_end(ground, checkpoints.QUOTA_BEFORE_RELEASE)


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


def _said(ground: Ground, since: int = 0) -> str:
    """What workers have written into their log, from this byte on."""
    with ground.site.running("worker").log.open("rb") as log:
        log.seek(since)
        return log.read().decode(errors="replace")


def _deliver(ground: Ground, machine: Any) -> None:
    """The machine's task is published five times, and workers have done with all of them."""
    from instances import tasks

    since = ground.site.running("worker").log.stat().st_size
    sent = [tasks.advance_instance.delay(str(machine)).id for _ in range(5)]

    def done() -> bool:
        said = _said(ground, since)
        return all(f"instances.advance[{one}] succeeded" in said for one in sent)

    until(done, 30, "workers have done with all five", every=0.3)


def _stands(ground: Ground, machine: Any) -> tuple[object, ...]:
    """What a needless look must leave as it is: row, story, allowance, and what was ordered of the cloud."""
    from instances.models import InstanceEvent
    from quotas.models import Reservation

    row = ground.site.row(machine)
    return (
        *(row.wanted, row.seen, row.state, row.server_id, row.port_id, row.attempt, row.builds_lost),
        *(row.failed, row.gone, row.reason_code, row.ready_at, row.deleted_at),
        InstanceEvent.objects.filter(instance_id=machine).count(),
        Reservation.objects.filter(holder=machine).count(),
        *(len(ground.site.wires[name].orders) for name in ("nova", "neutron")),
    )


def _delivered_again(ground: Ground, *, more: float = 0.0) -> float:
    """One machine's task is delivered five times: as it is launched, as it rests, when it is due again an hour later,
    and an hour after its end. Returns how long the launch took, which may take `more` seconds."""
    before = made(ground)
    machine = ground.launch()
    began = time.monotonic()
    _deliver(ground, machine)
    ground.sound(more=more)
    took = time.monotonic() - began
    asked = made(ground) - before
    assert asked == Counter(nova=1, neutron=1), f"made {asked}"
    stood = _stands(ground, machine)
    _deliver(ground, machine)
    assert _stands(ground, machine) == stood, f"at rest: {stood} became {_stands(ground, machine)}"
    fence = ground.site.row(machine).fence
    later(machine, 60)
    _deliver(ground, machine)

    def looked_at() -> bool:
        row = ground.site.row(machine)
        return row.fence > fence and row.lease_until is None

    until(looked_at, 30, "it was looked at")
    assert _stands(ground, machine) == stood, f"an hour later: {stood} became {_stands(ground, machine)}"
    ground.delete(machine)
    ground.sound(more=more)
    stood, fence = _stands(ground, machine), ground.site.row(machine).fence
    later(machine, 60)
    _deliver(ground, machine)
    assert _stands(ground, machine) == stood, f"after its end: {stood} became {_stands(ground, machine)}"
    assert ground.site.row(machine).fence == fence, "somebody took what is deleted"
    return took


@fault("F12", "a task is delivered five times at once, and again much later", within=5)
def f12(ground: Ground) -> float:
    took = _delivered_again(ground)
    # The same with nobody else there who could do the work; the timetable's ticks are all that drives a launch then.
    ground.site.stop_drivers("reconciler")
    _delivered_again(ground, more=TICKS)
    ground.site.start_drivers()
    return took


def _press(student: Student) -> None:
    """Presses the button until somebody answers, as a person does whose browser says that nobody is there."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        try:
            student.launch()
        except requests.RequestException:
            time.sleep(0.2)  # a person presses no faster
        else:
            return


def _read(student: Student, over: threading.Event, told: Counter[int]) -> None:
    """Reads the list of machines again and again; `told` counts the answers by their status, 0 where none came."""
    while not over.wait(0.05):
        try:
            told[student.session.get(f"{student.url}/api/v1/instances/", timeout=30).status_code] += 1
        except requests.RequestException:
            told[0] += 1


def _begun(work: Iterable[Callable[[], object]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for thread in threads:
        thread.start()
    return threads


@fault("F39", "every process is replaced by SIGTERM while people launch, read and end machines", within=70)
def f39(ground: Ground) -> float:
    from instances.models import Instance

    site = ground.site
    crowd = [Student(site) for _ in range(12)]
    over, told = threading.Event(), [Counter[int](), Counter[int]()]
    reading = [partial(_read, Student(site), over, one) for one in told]
    pressing = [partial(_press, one) for one in crowd]
    machines = [ground.ready() for _ in range(2)]
    for _ in range(4):
        ground.launch()
    for machine in machines:
        ground.delete(machine)
    until(lambda: any(site.row(one).lease_until for one in ground.accepted[-4:]), 20, "a lease is held")
    threads = _begun(reading)
    try:
        began = time.monotonic()
        threads += _begun(pressing[:4])  # while drivers go
        site.stop_drivers()
        held = Instance.objects.exclude(lease_until=None).count()
        assert held == 0, f"{held} leases outlive an orderly end"
        threads += _begun(pressing[4:8])  # while the web goes
        site.running("web").stop(30)
        threads += _begun(pressing[8:])  # while nobody is there
        site.platform.start_web()
        site.start_drivers()
        for thread in threads[len(reading) :]:
            thread.join(120)
    finally:
        over.set()
    for thread in threads:
        thread.join(60)
    for student in crowd:
        # A first answer may have been lost with the process that gave it; the second then says: it is there already.
        assert student.status in {200, 202}, f"a launch was answered {student.status or 'by nobody'}"
        row = Instance.objects.get(dataset__minted=student.doi)
        assert student.machine in {"", str(row.id)}, f"{student.machine} was accepted, and there is {row.id}"
        ground.accepted.append(row.id)
    ground.launches += len(crowd)
    read = sum(told, Counter[int]())
    assert read[200], f"nobody read: {read}"
    assert read[0], f"the web was never away: {read}"
    assert not set(read) - {0, 200}, f"lists were answered {read}"
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
    rested = ground.launch()
    began = time.monotonic()
    ground.sound()
    took = max(took, time.monotonic() - began)
    return max(took, _nudged_alone(ground, rested))


def _nudged_alone(ground: Ground, rested: Any) -> float:
    """Neither timetable nor reconciler: a worker hears of what people ask, and of nothing else, until ticks come again.

    Returns how long it then takes until all is well.
    """
    from django.db.models.functions import Now

    from instances.models import Instance
    from instances.pace import pace

    site, nova = ground.site, ground.site.wires["nova"]
    site.stop_drivers("beat", "reconciler")
    before, server = made(ground), site.row(rested).server_id
    machines = [ground.launch() for _ in range(3)]
    ground.delete(rested)
    rows = Instance.objects.filter(id__in=machines)
    until(lambda: rows.exclude(server_id=None).count() == 3, ground.allowed, "each launch was nudged to its first step")
    until(
        lambda: any(method == "DELETE" and path.endswith(server) for method, path in nova.orders),
        ground.allowed,
        "and so was the deletion",
    )
    # What has to be looked at next is nobody's; so long the timetable is away.
    until(
        lambda: rows.filter(due_at__lte=Now(), lease_until=None).count() == 3,
        3 * pace().making.total_seconds(),
        "all are due",
    )
    fences, calls = dict(rows.values_list("id", "fence")), len(nova.calls)
    since = site.running("worker").log.stat().st_size
    site.start_drivers("beat")
    until(lambda: _ticks(ground, since), 60, "the timetable is back")
    began = time.monotonic()
    until(lambda: all(row.fence > fences[row.id] for row in rows.all()), TICKS, "what was due is taken in two ticks")
    ground.sound()
    took = time.monotonic() - began
    # No storm: a tick each five seconds and none for those that were missed, a look or two at each, nothing made twice.
    ticks = _ticks(ground, since)
    assert ticks <= took / 5 + 2, f"{ticks} ticks in {took:.0f} s"
    for names in rows.values_list("id", "server_id"):
        looks = [path for _method, path in nova.calls[calls:] if any(str(name) in path for name in names)]
        assert len(looks) <= 6, f"{len(looks)} calls for one machine: {looks}"
    asked = made(ground) - before
    assert asked == Counter(nova=3, neutron=3), f"made {asked}"
    site.start_drivers()
    return took


def _ticks(ground: Ground, since: int) -> int:
    """How many ticks have come to workers."""
    return len(re.findall(r"instances\.advance_due\[[0-9a-f-]+\] received", _said(ground, since)))


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
    from instances.models import Instance
    from instances.pacing import PLACES_PER_ORDER
    from tests import factories
    from visa.audit.models import AuditEvent

    site = ground.site
    before = made(ground)["nova"]
    greedy, modest = Student(site), [Student(site) for _ in range(10)]
    flying = Instance.objects.filter(admitted_at__isnull=False, deleted_at=None)
    most = [0, 0]
    troubled: set[UUID] = set()

    def in_flight() -> int:
        """How many are being made; the most of them, and of those that are still to be ordered, are kept."""
        # An order that failed leaves its share to another, and comes back: such a one may be one too many.
        troubled.update(flying.filter(failures__gt=0).values_list("id", flat=True))
        now = flying.count(), flying.filter(had_server=False).exclude(id__in=troubled).count()
        most[:] = max(most[0], now[0]), max(most[1], now[1])
        return now[0]

    many: list[str] = []
    took: list[float] = []
    with frozen_hosts():  # a cloud that builds nothing for some seconds, so that a line forms
        for _ in range(site.creates + 3):
            greedy.doi = factories.make_dataset(doi=f"10.5555/fault-{secrets.token_hex(6)}").minted
            greedy.launch()
            many.append(_accepted(ground, greedy))
            took.append(greedy.took)
            in_flight()
        until(lambda: in_flight() == site.creates, 30, "all places are taken")
        threads = []
        for student in modest:
            threads += _begun([student.launch])
            time.sleep(0.2)  # people press within a few seconds, and not at one instant
        for thread in threads:
            thread.join(60)
        took += [student.took for student in modest]
        few = [_accepted(ground, student) for student in modest]
        for student in modest:
            student.launch()  # and once more, as people do who wait
            assert student.status == 200, f"a second launch of the same was answered {student.status}"
        late = quantile(took, 0.95)
        assert late < 1, f"of {len(took)} launches one in twenty took {late:.1f} s or more to be accepted"
        waiting = many[site.creates :]
        _lined_up(ground, few, waiting)
        assert in_flight() == site.creates
    began = time.monotonic()
    mine = Instance.objects.filter(id__in=[*many, *few])

    def all_made() -> bool:
        in_flight()
        return not mine.exclude(state="active").exists()

    until(all_made, ground.allowed, "all are made")
    assert most[0] <= site.creates, f"{most[0]} creates in flight"
    assert most[1] <= -(-site.creates // PLACES_PER_ORDER), f"{most[1]} were to be ordered at once"
    # When each was let in stands in the trail: who wants one machine did not wait for all of another's.
    let_in = AuditEvent.objects.filter(kind="instance", action="instance.state.building").order_by("id")
    turn = {one: let_in.filter(object_id=one).values_list("at", flat=True)[0] for one in [*waiting, *few]}
    assert max(turn[one] for one in few) <= min(turn[one] for one in waiting), "others waited for all of one person's"
    ground.sound()
    all_well = time.monotonic() - began
    asked = made(ground)["nova"] - before
    assert asked == len(many) + len(few), f"{asked} servers were ordered for {len(many) + len(few)} machines"
    return all_well


def _accepted(ground: Ground, student: Student) -> str:
    """The machine whose launch the web has accepted."""
    assert student.status == 202, f"a launch was answered {student.status or 'by nobody'}"
    ground.accepted.append(student.machine)
    ground.launches += 1
    return student.machine


def _lined_up(ground: Ground, first: list[str], then: list[str]) -> None:
    """All of these wait, their pages tell their true places, in this order, and how long it usually takes."""
    from instances import access

    views = [access.instance_for(ground.site.row(one).owner, UUID(one)) for one in [*first, *then]]
    assert {view.state for view in views} == {"waiting"}, [view.state for view in views]
    places = [view.place for view in views]
    assert set(places[: len(first)]) == set(range(1, len(first) + 1)), f"places {places}"
    assert places[len(first) :] == list(range(len(first) + 1, len(views) + 1)), f"places {places}"
    assert all(view.usual_seconds for view in views), "nobody is told how long it takes"
