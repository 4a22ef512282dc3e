"""Faults of what the platform itself stands on: Redis, PostgreSQL, disk, mail, the sign-in provider, clocks."""

import contextlib
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import psycopg
import redis
import requests

from deploy import demo_check, processes
from deploy.demo_platform import PYTHON
from tests.faults.matrix import Ground, fault
from tests.faults.site import Site, until
from tests.faults.workers import made


class Browser:
    """A person who is signed in, through the provider, and asks by HTTP as people's programs do."""

    def __init__(self, site: Site) -> None:
        self.visitor = demo_check.Visitor(site.platform.url)
        demo_check.sign_in(self.visitor, demo_check.PERSON, back_to="/")

    def ask(self) -> requests.Response:
        """Launches on a new dataset; the answer, whatever it is."""
        from tests import factories

        doi = factories.make_dataset(doi=f"10.5555/fault-{secrets.token_hex(6)}").minted
        return self.post(doi)

    def post(self, doi: str) -> requests.Response:
        headers = {
            "Referer": self.visitor.url,
            "Origin": self.visitor.url,
            "X-CSRFToken": self.visitor.session.cookies.get("visa-csrf") or "",
        }
        return self.visitor.session.post(
            f"{self.visitor.url}/api/v1/instances/", json={"doi": doi, "flavour": "small"}, headers=headers, timeout=30
        )


def _browser(ground: Ground) -> Browser:
    return Browser(ground.site)


def _accepted(ground: Ground, answer: requests.Response) -> Any:
    assert answer.status_code == 202, f"{answer.status_code} {answer.text[:200]}"
    ground.accepted.append(answer.json()["id"])
    return ground.accepted[-1]


def _told(ground: Ground) -> redis.Redis:
    """Redis itself."""
    return redis.Redis.from_url(ground.site.running("Redis").facts["url"])


@fault("F13", "Redis loses all it has, and dies and comes back empty", within=0)
def f13(ground: Ground) -> float:
    for _ in range(3):
        ground.launch()
    _told(ground).flushall()
    ground.launch()
    ground.site.running("Redis").kill()
    ground.launch()
    ground.site.platform.start_redis()
    began = time.monotonic()
    ground.sound()
    return time.monotonic() - began


@fault("F14", "Redis is away: launches are accepted, and machines are made all the same", within=0)
def f14(ground: Ground) -> float:
    browser = _browser(ground)
    ready = ground.ready()
    ground.site.running("Redis").stop()
    asked = time.monotonic()
    machine = _accepted(ground, browser.ask())
    took = time.monotonic() - asked
    assert took < 3, f"a launch took {took:.1f} s to be accepted"
    ground.site.until_state(machine, "active", seconds=60 + 20 * ground.usual)
    assert ground.site.row(ready).state == "active"
    time.sleep(60 * ground.site.scale)
    ground.launch()
    ground.site.platform.start_redis()
    began = time.monotonic()
    ground.sound()
    # Workers find it again by themselves.
    began_again = time.monotonic()
    ground.site.stop_drivers("reconciler")
    ground.launch()
    ground.sound()
    return max(time.monotonic() - began_again, began_again - began)


@fault("F15", "Redis is full: it refuses writes, then forgets what it holds", within=0)
def f15(ground: Ground) -> float:
    took = 0.0
    browser = _browser(ground)
    for policy in ("noeviction", "allkeys-lru"):
        there = _told(ground)
        there.config_set("maxmemory-policy", policy)
        there.config_set("maxmemory", "1mb")
        with contextlib.suppress(redis.ResponseError):
            for number in range(2000):
                there.set(f"filler-{number}", "x" * 2000)
        machine = _accepted(ground, browser.ask())
        ground.site.until_state(machine, "active", seconds=60 + 20 * ground.usual)
        there.config_set("maxmemory", "0")
        there.config_set("maxmemory-policy", "noeviction")
        there.flushall()
        ground.launch()
        began = time.monotonic()
        ground.sound()
        took = max(took, time.monotonic() - began)
    return took


@fault("F16", "PostgreSQL is torn down in mid-transaction and comes back", within=15)
def f16(ground: Ground) -> float:
    from django.db import connection

    browser = _browser(ground)
    for _ in range(3):
        ground.launch()
    time.sleep(1)
    server = ground.site.running("PostgreSQL")
    server.popen.send_signal(signal.SIGQUIT)  # "immediate": no transaction is ended in order
    server.popen.wait(30)
    connection.close()
    answer = browser.post("10.5555/away")
    assert answer.status_code == 503, answer.status_code
    time.sleep(3)
    ground.site.start_postgres()
    began = time.monotonic()
    # Workers are back when a new launch is made; what they held when it happened waits for its lease, and where Nova
    # was asked and nobody could write the answer down, that is found.
    ground.site.until_state(ground.launch(), "active", seconds=ground.allowed)
    took = time.monotonic() - began
    ground.sound(more=(60 + 120) * ground.site.scale)
    return took


def _superuser(ground: Ground) -> psycopg.Connection[Any]:
    facts = ground.site.running("PostgreSQL").facts
    return psycopg.connect(host=facts["host"], user=facts["user"], dbname=facts["name"], autocommit=True)


def _refused(ground: Ground, browser: Browser, doi: str) -> None:
    """A launch is refused in words, with when to try again; and nothing is asked of the cloud."""
    answer = browser.post(doi)
    assert answer.status_code == 503, f"{answer.status_code} {answer.text[:300]}"
    assert "minute" in answer.text or answer.headers.get("Retry-After"), answer.text[:300]


@fault("F18a", "PostgreSQL takes no writes", within=15)
def f18a(ground: Ground) -> float:
    from django.db import connection

    from tests import factories

    browser = _browser(ground)
    doi = factories.make_dataset(doi=f"10.5555/fault-{secrets.token_hex(6)}").minted
    ground.launch()
    with _superuser(ground) as database:
        database.execute("alter system set default_transaction_read_only = on")
        database.execute("select pg_reload_conf()")
        time.sleep(2)
        try:
            orders = made(ground)
            _refused(ground, browser, doi)
            read = browser.visitor.session.get(f"{browser.visitor.url}/api/v1/instances/", timeout=30)
            assert read.status_code == 200, read.status_code
            time.sleep(6)
            extra = made(ground) - orders
        finally:
            database.execute("set default_transaction_read_only = off")
            database.execute("alter system reset default_transaction_read_only")
            database.execute("select pg_reload_conf()")
    assert not extra, f"{extra} without a committed intent"
    connection.close()
    began = time.monotonic()
    ground.sound()
    _accepted(ground, browser.post(doi))
    ground.sound()
    return time.monotonic() - began


@fault("F18b", "PostgreSQL has no connection left", within=15)
def f18b(ground: Ground) -> float:
    from django.db import connection

    from tests import factories

    browser = _browser(ground)
    doi = factories.make_dataset(doi=f"10.5555/fault-{secrets.token_hex(6)}").minted
    ground.launch()
    connection.close()
    taken: list[psycopg.Connection[Any]] = []
    statuses: Counter[int] = Counter()
    try:
        end = time.monotonic() + 8
        while time.monotonic() < end:
            try:
                taken.append(_superuser(ground))
            except psycopg.OperationalError:
                # Now and then somebody else gives one back, and the web gets it: that is no fault.
                answer = browser.post(doi)
                statuses[answer.status_code] += 1
                if answer.status_code == 503:
                    assert answer.headers.get("Retry-After"), answer.headers
                elif answer.status_code == 202:
                    ground.accepted.append(answer.json()["id"])
    finally:
        for one in taken:
            one.close()
    assert len(taken) > 100, f"only {len(taken)} connections were there to be taken"
    assert statuses[503], statuses
    assert not set(statuses) - {200, 202, 503}, statuses
    began = time.monotonic()
    ground.sound()
    answer = browser.ask()
    _accepted(ground, answer)
    ground.sound()
    return time.monotonic() - began


@fault("F19", "the disk of database and logs is full", within=15)
def f19(ground: Ground) -> float:
    from django.db import connection

    from tests import factories

    browser = _browser(ground)
    doi = factories.make_dataset(doi=f"10.5555/fault-{secrets.token_hex(6)}").minted
    ground.launch()
    filler = ground.site.directory / "filler"
    assert os.path.ismount(filler.parent), "the site has no disk of its own"
    with filler.open("wb") as written, contextlib.suppress(OSError):
        while True:
            written.write(b"\0" * 65536)
            written.flush()
    statuses = set()
    for number in range(40):
        with contextlib.suppress(requests.RequestException):
            answer = browser.post(doi if number == 0 else f"10.5555/none-{number}")
            statuses.add(answer.status_code)
            if answer.status_code == 202:
                ground.accepted.append(answer.json()["id"])
        time.sleep(0.1)
    assert not statuses & {500}, statuses
    filler.unlink()
    connection.close()
    began = time.monotonic()
    ground.site.revive()
    until(lambda: browser.post("10.5555/none").status_code == 404, 60, "the site answers again")
    ground.launch()
    ground.sound()
    return time.monotonic() - began


@fault("F31", "the sign-in provider is away, and comes back with another key", within=10)
def f31(ground: Ground) -> float:
    browser = _browser(ground)
    provider = ground.site.running("The identity provider")
    provider.stop()
    assert browser.visitor.session.get(f"{browser.visitor.url}/api/v1/me/", timeout=30).status_code == 200
    machine = _accepted(ground, browser.ask())
    stranger = demo_check.Visitor(ground.site.platform.url)
    # With one provider there is no page of ours in between: the browser is sent on, or told that it cannot be.
    page = stranger.session.get(f"{stranger.url}/signin/?next=/", timeout=30, allow_redirects=False)
    assert page.status_code in {200, 302, 503}, page.status_code
    ground.site.platform.start_identity_provider()
    began = time.monotonic()
    until(lambda: _signs_in(ground), 30, "people can sign in again", every=0.5)
    took = time.monotonic() - began
    ground.site.running("The identity provider").popen.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    until(lambda: _signs_in(ground), 30, "people can sign in with the new key", every=0.5)
    ground.site.until_state(machine, "active", seconds=60 + 20 * ground.usual)
    ground.sound()
    return took


def _signs_in(ground: Ground) -> bool:
    try:
        Browser(ground.site)
    except (demo_check.Failed, requests.RequestException):
        return False
    return True


def _faketime() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "libfaketime is missing: apt-get install libfaketime"
    return found[0]


@contextlib.contextmanager
def _with_clocks(site: Site, **shifts: str) -> Iterator[None]:
    """These drivers run with a wrong clock; monotonic time stays what it is, as it does where a clock is set."""
    site.stop_drivers()
    commands = {
        "worker": ["-m", "celery", "-A", "visa", "worker", "--queues", "default,cloud", "--concurrency", "2"],
        "reconciler": ["manage.py", "run_reconciler"],
    }
    started = []
    for name, shift in shifts.items():
        wrong = {
            "LD_PRELOAD": str(_faketime()),
            "FAKETIME": shift,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "1",
        }
        log = site.platform.directory / "log" / f"{name}-wrong.log"
        started.append(
            processes.start(
                f"{name} with a wrong clock",
                [*PYTHON, *commands[name]],
                log=log,
                environment=site.platform.variables(name) | wrong,
            )
        )
    site.start_drivers("beat")
    try:
        yield
    finally:
        for one in started:
            one.stop(60)
        site.start_drivers()


@fault("F33", "one worker's clock is ten minutes fast, the other's ten minutes slow", within=30)
def f33(ground: Ground) -> float:
    machine = ground.ready()
    before = made(ground)
    with _with_clocks(ground.site, worker="+10m", reconciler="-10m"):
        machines = [ground.launch() for _ in range(4)]
        ground.delete(machine)
        began = time.monotonic()
        ground.sound()
        took = time.monotonic() - began
        asked = made(ground) - before
        assert asked["nova"] == len(machines), f"made {asked}"
        for one in machines:
            ground.delete(one)
        ground.sound()
    return took


@fault("F45", "the mail server is away, then takes a mail and says it did not", within=0)
def f45(ground: Ground) -> float:
    from datetime import timedelta

    from django.db.models import F

    from visa.outbox.models import Outbox

    site = ground.site
    person = site.person()
    person.email = f"{secrets.token_hex(4)}@facility.example"
    person.save()
    lost, other = ground.ready(by=person), ground.ready(by=person)
    site.mail.stop()
    site.sdk("user").compute.delete_server(site.row(lost).server_id)
    site.until_state(lost, "gone", seconds=120 * site.scale + 60)
    ground.sound(more=60)
    time.sleep(6)
    unsent = list(Outbox.objects.filter(sent_at=None))
    assert unsent, "nothing waits to be sent"
    site.mail.start()
    began = time.monotonic()
    # Its next try is minutes away by design; time is told to pass.
    Outbox.objects.filter(sent_at=None).update(due_at=F("due_at") - timedelta(hours=1))

    def mine() -> list[EmailMessage]:
        return [mail for mail in site.mail.mails if mail["To"] == person.email]

    until(lambda: len(mine()) == 1, 60, "the mail arrives")
    took = time.monotonic() - began
    site.mail.bad_days.append("took it, and went away before saying so")
    site.sdk("user").compute.delete_server(site.row(other).server_id)
    until(lambda: len(mine()) >= 2, 120 * site.scale + 60, "the second mail arrives")
    Outbox.objects.filter(sent_at=None).update(due_at=F("due_at") - timedelta(hours=1))
    until(lambda: not Outbox.objects.filter(sent_at=None).exists(), 90, "all is sent")
    ids = [mail["Message-ID"] for mail in mine()]
    assert len(set(ids)) == 2, f"{len(set(ids))} different mails for two events: {ids}"
    ground.sound(more=30)
    return took
