"""Faults of the platform's neighbours: the sign-in provider, clocks (the database's among them), the mail server."""

import contextlib
import json
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import psycopg
import requests
from typing_extensions import override

from deploy import demo_check, processes
from deploy.demo_platform import PYTHON
from deploy.processes import LOOPBACK, Running
from tests.faults.matrix import Ground, fault
from tests.faults.site import Site, until
from tests.faults.stores import Browser, accepted, superuser
from tests.faults.workers import frozen_hosts, made, mails_to, reachable
from tests.wire import Fault, Wire

PROVIDER = "The identity provider"
#: seconds for which the database's clock jumps ahead, at the usual pace: longer than a lease and the quiet period
JUMP = 600


# --- sign-in -----------------------------------------------------------------------------------------------------


def _signs_in(ground: Ground) -> bool:
    try:
        Browser(ground.site)
    except (demo_check.Failed, requests.RequestException):
        return False
    return True


def _goes_on(ground: Ground, browser: Browser) -> Any:
    """Who is signed in stays signed in, and launches."""
    browser.read("/api/v1/me/")
    return accepted(ground, browser.ask())


def _turn_over(provider: Running, address: str) -> None:
    """Has the provider sign with a new key; returns when its key set shows it."""
    keys = demo_check.Visitor(address)
    before = keys.get("/jwks").content
    provider.popen.send_signal(signal.SIGHUP)
    until(lambda: keys.get("/jwks").content != before, 10, "the provider shows a new key")


def _said_to_be_away(ground: Ground) -> bool:
    """Whether a stranger who would sign in is told that the provider is away; until that is known they are sent there.

    With one provider there is no page in between: the first address leads on to where this site is left.
    """
    stranger = demo_check.Visitor(ground.site.platform.url)
    door = stranger.session.get(f"{stranger.url}/signin/?next=/", timeout=30, allow_redirects=False)
    assert door.status_code == 302, f"the sign-in page answered {door.status_code}"
    page = stranger.session.get(urljoin(stranger.url, door.headers["Location"]), timeout=30, allow_redirects=False)
    if page.status_code == 302:
        leads = page.headers["Location"]
        assert leads.startswith(f"{ground.site.platform.issuer}/"), f"a stranger is sent to {leads}"
        return False
    assert page.status_code == 503, f"the way to the provider answered {page.status_code}"
    for words in ("does not answer as it should", "Try again in a minute", "Whoever is signed in stays signed in"):
        assert words in page.text, f"the page does not say: {words}"
    return True


@fault("F31", "the sign-in provider is away, and comes back with another key", within=10)
def f31(ground: Ground) -> float:
    from visa.accounts.providers import THERE

    browser = Browser(ground.site)
    ground.site.running(PROVIDER).stop()
    machine = _goes_on(ground, browser)
    # It answered a moment ago, and is believed to be there for so long.
    until(lambda: _said_to_be_away(ground), THERE + 5, "the sign-in page says that the provider is away", every=0.5)
    browser.read("/api/v1/me/")
    ground.site.platform.start_identity_provider()
    began = time.monotonic()
    until(lambda: _signs_in(ground), 10, "people can sign in again", every=0.5)
    took = time.monotonic() - began
    _turn_over(ground.site.running(PROVIDER), ground.site.platform.issuer)
    until(lambda: _signs_in(ground), 10, "people can sign in with the new key", every=0.5)
    browser.read("/api/v1/me/")
    ground.site.until_state(machine, "active", seconds=60 + 20 * ground.usual)
    ground.sound()
    return took


class Front(Wire):
    """A wire at a port of one's own choice."""

    def __init__(self, host: str, port: int, *, at: int) -> None:
        self._at = at
        super().__init__(host, port)

    @override
    def _listen(self, address: tuple[str, int]) -> None:
        super()._listen((address[0], self._at))

    @property
    def key_sets(self) -> int:
        """How often the key set was asked for."""
        return sum(path == "/jwks" for _method, path in list(self.calls))


@contextlib.contextmanager
def _wired_provider(site: Site) -> Iterator[tuple[Front, Running, str]]:
    """The provider behind a wire, by its usual name: the wire, the provider, and its own address past the wire.

    It begins anew, with another key, and so does the usual one that comes back at the end.
    """
    platform, port = site.platform, processes.free_port()
    told = json.loads((platform.directory / "identity" / "config.json").read_text(encoding="utf-8"))
    told |= {"port": port, "issuer": platform.issuer}
    platform.running[PROVIDER].stop()
    directory, log = platform.directory / "identity-wired", platform.directory / "log" / "identity-wired.log"
    try:
        with (
            processes.start_identity_provider(told, directory=directory, log=log) as provider,
            Front(LOOPBACK, port, at=platform.keys.identity_port) as wire,
        ):
            yield wire, provider, f"http://{LOOPBACK}:{port}"
    finally:
        platform.start_identity_provider()


def _reply_refused(ground: Ground) -> None:
    """A stranger comes back from the provider with a reply signed by a key nobody shows: a page says no, in words."""
    stranger = demo_check.Visitor(ground.site.platform.url)
    chooser = stranger.get("/signin/?next=%2F")
    people = demo_check.form_of(
        chooser, lambda form: any(name == "person" for name, _ in form.buttons), "choose a person"
    )
    page = stranger.send(chooser, people, expect=403, person=demo_check.PERSON)
    for words in ("could not be trusted", "Start again from this site"):
        assert words in page.text, f"the page does not say: {words}"
    assert stranger.session.get(f"{stranger.url}/api/v1/me/", timeout=30).status_code == 401, "somebody is signed in"


@fault("F31b", "the provider signs with a key that its key set, empty or old, does not show", within=10)
def f31b(ground: Ground) -> float:
    from visa.accounts.providers import FORCED

    browser = Browser(ground.site)
    machines = []
    with _wired_provider(ground.site) as (wire, provider, address):
        until(lambda: _signs_in(ground), 10, "people sign in through the wire", every=0.5)
        old = demo_check.Visitor(address).get("/jwks").content
        _turn_over(provider, address)
        for shown in (b'{"keys": []}', old):
            rule = wire.spoil(Fault.STATUS, method="GET", path=r"^/jwks$", status=200, body=shown)
            began = time.monotonic()

            def asked_for(hit: Any = rule) -> bool:
                _reply_refused(ground)
                return bool(hit.hits)

            until(asked_for, FORCED + 5, "the key set was asked for", every=0.5)
            for _ in range(5):
                _reply_refused(ground)
            most = 1 + (time.monotonic() - began) / FORCED
            assert rule.hits <= most, f"the key set was asked for {rule.hits} times, not {most:.0f}"
            machines.append(_goes_on(ground, browser))
            wire.mend()
        asked = wire.key_sets
        began = time.monotonic()
        until(lambda: _signs_in(ground), 10, "people can sign in with the new key", every=0.5)
        took = time.monotonic() - began
        for _ in range(3):
            Browser(ground.site)
        assert wire.key_sets == asked + 1, f"the new key was fetched {wire.key_sets - asked} times"
        browser.read("/api/v1/me/")
    until(lambda: _signs_in(ground), 10, "people sign in without the wire", every=0.5)
    for machine in machines:
        ground.site.until_state(machine, "active", seconds=60 + 20 * ground.usual)
    ground.sound()
    return took


# --- clocks ------------------------------------------------------------------------------------------------------


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


class Clock:
    """The database's clock: this host's, and so much ahead of it. What reads it reads this file each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by = 0.0
        #: on the monotonic clock: when the database's clock is where it was before it was set back
        self.caught_up = 0.0
        self.set(0)

    def set(self, by: float) -> None:
        """Jumps to so many seconds ahead."""
        fresh = self._path.with_suffix(".fresh")
        fresh.write_text(f"+{by:.0f}\n", encoding="ascii")
        fresh.chmod(0o644)
        fresh.replace(self._path)  # nobody reads half of it
        if by < self._by:
            self.caught_up = time.monotonic() + self._by - by
        self._by = by

    def variables(self) -> list[str]:
        """What makes a program read it; monotonic time stays what it is, as it does where a clock is set."""
        return [
            f"LD_PRELOAD={_faketime()}",
            f"FAKETIME_TIMESTAMP_FILE={self._path}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "FAKETIME_NO_CACHE=1",
            "NO_FAKE_STAT=1",
        ]


def _ahead(site: Site) -> float:
    """How many seconds the database's clock is ahead of this host's."""
    with superuser(site) as database:
        told = database.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    assert told is not None
    return float(told[0]) - time.time()


def _restart_postgres(site: Site, clock: Clock | None = None) -> None:
    """In order, and while nobody drives; with a clock it is what the database reads."""
    from django.db import connection

    site.stop_drivers()
    before, place = site.running("PostgreSQL"), site.platform.directory / "postgres"
    before.stop(60)
    connection.close()
    if clock is None:
        site.start_postgres()
    else:
        # The very command it ran with, as it has written it down itself. Only the server is to read the clock: `env`
        # comes after the change of the user, to whom what the library shares with itself must belong.
        command = shlex.split((place / "cluster" / "postmaster.opts").read_text(encoding="utf-8"))
        process = processes.start(
            "PostgreSQL",
            ["env", *clock.variables(), *command],
            log=before.log,
            directory=place,
            servant=processes._as_servant(place, Path(command[0]).parent),
            stop_signal=before.stop_signal,
        )
        process.facts.update(before.facts)
        site.platform.running["PostgreSQL"] = process
        processes.wait_until(lambda: _takes_sessions(site), process)
    site.start_drivers()


def _takes_sessions(site: Site) -> bool:
    try:
        superuser(site).close()
    except psycopg.OperationalError:
        return False
    return True


@contextlib.contextmanager
def _database_clock(ground: Ground) -> Iterator[Clock]:
    """PostgreSQL reads a clock that can be set."""
    from instances.pace import pace

    site = ground.site
    clock = Clock(site.directory / "clock")
    try:
        _restart_postgres(site, clock)
        yield clock
    finally:
        clock.set(0)
        # What was written while it was ahead is due by then: nothing of this fault reaches into the next.
        longest = max(pace().sweep, pace().budget, pace().making).total_seconds()
        if clock.caught_up:
            time.sleep(max(0.0, clock.caught_up + longest - time.monotonic()))
        _restart_postgres(site)


def _jump(ground: Ground, clock: Clock, to: float) -> None:
    clock.set(to)
    ahead = _ahead(ground.site)
    assert abs(ahead - to) < 5, f"the database's clock is {ahead:.0f} s ahead and should be {to:.0f}"


def _ready(ground: Ground, machines: list[Any], seconds: float) -> float:
    """How long it takes until all of these are ready; all the while nobody has two servers that run."""
    began = time.monotonic()

    def all_ready() -> bool:
        running = Counter(one.metadata["visa_instance"] for one in ground.site.servers() if one.status == "ACTIVE")
        doubled = [one for one, number in running.items() if number > 1]
        assert not doubled, f"two servers run for {doubled}"
        return all(ground.site.row(one).state == "active" for one in machines)

    until(
        all_ready, seconds, lambda: f"ready: {[f'{ground.site.row(one).state} {one}' for one in machines]}", every=0.3
    )
    return time.monotonic() - began


@fault("F33b", "the database's clock jumps ahead by ten minutes in mid-provision, and back again", within=70)
def f33b(ground: Ground) -> float:
    from django.db.models.functions import Now

    from instances.models import Instance

    site, jump, browser = ground.site, JUMP * ground.site.scale, Browser(ground.site)
    settled = ground.ready()
    server, before = site.row(settled).server_id, made(ground)["nova"]
    with _database_clock(ground) as clock:
        # Ahead: all leases end at once, and no quiet period protects what is under way; fence and port do.
        first = [ground.launch() for _ in range(4)]
        begun = Instance.objects.filter(id__in=first, intent_at__isnull=False, server_id=None)
        until(begun.exists, 60, "a create is under way", every=0.02)
        ordered = [one for one in first if site.row(one).server_id]
        _jump(ground, clock, jump)
        browser.read("/api/v1/instances/")
        took = _ready(ground, first, ground.allowed)
        # Where a create was under way, a second may have been ordered, as in F08b: none of the two becomes a machine,
        # one that is made after them does. What they leave is put away within a sweep.
        ground.sound(more=60 * site.scale)
        for one in first:
            most = 1 if one in ordered else 3
            assert ground.creates(one) <= most, f"{one} was ordered {ground.creates(one)} times"
        # Back: what was written down to be looked at later is due only when the clock is there again.
        with frozen_hosts():
            late = [ground.launch() for _ in range(2)]
            rows = Instance.objects.filter(id__in=late)
            until(
                lambda: rows.filter(server_id__isnull=False, lease_until=None).count() == 2,
                ground.allowed,
                "two are being built",
            )
            _jump(ground, clock, 0)
            set_back = time.monotonic()
            # Where the next look is written down in the database's time it lies ahead now; nobody may wait longer.
            far = [due - now for due, now in rows.values_list("due_at", Now())]
            assert max(far).total_seconds() < jump + 60, f"the next look is {max(far)} away"
        browser.read("/api/v1/instances/")
        fresh = accepted(ground, browser.ask())
        # What people ask for is due at once: a new launch, and the end of one that waits.
        ground.delete(late[0])
        took = max(took, _ready(ground, [fresh], ground.allowed))
        site.until_state(late[0], "deleted", seconds=ground.allowed)
        _ready(ground, late[1:], set_back + jump + ground.allowed - time.monotonic())
        ground.sound(more=jump)
        for one in (*late, fresh):
            assert ground.creates(one) == 1, f"{one} was ordered {ground.creates(one)} times"
        asked, intents = made(ground)["nova"] - before, sum(ground.creates(one) for one in (*first, *late, fresh))
        assert len(first) + 3 <= asked <= intents, f"{asked} orders with {intents} intents"
        assert site.row(settled).server_id == server, "who was at rest has another server"
        assert site.row(settled).state == "active"
    return took


# --- mail --------------------------------------------------------------------------------------------------------


@fault("F45", "the mail server is away, then takes a mail and says it did not", within=0)
def f45(ground: Ground) -> float:
    from datetime import timedelta

    from django.db.models import F

    from visa.outbox.mail import message_id
    from visa.outbox.models import Outbox

    site = ground.site
    person = reachable(ground)
    lost, other = ground.ready(by=person), ground.ready(by=person)
    waiting = Outbox.objects.filter(sent_at=None)

    def wait_no_longer() -> None:
        """The next try of a mail is minutes away by design; time is told to pass."""
        waiting.update(due_at=F("due_at") - timedelta(hours=1))

    def ids() -> Counter[str]:
        """What has arrived, and how often."""
        return Counter(str(mail["Message-ID"]).strip() for mail in mails_to(ground, person))

    site.mail.stop()
    try:
        site.sdk("user").compute.delete_server(site.row(lost).server_id)
        site.until_state(lost, "gone", seconds=120 * site.scale + 60)
        ground.sound(more=60)
        until(waiting.filter(key=f"gone:{lost}", attempts__gt=0, lease_until=None).exists, 60, "it was tried in vain")
    finally:
        site.mail.start()
    began = time.monotonic()
    wait_no_longer()
    until(ids, 60, "the mail arrives")
    took = time.monotonic() - began
    until(lambda: not waiting.exists(), 60, "nobody else's mail waits, which would have the bad day")
    first, second = message_id(f"gone:{lost}"), message_id(f"gone:{other}")
    assert ids() == {first: 1}, f"of one event came {ids()}"
    site.mail.bad_days.append("took it, and went away before saying so")
    site.sdk("user").compute.delete_server(site.row(other).server_id)
    until(
        waiting.filter(key=f"gone:{other}", attempts__gt=0, lease_until=None).exists,
        120 * site.scale + 60,
        "the second mail was taken, and is not known to be",
    )
    assert not site.mail.bad_days, "nobody's mail had the bad day"
    assert ids() == {first: 1, second: 1}, f"{ids()} arrived"
    wait_no_longer()
    until(lambda: not waiting.exists(), 90, "all is sent")
    # SMTP cannot do better than twice; by its name the second is known for the first.
    assert ids() == {first: 1, second: 2}, f"{ids()} arrived"
    ground.sound(more=30)
    return took
