"""What of the site itself does not go is told to administrators: once, by whoever lives, and not again by the hour."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from celery.worker.request import Request
from django.core.management import call_command
from django.db import InternalError, OperationalError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from kombu import Message
from kombu.serialization import dumps
from kombu.utils.uuid import uuid
from pytest_django import Settings
from redis import Redis

from deploy import processes
from deploy.processes import Running
from instances import actions, doctor, notices, releases, sweeps, tasks
from instances.cloud.memory import MemoryCloud
from instances.lifecycle import State
from instances.models import Image, Release, Watch
from instances.sweeps import Part
from quotas.models import Allowance, Flavour, Limit, Reservation
from tests import factories, machines
from tests.visa.outbox.conftest import tell_of
from tests.visa.outbox.sink import Sink, sink
from visa import celery_app
from visa.accounts.models import User
from visa.outbox import refusals, sending
from visa.outbox.models import Outbox

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
DRIVERS = (Part.TICK, Part.RECONCILER)


#: what the process of each driver remembers of its turns
_remembered: dict[Part, notices._Turns] = {}


@pytest.fixture(autouse=True)
def _processes_that_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have taken no turn yet, and were refused nothing."""
    monkeypatch.setattr(notices, "_turns", notices._Turns())
    monkeypatch.setattr(refusals, "_heard", refusals._Heard())
    restart()


def restart() -> None:
    """Processes of both drivers begin."""
    _remembered.update({driver: notices._Turns() for driver in DRIVERS})


@pytest.fixture
def server(settings: Settings) -> Iterator[Sink]:
    with sink() as running:
        tell_of(running.port, settings)
        yield running


@pytest.fixture(autouse=True)
def _somebody_to_tell(administrator: User) -> None:
    administrator.email = "admin@facility.example"
    administrator.save()


def pass_by(time_: timedelta) -> None:
    """So much time goes by, for the processes and for all that is written down."""
    Watch.objects.update(**{name: F(name) - time_ for name in ("tick_at", "reconciler_at", "redis_silent_since")})
    Outbox.objects.update(made_at=F("made_at") - time_)
    seconds = time_.total_seconds()
    for turns in _remembered.values():
        turns.began -= seconds
        turns.last -= seconds
    heard = refusals._heard.refusal
    if heard is not None:
        refusals._heard.refusal = replace(heard, began=heard.began - seconds, last=heard.last - seconds)


def turn(driver: Part) -> None:
    """A turn of this driver's process."""
    notices._turns = _remembered[driver]
    notices.turn(driver)


def turns(minutes: float, *drivers: Part) -> None:
    """These take their turns for so long, each twenty seconds."""
    for _ in range(round(minutes * 3)):
        for driver in drivers:
            turn(driver)
        pass_by(timedelta(seconds=20))


def hours_later(driver: Part) -> None:
    """This driver takes its turns for hours, in which all is as it is: since when it is so stays what it is."""
    for _ in range(5):
        Outbox.objects.update(made_at=F("made_at") - timedelta(hours=2))
        turn(driver)
        _remembered[driver].last -= 20


def told() -> list[str]:
    """What was put for administrators, as it is known again."""
    return list(Outbox.objects.filter(kind=notices.ADMINISTRATORS).order_by("id").values_list("key", flat=True))


def subjects(server: Sink) -> list[str]:
    while sending.send_due():
        pass
    return [str(one["Subject"]).strip() for one in server.mails]


def texts(server: Sink) -> str:
    bodies = [one.get_body(("plain",)) for one in server.mails]
    return " ".join(" ".join(str(body.get_content()).split()) for body in bodies if body)


# --- the last tick ------------------------------------------------------------------------------------------------


def test_drivers_that_take_their_turns_are_missed_by_nobody() -> None:
    turns(15, *DRIVERS)

    assert told() == []
    assert sweeps.alarms() == ()


@pytest.mark.parametrize(
    ("lives", "missing", "subject"),
    [
        (Part.RECONCILER, Part.TICK, "The timetable has stopped"),
        (Part.TICK, Part.RECONCILER, "The reconciler has stopped"),
    ],
)
def test_who_lives_tells_once_that_the_other_takes_no_turn(
    server: Sink, lives: Part, missing: Part, subject: str
) -> None:
    turns(5, *DRIVERS)
    turns(5 / 3, lives)
    assert told() == []

    hours_later(lives)

    assert subjects(server) == [subject]
    assert "It has been so since 20" in texts(server)
    assert [one.part for one in sweeps.alarms()] == [missing]


def test_who_is_back_ends_it_without_a_word_and_the_next_time_is_told_again(server: Sink) -> None:
    turns(5, *DRIVERS)
    turns(10, Part.RECONCILER)
    turns(70, *DRIVERS)
    assert len(told()) == 1
    assert sweeps.alarms() == ()

    turns(10, Part.RECONCILER)

    assert len(told()) == 2


def test_who_comes_and_goes_is_told_of_once_an_hour(server: Sink) -> None:
    turns(5, *DRIVERS)
    for _ in range(24):
        turns(1, *DRIVERS)
        turns(4, Part.RECONCILER)

    assert len(told()) == 2


def test_what_is_back_before_the_mail_leaves_is_not_told(server: Sink) -> None:
    turns(5, *DRIVERS)
    turns(5, Part.RECONCILER)
    assert len(told()) == 1

    turns(1, *DRIVERS)

    assert subjects(server) == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_that_never_took_a_turn_is_not_missed(driver: Part) -> None:
    turns(30, driver)

    assert told() == []


def test_who_begins_after_all_were_stopped_gives_the_others_their_time() -> None:
    """As in an upgrade: what is old then tells of nothing."""
    turns(5, *DRIVERS)
    pass_by(timedelta(hours=2))
    restart()

    turns(2, Part.RECONCILER)
    assert told() == []
    turns(5, *DRIVERS)
    assert told() == []

    # a process that stood still itself has seen nobody missing
    pass_by(timedelta(hours=2))
    turns(2, Part.RECONCILER)
    assert told() == []
    turns(1 / 3, Part.RECONCILER)
    assert len(told()) == 1


def test_a_turn_costs_two_questions_and_the_next_seconds_none() -> None:
    turns(5, *DRIVERS)
    releases.newer()

    with CaptureQueriesContext(connection) as queries:
        for _ in range(50):
            turn(Part.RECONCILER)

    assert [one["sql"].split()[0] for one in queries] == ["UPDATE", "SELECT"]


def test_code_that_a_migration_outran_takes_no_turn() -> None:
    releases.newer()
    Release.objects.create(number=releases.KNOWN + 1, why="machines have a colour", at=Now())
    releases.newer()
    try:
        notices.turn(Part.RECONCILER)
        assert not Watch.objects.exists()
    finally:
        Release.objects.filter(number=releases.KNOWN + 1).delete()
        releases.newer()

    notices.turn(Part.RECONCILER)
    assert Watch.objects.get().reconciler_at is not None


def taken(name: str, expires: datetime) -> Request:
    """A message as a worker takes it from its queue."""
    asked = celery_app.amqp.as_task_v2(uuid(), name, (), {}, expires=expires)
    kind, encoding, body = dumps(asked.body, "json")
    message = Message(
        body, headers=asked.headers, properties=asked.properties, content_type=kind, content_encoding=encoding
    )
    return Request(message, app=celery_app, task=celery_app.tasks[name])


@pytest.mark.django_db(transaction=True)
def test_a_tick_that_waited_behind_a_herd_until_it_was_too_late_is_a_tick() -> None:
    now = datetime.now(UTC)
    assert not taken("instances.advance_due", now + MINUTE).revoked()
    assert taken("instances.sweep", now - MINUTE).revoked()
    assert not Watch.objects.exists()

    assert taken("instances.advance_due", now - MINUTE).revoked()

    assert Watch.objects.get().tick_at is not None


def test_a_tick_notes_itself(settings: Settings) -> None:
    tasks.advance_due()

    assert Watch.objects.get().tick_at is not None


def test_the_report_names_what_is_silent() -> None:
    turns(5, *DRIVERS)
    turns(5, Part.RECONCILER)
    out = StringIO()

    with pytest.raises(SystemExit):
        call_command("reconcile_instances", stdout=out)

    assert [one.part for one in sweeps.report().alarms] == [Part.TICK]
    assert "No tick of the timetable reaches a worker. (since 20" in out.getvalue()


# --- Redis --------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis(tmp_path: Path, settings: Settings) -> Iterator[Running]:
    """A Redis of the test's own, which the site uses."""
    tmp_path.chmod(0o711)
    with processes.start_redis(tmp_path / "redis", log=tmp_path / "redis.log") as running:
        settings.REDIS_URL = running.facts["url"]
        yield running


def fill(redis: Running) -> None:
    """It has no memory left, and forgets nothing."""
    there = Redis.from_url(redis.facts["url"])
    there.config_set("maxmemory", "1")
    there.close()


def empty(redis: Running) -> None:
    there = Redis.from_url(redis.facts["url"])
    there.config_set("maxmemory", "0")
    there.close()


def asked_turns(seconds: int) -> None:
    """The reconciler asks Redis and takes its turn, each twenty seconds."""
    for _ in range(seconds // 20):
        refusals._heard.redis = refusals.ask()
        turns(1 / 3, Part.RECONCILER)


def test_a_redis_that_stores_nothing_and_one_that_is_away_are_told_apart_from_one_that_is_well(redis: Running) -> None:
    assert refusals.ask() == ""
    fill(redis)
    assert refusals.ask().startswith("OutOfMemoryError")
    assert "takes nothing (OutOfMemoryError" in doctor._redis("Redis").sentence
    empty(redis)
    assert doctor._redis("Redis").ok
    assert refusals.ask() == ""
    redis.stop()
    assert refusals.ask().startswith("ConnectionError")


def test_a_redis_that_hangs_is_given_up_in_seconds(redis: Running) -> None:
    os.kill(redis.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        said = refusals.ask()
    finally:
        os.kill(redis.pid, signal.SIGCONT)

    assert said.startswith("TimeoutError")
    assert time.monotonic() - began < 3 * refusals.PATIENCE


def test_a_redis_that_takes_nothing_is_told_of_once_until_it_was_well(server: Sink, redis: Running) -> None:
    asked_turns(120)
    fill(redis)
    asked_turns(40)
    assert told() == []

    hours_later(Part.RECONCILER)
    assert subjects(server) == ["Redis takes nothing"]
    assert "Redis is away, or stores nothing." in texts(server)

    empty(redis)
    asked_turns(20)
    assert sweeps.alarms() == ()
    asked_turns(3600)
    redis.stop()
    asked_turns(1200)
    assert subjects(server) == ["Redis takes nothing"] * 2


def test_ticks_that_do_not_come_because_redis_is_away_are_no_fault_of_their_own(redis: Running) -> None:
    turns(5, *DRIVERS)
    redis.stop()
    asked_turns(600)
    assert [one.part for one in sweeps.alarms()] == [Part.TICK, Part.REDIS]
    assert [one.split(":")[1] for one in told()] == ["redis"]

    refusals._heard.redis = ""  # it is back
    turns(5 / 3, Part.RECONCILER)
    assert [one.split(":")[1] for one in told()] == ["redis"]
    turns(1, Part.RECONCILER)
    assert [one.split(":")[1] for one in told()] == ["redis", "tick"]


def test_a_redis_that_misses_a_moment_is_not_told_of(redis: Running) -> None:
    for _ in range(10):
        fill(redis)
        asked_turns(20)
        empty(redis)
        asked_turns(20)

    assert told() == []


def test_a_tick_says_that_redis_takes_what_is_written() -> None:
    """Where the reconciler that missed it is gone, nobody else would."""
    turns(1, *DRIVERS)
    Watch.objects.update(redis_silent_since=Now() - MINUTE)
    assert [one.part for one in sweeps.alarms()] == [Part.REDIS]

    turns(1 / 3, Part.TICK)

    assert sweeps.alarms() == ()


def test_the_thread_that_asks_says_in_the_log_what_redis_says_and_when_it_is_well(
    redis: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    stopping = threading.Event()
    asking = threading.Thread(target=refusals.keep_asking, args=(stopping, timedelta(seconds=0.05)))
    asking.start()
    try:
        processes.wait_until(lambda: refusals.redis_says() == "", redis)
        fill(redis)
        processes.wait_until(lambda: bool(refusals.redis_says()), redis)
        time.sleep(0.3)  # it is asked some more times
        empty(redis)
        processes.wait_until(lambda: refusals.redis_says() == "", redis)
    finally:
        stopping.set()
        asking.join(20)

    said = [one.getMessage() for one in caplog.records if one.name == refusals.__name__]
    assert [one.partition(":")[0] for one in said] == ["Redis takes nothing", "Redis takes what is written again"]


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


def refuse(state: str = refusals.DISK_FULL) -> None:
    """The server refuses a statement as it does where its disk is full."""
    with pytest.raises((OperationalError, InternalError)), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '{state}'; END $$")


def critical(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.CRITICAL]


def test_a_full_disk_is_in_the_log_at_once_and_told_when_it_is_over(
    server: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        refuse()
        turns(1 / 3, Part.RECONCILER)

    assert critical(caplog) == ["the database takes nothing: there is no room on its disk"]
    assert told() == []

    turns(10, Part.RECONCILER)

    assert subjects(server) == ["The database took nothing for a while"]
    assert "There was no room on its disk." in texts(server)
    assert refusals.over(timedelta(0)) is None


def test_other_errors_are_no_refusal(caplog: pytest.LogCaptureFixture) -> None:
    refuse("40001")
    turns(2, Part.RECONCILER)

    assert (critical(caplog), told()) == ([], [])


def test_what_several_processes_were_refused_is_told_by_one() -> None:
    refuse()
    other = refusals._heard.refusal
    turns(2, Part.RECONCILER)
    assert len(told()) == 1

    # the same in another process, whose own turn comes later
    refusals._heard.refusal = replace(other, began=other.began - 120, last=other.last - 120) if other else None
    turns(2, Part.TICK)

    assert len(told()) == 1
    assert refusals.over(timedelta(0)) is None


def test_a_disk_that_fills_again_and_again_is_told_of_once_an_hour(server: Sink) -> None:
    for _ in range(24):
        refuse()
        turns(5, Part.RECONCILER)

    assert len(told()) == 2
    last = Outbox.objects.filter(kind=notices.ADMINISTRATORS).latest("id")
    _state, began, ended = str(last.payload["about"]).split("/")
    # what was refused while the hour lasted is told with it
    assert datetime.fromisoformat(ended) - datetime.fromisoformat(began) > 50 * MINUTE


@pytest.mark.django_db(transaction=True)
def test_a_read_only_database_is_told_of_by_the_driver_whose_turn_it_refused(
    server: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    turns(1, Part.RECONCILER)
    with connection.cursor() as cursor:
        cursor.execute("set default_transaction_read_only = on")
        try:
            for _ in range(3):
                _remembered[Part.RECONCILER].last -= 20
                with pytest.raises(InternalError):
                    turn(Part.RECONCILER)
        finally:
            cursor.execute("set default_transaction_read_only = off")
    turns(2, Part.RECONCILER)

    assert critical(caplog) == ["the database takes nothing: it is read-only"]
    assert subjects(server) == ["The database took nothing for a while"]
    assert "It was read-only." in texts(server)


# --- allowances ---------------------------------------------------------------------------------------------------


@pytest.fixture
def offers(flavour: Flavour, image: Image, limit: Limit) -> None:
    Limit.objects.update(machines=100, cores=1000, memory_mib=10**7)


def launch(owner: User) -> None:
    actions.launch(actions.Launch(doi=factories.make_dataset().minted), by=owner)


def test_a_counter_that_is_wrong_is_told_once_however_much_is_launched(server: Sink, owner: User, offers: None) -> None:
    launch(owner)
    tasks.compare_allowances()
    assert told() == []

    Allowance.objects.update(cores=F("cores") + 3)
    for _ in range(4):
        tasks.compare_allowances()
        launch(owner)
        pass_by(timedelta(hours=2))

    assert subjects(server) == ["Allowances do not add up"]
    cores = Reservation.objects.order_by("id")[0].cores
    assert f"{owner.public_id} is counted" in texts(server)
    assert f"{5 * cores + 3} cores and has reserved {5 * cores} cores" in texts(server)


def test_another_difference_is_told_with_the_first_but_not_at_once(owner: User, member: User, offers: None) -> None:
    launch(owner)
    launch(member)
    Allowance.objects.filter(person=str(owner.public_id)).update(cores=F("cores") + 3)
    tasks.compare_allowances()
    Allowance.objects.filter(person=str(member.public_id)).update(machines=F("machines") + 1)
    tasks.compare_allowances()
    assert len(told()) == 1

    pass_by(timedelta(hours=2))
    for _ in range(3):
        tasks.compare_allowances()

    assert len(told()) == 2


def test_what_is_reserved_for_no_machine_is_told(server: Sink, owner: User, offers: None, cloud: MemoryCloud) -> None:
    machine = machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud)
    held = Reservation.objects.get()
    actions.delete(machine, by=owner)
    machines.settle(cloud, machine)
    Reservation.objects.create(holder=held.holder, person=held.person, machines=1, cores=0, memory_mib=0, gpus=0)
    Allowance.objects.update(machines=1)

    tasks.compare_allowances()

    assert subjects(server) == ["Allowances do not add up"]
    assert f"has something reserved for {machine}, which is no machine" in texts(server)


def test_a_counter_that_was_put_right_before_the_mail_leaves_is_not_told(
    server: Sink, owner: User, offers: None
) -> None:
    launch(owner)
    Allowance.objects.update(cores=F("cores") + 3)
    tasks.compare_allowances()
    assert len(told()) == 1

    Allowance.objects.update(cores=F("cores") - 3)

    assert subjects(server) == []


def test_of_many_that_are_wrong_a_mail_names_a_few(server: Sink) -> None:
    Allowance.objects.bulk_create([Allowance(person=f"person-{number}", machines=1) for number in range(9)])

    tasks.compare_allowances()

    assert subjects(server) == ["Allowances do not add up"]
    assert texts(server).count("is counted 1 machine and has reserved 0 machines.") == notices.NAMED
    assert "And 4 more." in texts(server)
