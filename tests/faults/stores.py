"""Faults of what the platform itself stands on: Redis, PostgreSQL, and the disk of both."""

import asyncio
import contextlib
import os
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import Any, TypeVar

import psycopg
import redis
import requests

from deploy import demo_check
from deploy.viewer import Viewer
from tests.faults.matrix import TICKS, Ground, fault
from tests.faults.site import Site, until
from tests.faults.workers import made

T = TypeVar("T")

#: seconds for which Redis is away, at the usual pace
REDIS_AWAY = 600
#: launches that are tried on a full disk; it is asked no more when so many were refused
TRIED, REFUSED = 60, 8
#: the close code of a desktop whose grant has ended (`instances.desktop.endpoint.Close`)
REVOKED = 4403


class Browser:
    """A person who is signed in, through the provider, and asks by HTTP as people's programs do."""

    def __init__(self, site: Site) -> None:
        self.visitor = demo_check.Visitor(site.platform.url)
        demo_check.sign_in(self.visitor, demo_check.PERSON, back_to="/")

    def ask(self) -> requests.Response:
        """Launches on a new dataset; the answer, whatever it is."""
        return self.post(new_dataset())

    def post(self, doi: str, *, key: str = "") -> requests.Response:
        """Launches on this dataset; one wish, however often it is sent with this key."""
        headers = {
            "Referer": self.visitor.url,
            "Origin": self.visitor.url,
            "X-CSRFToken": self.visitor.session.cookies.get("visa-csrf") or "",
        }
        wish = {"doi": doi, "flavour": "small", "key": key}
        return self.visitor.session.post(
            f"{self.visitor.url}/api/v1/instances/", json=wish, headers=headers, timeout=30
        )

    def get(self, path: str) -> requests.Response:
        return self.visitor.session.get(f"{self.visitor.url}{path}", timeout=30)

    def read(self, path: str) -> requests.Response:
        """A page or a list, which is there."""
        answer = self.get(path)
        assert answer.status_code == 200, f"{path} answered {answer.status_code}"
        return answer

    def delete(self, machine: Any) -> None:
        answer = self.visitor.api("DELETE", f"/api/v1/instances/{machine}/")
        assert answer.status_code == 202, f"{answer.status_code} {answer.text[:200]}"


def new_dataset() -> str:
    """The DOI of a dataset that nobody has a machine for."""
    from tests import factories

    return factories.make_dataset(doi=f"10.5555/fault-{secrets.token_hex(6)}").minted


def accepted(ground: Ground, answer: requests.Response) -> Any:
    """The machine that a launch was promised."""
    assert answer.status_code == 202, f"{answer.status_code} {answer.text[:200]}"
    ground.accepted.append(answer.json()["id"])
    return ground.accepted[-1]


def refused(answer: requests.Response) -> None:
    """How it is said that the database cannot be asked, or takes nothing: 503, in words, with when to try again."""
    assert answer.status_code == 503, f"{answer.status_code} {answer.text[:300]}"
    assert "Try again in a minute" in answer.text, answer.text[:300]
    assert answer.headers.get("Retry-After", "").isdigit(), answer.headers


# --- Redis -------------------------------------------------------------------------------------------------------


def _told(ground: Ground) -> redis.Redis:
    """Redis itself."""
    return redis.Redis.from_url(ground.site.running("Redis").facts["url"])


@fault("F13", "Redis loses all queued tasks and comes back empty, before worker and timetable alone", within=0)
def f13(ground: Ground) -> float:
    ground.site.stop_drivers("reconciler")  # which asks no Redis
    return _redis_lost(ground)


@fault("F13b", "Redis loses all queued tasks and comes back empty", within=0)
def f13b(ground: Ground) -> float:
    return _redis_lost(ground)


def _redis_lost(ground: Ground) -> float:
    """Tasks are queued and flushed; Redis is killed and comes back empty. Two ticks later each due row is taken."""
    from instances.models import Instance

    site = ground.site
    # The one of a worker's processes that takes tasks out of Redis; it holds no row and no transaction.
    consumer = site.running("worker").pid
    os.kill(consumer, signal.SIGSTOP)
    try:
        machines = [ground.launch() for _ in range(3)]
        queued = _told(ground).llen("cloud")
        # One may have been handed over before the consumer stood still.
        assert queued >= 2, f"{queued} tasks were queued"
        _told(ground).flushall()
        machines.append(ground.launch())
        site.running("Redis").kill()
        machines.append(ground.launch())
    finally:
        os.kill(consumer, signal.SIGCONT)
    site.platform.start_redis()
    began = time.monotonic()
    untaken = Instance.objects.filter(id__in=machines, fence=0)
    until(lambda: not untaken.exists(), TICKS, lambda: f"{untaken.count()} of {len(machines)} due rows are not taken")
    ground.sound()
    return time.monotonic() - began


@fault("F14", "Redis is away for ten minutes: machines are made and ended, desktops stay and are cut", within=0)
def f14(ground: Ground) -> float:
    site, browser = ground.site, Browser(ground.site)
    patience = 60 + 20 * ground.usual
    worked_on, unwanted = accepted(ground, browser.ask()), accepted(ground, browser.ask())
    for machine in (worked_on, unwanted):
        site.until_state(machine, "active", seconds=patience)
    with _desktop(site, browser, worked_on) as desktop:
        desktop.look()
        site.running("Redis").stop()
        over = time.monotonic() + REDIS_AWAY * site.scale
        while time.monotonic() < over:
            unwanted = _one_comes_one_goes(ground, browser, unwanted, patience)
            desktop.look()
        waiting = ground.launch()
        asked = time.monotonic()
        browser.delete(worked_on)
        code, took = desktop.closed(), time.monotonic() - asked
        assert code == REVOKED, f"the desktop ended with {code}"
        assert took < 2.5, f"a deleted machine's desktop ended after {took:.1f} s"
    site.platform.start_redis()
    began = time.monotonic()
    ground.sound()
    back = time.monotonic() - began
    assert site.row(waiting).state == "active"
    # Workers find it again by themselves.
    site.stop_drivers("reconciler")
    began = time.monotonic()
    ground.launch()
    ground.sound()
    return max(back, time.monotonic() - began)


def _one_comes_one_goes(ground: Ground, browser: Browser, unwanted: Any, patience: float) -> Any:
    """A launch, shown as it is until it is ready, and the end of a machine, each asked for as people do."""
    asked = time.monotonic()
    machine = accepted(ground, browser.ask())
    took = time.monotonic() - asked
    assert took < 3, f"a launch took {took:.1f} s to be accepted"
    first = browser.read(f"/api/v1/instances/{machine}/").json()["state"]
    assert first in {"waiting", "building"}, f"what was accepted a moment ago is shown as {first}"
    until(lambda: _shown(ground, browser, machine) == "active", patience, f"{machine} is ready", every=0.5)
    browser.delete(unwanted)
    ground.site.until_state(unwanted, "deleted", seconds=patience)
    assert not _status(ground, unwanted), f"{unwanted} is deleted, and its server is {_status(ground, unwanted)}"
    browser.read("/")
    listed = {one["id"] for one in browser.read("/api/v1/instances/").json()}
    assert str(machine) in listed, "it is not in its owner's list"
    assert str(unwanted) not in listed, "what is deleted is in its owner's list"
    return machine


def _status(ground: Ground, machine: Any) -> str:
    """Nova's word for a machine's server; empty where it has none."""
    return next((one.status for one in ground.site.servers() if one.metadata["visa_instance"] == str(machine)), "")


def _shown(ground: Ground, browser: Browser, machine: Any) -> str:
    """The state its owner reads of a machine that is made: not behind what was so before, nor ahead of what is so."""
    before = _status(ground, machine)
    state = str(browser.read(f"/api/v1/instances/{machine}/").json()["state"])
    after = _status(ground, machine)
    assert state in {"waiting", "building", "starting", "active"}, f"it is shown as {state}"
    assert state != "waiting" or not before, f"it is shown as waiting for its turn, and its server was {before}"
    assert state not in {"starting", "active"} or after == "ACTIVE", f"it is shown as {state}, its server is {after}"
    return state


class Desktop:
    """A desktop that somebody has open through the platform."""

    def __init__(self, viewer: Viewer, loop: asyncio.AbstractEventLoop, picture: bytes) -> None:
        self._viewer = viewer
        self._loop = loop
        self._picture = picture

    def look(self) -> None:
        """Asks the machine for its whole screen, which is the one it shows."""
        _width, _height, pixels = _wait(self._loop, self._viewer.picture())
        assert pixels == self._picture, "the desktop shows something else"

    def closed(self) -> int:
        """Waits until the platform ends it; with which close code."""
        return _wait(self._loop, self._viewer.closed())


def _wait(loop: asyncio.AbstractEventLoop, what: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(what, loop).result(60)


@contextlib.contextmanager
def _desktop(site: Site, browser: Browser, machine: Any) -> Iterator[Desktop]:
    """Opens a person's desktop: a real Xvnc with this machine's own secret at one end, a viewer at the other."""
    from django.conf import settings

    from instances import credentials
    from instances.models import Instance
    from tests.vnc import vnc_machine

    row = site.row(machine)
    secret = credentials.unseal(row.desktop_secret, settings.ENVIRONMENT.machine_keys)
    loop, stack = asyncio.new_event_loop(), contextlib.AsyncExitStack()
    thread = threading.Thread(target=loop.run_forever, name="viewer", daemon=True)
    thread.start()
    # It listens on every address, the machine's among them: all of their network leads to this host (`desks`).
    with vnc_machine(site.directory / f"desk-{machine}", secret=secret, options=("-interface", "all")) as shown:
        try:
            mine = Instance.objects.filter(id=machine)
            mine.update(desktop_port=shown.port)  # only while it is being opened: nobody else looks at it then
            try:
                ticket = browser.visitor.api("POST", f"/api/v1/instances/{machine}/tickets/").json()
                address = browser.visitor.url.replace("http", "ws", 1) + ticket["path"]
                opening = Viewer.connect(address, origin=browser.visitor.url, ticket=ticket["ticket"])
                viewer = _wait(loop, stack.enter_async_context(opening))
            finally:
                mine.update(desktop_port=row.desktop_port)
            yield Desktop(viewer, loop, shown.picture())
        finally:
            _wait(loop, stack.aclose())
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)


@fault("F15", "Redis is full: it refuses writes, then forgets what it holds", within=0)
def f15(ground: Ground) -> float:
    took = 0.0
    browser = Browser(ground.site)
    for policy in ("noeviction", "allkeys-lru"):
        there = _told(ground)
        there.config_set("maxmemory-policy", policy)
        there.config_set("maxmemory", "1mb")
        with contextlib.suppress(redis.ResponseError):
            for number in range(2000):
                there.set(f"filler-{number}", "x" * 2000)
        machine = accepted(ground, browser.ask())
        ground.site.until_state(machine, "active", seconds=60 + 20 * ground.usual)
        there.config_set("maxmemory", "0")
        there.config_set("maxmemory-policy", "noeviction")
        there.flushall()
        ground.launch()
        began = time.monotonic()
        ground.sound()
        took = max(took, time.monotonic() - began)
    return took


# --- PostgreSQL --------------------------------------------------------------------------------------------------


def superuser(site: Site) -> psycopg.Connection[Any]:
    """A connection to the site's database past the platform's own."""
    facts = site.running("PostgreSQL").facts
    return psycopg.connect(host=facts["host"], user=facts["user"], dbname=facts["name"], autocommit=True)


def _setting(site: Site, name: str) -> str:
    """What a new session is told."""
    with superuser(site) as database:
        said = database.execute("select current_setting(%s)", [name]).fetchone()
    assert said is not None
    return str(said[0])


def commits_kept(site: Site) -> None:
    """From now on a commit that is told is written down, as in production.

    This site's database keeps commits back for a moment otherwise, and a crash would lose what was accepted then:
    that would be the site's fault and not the platform's. Sessions that stand go on as they were, so drivers begin
    anew.
    """
    from django.db import connection

    if _setting(site, "synchronous_commit") == "on":
        return
    with superuser(site) as database:
        database.execute("alter role current_user set synchronous_commit = on")
    site.stop_drivers()
    connection.close()
    site.start_drivers()


@contextlib.contextmanager
def _no_allowances(site: Site) -> Iterator[psycopg.Connection[Any]]:
    """Nobody's allowance can be taken from: a launch stands still in the middle of its transaction, its row written."""
    from quotas.models import Allowance

    database = superuser(site)
    try:
        database.execute("begin")
        database.execute(f"lock table {Allowance._meta.db_table} in exclusive mode")
        yield database
    finally:
        database.close()


@fault("F16", "PostgreSQL is torn down in mid-transaction and comes back", within=15)
def f16(ground: Ground) -> float:
    from django.db import connection

    from instances.models import Instance
    from quotas.models import Allowance

    site = ground.site
    commits_kept(site)
    browser, doi, key = Browser(site), new_dataset(), secrets.token_hex(8)
    for _ in range(3):
        ground.launch()
    until(lambda: Instance.objects.exclude(lease_until=None).exists(), 20, "a step is under way")
    stands = "select count(*) from pg_locks where relation = %s::regclass and not granted"
    with ThreadPoolExecutor(1) as beside, _no_allowances(site) as database:
        launch = beside.submit(browser.post, doi, key=key)
        until(
            lambda: database.execute(stands, [Allowance._meta.db_table]).fetchone() == (1,), 20, "a launch is under way"
        )
        server = site.running("PostgreSQL")
        server.popen.send_signal(signal.SIGQUIT)  # "immediate": no transaction is ended in order
        server.popen.wait(30)
        refused(launch.result(30))
    connection.close()
    refused(browser.post(doi, key=key))
    time.sleep(3)  # so long it is away: whoever tries again at once finds nobody
    site.start_postgres()
    began = time.monotonic()
    assert not Instance.objects.filter(launch_key=key).exists(), "half of a launch was kept"
    # Workers are back when a new launch is made; what they held when it happened waits for its lease, and where Nova
    # was asked and nobody could write the answer down, that is found.
    site.until_state(ground.launch(), "active", seconds=ground.allowed)
    took = time.monotonic() - began
    _accepted_once(ground, browser, doi, key)
    ground.sound(more=(60 + 120) * site.scale)
    return took


def _accepted_once(ground: Ground, browser: Browser, doi: str, key: str) -> None:
    """What was refused is sent again, and again: it is accepted, and is one machine."""
    from instances.models import Instance

    with ThreadPoolExecutor(4) as beside:
        answers = list(beside.map(lambda _: browser.post(doi, key=key), range(4)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 200, 200, 202], f"a repeated launch was answered {statuses}"
    (machine,) = {answer.json()["id"] for answer in answers}
    ground.accepted.append(machine)
    rows = [str(one) for one in Instance.objects.filter(launch_key=key).values_list("id", flat=True)]
    assert rows == [machine], f"{machine} was accepted, and there are {rows}"


@fault("F18a", "PostgreSQL takes no writes", within=15)
def f18a(ground: Ground) -> float:
    from django.db import connection

    browser, doi = Browser(ground.site), new_dataset()
    ground.launch()
    with superuser(ground.site) as database:
        database.execute("alter system set default_transaction_read_only = on")
        database.execute("select pg_reload_conf()")
        try:
            until(lambda: _setting(ground.site, "default_transaction_read_only") == "on", 10, "it takes no writes")
            orders = made(ground)
            refused(browser.post(doi))
            browser.read("/api/v1/instances/")
            time.sleep(6)  # so long it takes none: a tick and more, in which drivers try
            extra = made(ground) - orders
        finally:
            database.execute("set default_transaction_read_only = off")
            database.execute("alter system reset default_transaction_read_only")
            database.execute("select pg_reload_conf()")
    assert not extra, f"{extra} without a committed intent"
    connection.close()
    began = time.monotonic()
    ground.sound()
    accepted(ground, browser.post(doi))
    ground.sound()
    return time.monotonic() - began


@fault("F18b", "PostgreSQL has no connection left", within=15)
def f18b(ground: Ground) -> float:
    from django.db import connection

    browser, doi = Browser(ground.site), new_dataset()
    ground.launch()
    connection.close()
    taken: list[psycopg.Connection[Any]] = []
    statuses: Counter[int] = Counter()
    try:
        end = time.monotonic() + 8
        while time.monotonic() < end:
            try:
                taken.append(superuser(ground.site))
            except psycopg.OperationalError:
                # Now and then somebody else gives one back, and the web gets it: that is no fault.
                answer = browser.post(doi)
                statuses[answer.status_code] += 1
                if answer.status_code == 503:
                    refused(answer)
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
    accepted(ground, answer)
    ground.sound()
    return time.monotonic() - began


# --- their disk --------------------------------------------------------------------------------------------------


@fault("F19", "the disk of database and logs is full", within=15)
def f19(ground: Ground) -> float:
    from django.db import connection

    from instances.models import Instance

    site = ground.site
    commits_kept(site)
    browser, dois = Browser(site), [new_dataset() for _ in range(TRIED)]
    ground.launch()
    filler = site.directory / "filler"
    assert os.path.ismount(filler.parent), "the site has no disk of its own"
    launches: Counter[int] = Counter()
    reads: Counter[int] = Counter()
    promised: list[Any] = []
    try:
        with filler.open("wb", buffering=0) as file:
            for doi in dois:
                _stuff(file)
                answer = browser.post(doi)
                launches[answer.status_code] += 1
                if answer.status_code == 202:
                    promised.append(accepted(ground, answer))
                else:
                    refused(answer)
                reads[browser.get("/api/v1/instances/").status_code] += 1
                if launches[503] == REFUSED:
                    break
    finally:
        filler.unlink(missing_ok=True)
        connection.close()
    began = time.monotonic()
    assert launches[503], f"nothing was refused on a full disk: {launches}"
    assert not set(reads) - {200, 503}, f"lists were answered {reads}"

    def again() -> bool:
        site.revive()  # as a supervisor does: a database that cannot write its log ends
        return browser.get("/api/v1/instances/").status_code == 200

    until(again, 60, "the site answers again")
    there = Instance.objects.filter(id__in=promised).count()
    assert there == len(promised), f"{len(promised)} launches were accepted, and {there} are there"
    ground.launches += len(promised)
    # It works when a new launch is made; what was held when the disk was full waits for its lease, as in F16.
    site.until_state(ground.launch(), "active", seconds=ground.allowed)
    took = time.monotonic() - began
    ground.sound(more=(60 + 120) * site.scale)
    return took


def _stuff(file: FileIO) -> None:
    """Writes until nothing more goes in."""
    with contextlib.suppress(OSError):
        while True:
            file.write(bytes(65536))
