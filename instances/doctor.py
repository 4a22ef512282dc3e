"""Whether all that the platform needs is there: plain questions, each answered with a sentence and with what to do.

The examinations change nothing and need nothing but themselves: each says of its own neighbour whether it answers, and
one that cannot be told because another neighbour is away says that.
"""

import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery.exceptions import OperationalError as BrokerAway
from cryptography.fernet import InvalidToken
from django.conf import settings
from django.core.checks import ERROR, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Count, Min, Q
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone
from redis import Redis
from redis.exceptions import RedisError

from instances import credentials, reconciliation, releases, sweeps
from instances.cloud import sandbox
from instances.cloud.connect import connect
from instances.cloud.protocol import Cloud, CloudDenied, CloudError
from instances.models import Image, Instance, Sighting
from quotas.models import Flavour, Limit
from visa import celery_app, environment
from visa.accounts.providers import OpenIDProvider, ProviderAway
from visa.accounts.tokens import TokenRefused
from visa.audit import verification
from visa.environment import CloudKind, Process
from visa.outbox import mail, refusals
from visa.outbox.couriers import Away
from visa.outbox.models import Outbox

#: the queues without a worker on which nothing moves
QUEUES = ("cloud", "default")
#: seconds workers have to answer: Celery always waits all of them, so that a short wait comes first
WORKER_SECONDS = (1.0, 3.0, 6.0)
#: the longest between two ticks of the timetable, on a busy machine
TICK_SECONDS = 12.0
#: a reconciler asks the database each second; one not heard of for so long is stuck
RECONCILER_SILENT = timedelta(seconds=20)
#: what waits in the outbox for so long is carried by nobody, or taken by nobody
UNSENT = timedelta(minutes=10)
#: what was given up so long ago is history
GIVEN_UP = timedelta(days=1)
#: the audit trail is sealed every ten seconds; what waits for so long is sealed by nobody
UNSEALED = timedelta(minutes=5)
#: a row that is due for so long is driven by nobody
OVERDUE = timedelta(minutes=2)
NEIGHBOUR_SECONDS = 5.0
NFS_PORT = 2049


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one examination found. `to_do` is empty where all is well."""

    name: str
    ok: bool
    sentence: str
    to_do: str = ""


def well(name: str, sentence: str) -> Finding:
    return Finding(name=name, ok=True, sentence=sentence)


def ill(name: str, sentence: str, to_do: str) -> Finding:
    return Finding(name=name, ok=False, sentence=sentence, to_do=to_do)


def examine(only: Iterable[str] = ()) -> Iterator[Finding]:
    """Every finding, as soon as it is there; `only` the examinations of these names, where names are given."""
    wanted = set(only)
    for name, ask in EXAMINATIONS.items():
        if wanted and name not in wanted:
            continue
        try:
            yield ask(name)
        except (DatabaseError, InterfaceError) as error:
            sentence = f"The database does not answer, so this cannot be told ({_first_line(error)})."
            yield ill(name, sentence, "Mend the database first.")
        except Exception as error:  # noqa: BLE001 - a doctor who falls ill himself says so and goes on
            sentence = f"The examination itself failed: {type(error).__name__}: {_first_line(error)}"
            yield ill(name, sentence, "Tell whoever maintains this software.")


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


# --- this installation -------------------------------------------------------------------------------------------


def _configuration(name: str) -> Finding:
    told = [one for one in run_checks() if one.level >= ERROR]
    if told:
        to_do = " ".join(str(one.hint) for one in told if one.hint) or "Correct what is named."
        return ill(name, " ".join(f"{one.id}: {one.msg}" for one in told), to_do)
    return well(name, f"The settings of {settings.SITE.name} at {settings.SITE.url} fit together.")


def _keys(name: str) -> Finding:
    keys = settings.ENVIRONMENT.machine_keys
    secret = credentials.generate("doctor")
    try:
        good = credentials.unseal(credentials.seal(secret, keys), keys) == secret
        sealed = Instance.objects.filter(deleted_at=None).exclude(desktop_secret="").values_list("desktop_secret")
        for (text,) in sealed[:50]:
            credentials.unseal(text, keys)
    except (InvalidToken, ValueError) as error:
        good = False
        if isinstance(error, InvalidToken):
            sentence = "A machine's secret was sealed with a key that is no longer in VISA_MACHINE_KEYS."
            return ill(name, sentence, "Add the old key after the new one; until then that machine's desktop is shut.")
    if not good:
        return ill(name, "VISA_MACHINE_KEYS holds something that is no Fernet key.", "Make one: 32 bytes in base64url.")
    return well(name, "The machines' secrets can be sealed and opened.")


# --- neighbours --------------------------------------------------------------------------------------------------


def _database(name: str) -> Finding:
    place = f"{settings.ENVIRONMENT.database.host}, port {settings.ENVIRONMENT.database.port}"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            version = cursor.fetchone()[0]
    except (DatabaseError, InterfaceError) as error:
        connection.close()
        return ill(
            name,
            f"PostgreSQL does not answer at {place} ({_first_line(error)}).",
            "Start it, or correct VISA_DATABASE_HOST, _PORT, _NAME, _USER and _PASSWORD.",
        )
    return well(name, f"PostgreSQL {version} answers at {place}.")


def _migrations(name: str) -> Finding:
    newer = releases.newer()
    if newer is not None:
        sentence = f"The tables are of release {newer.number} ({newer.why}); this code is of {releases.KNOWN}."
        return ill(name, f"{sentence} It drives no machine.", "Start the new release in its place.")
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        first = f"{missing[0][0].app_label}.{missing[0][0].name}"
        return ill(name, f"{len(missing)} migrations are not applied, the first is {first}.", "Run manage.py migrate.")
    return well(name, "The tables are those of this version.")


def _redis(name: str) -> Finding:
    client = Redis.from_url(
        settings.REDIS_URL, socket_timeout=NEIGHBOUR_SECONDS, socket_connect_timeout=NEIGHBOUR_SECONDS
    )
    try:
        client.ping()
        waiting = sum(int(client.llen(queue)) for queue in QUEUES)
    except RedisError as error:
        return ill(
            name,
            f"Redis does not answer ({_first_line(error)}). Machines are driven by the reconciler alone, pages refresh "
            "by themselves only now and then.",
            "Start it, or correct VISA_REDIS_URL.",
        )
    finally:
        client.close()
    said = refusals.ask()
    if said:
        return ill(
            name,
            f"Redis answers and takes nothing ({said}). Machines are driven by the reconciler alone.",
            "Give it memory (maxmemory), and see whether it may write its disk.",
        )
    return well(name, f"Redis answers and keeps what it is given; {waiting} messages wait.")


def _inspect(method: str) -> dict[str, Any]:
    """What the workers say to one question, by worker; empty where none answers, or the broker is away."""
    for seconds in WORKER_SECONDS:
        try:
            told: dict[str, Any] = getattr(celery_app.control.inspect(timeout=seconds), method)() or {}
        except (BrokerAway, RedisError, OSError):
            return {}
        if told:
            return told
    return {}


def _workers(name: str) -> Finding:
    answers = _inspect("active_queues")
    if not answers:
        return ill(
            name,
            f"No Celery worker answers within {sum(WORKER_SECONDS):.0f} s: only the reconciler drives machines.",
            "Start one: celery -A visa worker --queues default,cloud (and Redis, where that is away).",
        )
    served = {queue["name"] for queues in answers.values() for queue in queues or ()}
    missing = sorted(set(QUEUES) - served)
    if missing:
        return ill(
            name,
            f"{len(answers)} workers answer, and none takes from: {', '.join(missing)}.",
            f"Start a worker with --queues {','.join(missing)}.",
        )
    return well(name, f"{len(answers)} {'worker answers' if len(answers) == 1 else 'workers answer'}.")


def _timetable(name: str) -> Finding:
    """Beat has no door to knock at; what is seen of it is that the workers get its tick."""

    def ticks() -> int | None:
        told = _inspect("stats")
        return sum(one.get("total", {}).get("instances.advance_due", 0) for one in told.values()) if told else None

    first, until = ticks(), time.monotonic() + TICK_SECONDS
    if first is None:
        return ill(name, "No worker answers, so the timetable cannot be told.", "Start a worker first.")
    while time.monotonic() < until:
        if (ticks() or 0) > first:
            return well(name, "The timetable's tick reaches the workers.")
        time.sleep(0.5)  # between two questions to the workers
    return ill(
        name,
        f"No tick of the timetable reached a worker for {TICK_SECONDS:.0f} s.",
        "Start beat, once: celery -A visa beat.",
    )


def _reconciler(name: str) -> Finding:
    """Seen by its questions to the database, which it asks each second under its own name."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), min(now() - greatest(query_start, state_change)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s",
            [f"visa-{Process.RECONCILER}"],
        )
        count, silent = cursor.fetchone()
    if not count:
        return ill(name, "No reconciler is connected to the database.", "Start it: manage.py run_reconciler.")
    if silent is not None and silent > RECONCILER_SILENT:
        sentence = f"The reconciler is connected and has asked nothing for {silent.total_seconds():.0f} s."
        return ill(name, sentence, "Look into its log, and start it anew.")
    return well(name, "The reconciler asks what is due.")


def _machines(name: str) -> Finding:
    live = Instance.objects.filter(deleted_at=None)
    late = live.filter(Q(lease_until=None) | Q(lease_until__lt=Now()), due_at__lt=Now() - OVERDUE)
    told = late.aggregate(since=Min("due_at"))
    if told["since"] is not None:
        waited = int((timezone.now() - told["since"]).total_seconds() // 60)
        return ill(
            name,
            f"{late.count()} machines wait to be looked at, the longest for {waited} min: nobody drives them.",
            "See Workers, Timetable and Reconciler: one of them has to run.",
        )
    failed = live.filter(failed=True).count()
    return well(name, f"{live.count()} machines, none waits to be looked at; {failed} have failed.")


def _outbox(name: str) -> Finding:
    told = Outbox.objects.aggregate(
        waiting=Count("id", filter=Q(sent_at=None)),
        since=Min("made_at", filter=Q(sent_at=None)),
        late=Count("id", filter=Q(sent_at=None, made_at__lt=Now() - UNSENT)),
        given_up=Count("id", filter=Q(given_up=True, sent_at__gt=Now() - GIVEN_UP)),
    )
    if told["late"]:
        oldest = Outbox.objects.filter(sent_at=None).order_by("made_at")[0]
        waited = int((timezone.now() - told["since"]).total_seconds() // 60)
        said = f"tried {oldest.attempts} times, the last time: {oldest.said}" if oldest.attempts else "never tried"
        return ill(
            name,
            f"{told['late']} messages wait to leave, the oldest for {waited} min ({said}).",
            "See Mail; then Workers and Reconciler: one of them has to run.",
        )
    return well(name, f"{told['waiting']} messages wait to leave; {told['given_up']} were given up since yesterday.")


def _mail(name: str) -> Finding:
    asked = settings.ENVIRONMENT.mail
    if asked is None:
        return well(name, "No mail is sent: VISA_MAIL_HOST is not set, or not for this process.")
    place = f"{asked.host}, port {asked.port}"
    try:
        greeting = mail.greet()
    except Away as error:
        return ill(
            name,
            f"The mail server {place} does not take our mail ({error}).",
            "Start it, open the way to it, or correct VISA_MAIL_HOST, _PORT, _TLS, _USER and _PASSWORD.",
        )
    return well(name, f"{greeting} greets us at {place}.")


def _audit(name: str) -> Finding:
    """The trail: whether it is sealed, and as it was sealed."""
    trail = verification.standing()
    broken = trail.recent.first
    if broken is not None or (trail.seen_at and not trail.seen_in_order):
        sentence = (
            f"It is not as it was sealed: {broken.words}." if broken else "The last look at all of it found a fault."
        )
        return ill(name, sentence, "Run manage.py verify_audit --heads FILE; docs/security.md says what to do then.")
    if trail.waiting > UNSEALED:
        minutes = int(trail.waiting.total_seconds() // 60)
        return ill(
            name, f"Rows have waited {minutes} min for their seal.", "Start a worker with beat, or the reconciler."
        )
    seen = (
        f"all of it was verified at {trail.seen_at:%Y-%m-%d %H:%M} UTC"
        if trail.seen_at
        else "nobody verified all of it"
    )
    return well(name, f"{trail.recent.number} rows sealed, those since yesterday are in order; {seen}.")


def _sweeps(name: str) -> Finding:
    """Rows against the cloud: whether anybody compares them, and whether something waits for a person."""
    told = sweeps.report()
    if told.late:
        ago = f"for {int((told.at - told.sweeps[0].at).total_seconds() // 60)} min" if told.sweeps else "here yet"
        sentence = f"Nobody has compared the machines with the cloud {ago}."
        return ill(name, sentence, "Start a worker or the reconciler, and see whether the whole cloud answers (Cloud).")
    page = f"{settings.SITE.url}{reverse('instances:reconciliation')}"
    if told.holds:
        why = " ".join(f"{one.why} ({one.detail})" for one in told.holds)
        return ill(name, f"Sweeps delete nothing: {why}", f"Find out why, then release them at {page}.")
    held = [one for one in told.sightings if one.verdict == Sighting.Verdict.HELD]
    if held:
        sentence = f"{len(held)} things in the cloud have no machine and are held back, such as {held[0].name}."
        return ill(name, sentence, f"Look at {page}, or run manage.py reconcile_instances.")
    last, waiting = told.sweeps[0], sum(one.open for one in told.sightings)
    return well(
        name,
        f"{last.rows} machines beside {last.servers} servers, {last.ports} ports and {last.volumes} volumes; "
        f"{waiting} strays are watched.",
    )


def _books(name: str) -> Finding:
    told = reconciliation.compare_allowances()
    if told:
        sentence = f"Allowances do not add up: {'; '.join(told[:3])}."
        return ill(name, sentence, "Tell whoever maintains this software; nothing repairs it by itself.")
    return well(name, "Every counter is the sum of its reservations, and every reservation has its machine.")


def _providers(name: str) -> Finding:
    configured = settings.ENVIRONMENT.providers
    if not configured:
        return ill(
            name,
            f"No identity provider is configured for this {settings.ENVIRONMENT.process} process: nobody can sign in.",
            "Set VISA_OIDC_PROVIDERS; run doctor with VISA_PROCESS=command.",
        )
    bad, good = [], []
    for config in configured:
        provider = OpenIDProvider(config)  # a new one: what it published an hour ago is not asked for here
        try:
            algorithm = provider.metadata().algorithms[0]
            provider.key_for("asked for by doctor", algorithm)
        except ProviderAway as error:
            bad.append(f"{config.label} ({config.issuer}): {_first_line(error)}")
            continue
        except TokenRefused:
            pass  # its keys were fetched, and of course none is called that
        good.append(config.label)
    if bad:
        return ill(
            name,
            f"People cannot sign in with {'; '.join(bad)}.",
            "Start it or ask its operators; compare VISA_OIDC_…_ISSUER with the issuer it calls itself.",
        )
    return well(name, f"{', '.join(good)}: discovery and keys are there, the issuer is the one configured.")


# --- the cloud ---------------------------------------------------------------------------------------------------


def with_cloud(ask: Callable[[str, Cloud], Finding], to: Callable[[], Cloud] = connect) -> Callable[[str], Finding]:
    """Asks with this site's cloud, and says what is wrong where it cannot be asked at all."""

    def asked(name: str) -> Finding:
        try:
            return ask(name, to())
        except ImproperlyConfigured as error:
            return ill(name, f"{error}.", "Run doctor with VISA_PROCESS=command and the cloud's variables.")
        except CloudDenied as error:
            to_do = "Make a new application credential and put it into clouds.yaml."
            return ill(name, f"The cloud does not accept our credential ({_first_line(error)}).", to_do)
        except CloudError as error:
            to_do = "See whether the cloud runs and can be reached from here."
            return ill(name, f"The cloud does not answer ({_first_line(error)}).", to_do)

    return asked


def _cloud_settings() -> environment.Cloud:
    asked: environment.Cloud | None = settings.ENVIRONMENT.cloud
    if asked is None:
        raise ImproperlyConfigured(f"a {settings.ENVIRONMENT.process} process has no cloud")
    return asked


def cloud_answers(name: str, cloud: Cloud) -> Finding:
    """Reachable, with a credential that may list servers; for the embedded one, whether this host can give desktops."""
    kind = _cloud_settings().kind
    if kind is CloudKind.LOCAL and (problems := sandbox.problems()):
        return ill(name, f"This host gives no desktops: {problems[0]}", "Install or allow what is named.")
    servers = len(list(cloud.list()))
    cloud.offering()
    return well(name, f"The {kind} cloud answers; {servers} servers are ours.")


def images_there(name: str, cloud: Cloud) -> Finding:
    """Every image that is offered to people exists at the cloud."""
    rows = dict(Image.objects.filter(enabled=True).values_list("slug", "cloud_name"))
    return _all_there(name, "image", rows, cloud.offering().images)


def flavours_there(name: str, cloud: Cloud) -> Finding:
    """Every size that is offered to people exists at the cloud."""
    rows = dict(Flavour.objects.filter(enabled=True).values_list("slug", "cloud_name"))
    return _all_there(name, "flavour", rows, cloud.offering().flavours)


def _all_there(name: str, what: str, rows: dict[str, str], there: frozenset[str]) -> Finding:
    if not rows:
        return ill(name, f"No {what} is offered to people.", f"Add and enable one in the admin, under {what}s.")
    missing = {slug: cloud_name for slug, cloud_name in rows.items() if cloud_name not in there}
    if missing:
        told = ", ".join(f"“{cloud_name}” (of {slug})" for slug, cloud_name in missing.items())
        known = ", ".join(sorted(there)[:10]) or "none"
        return ill(
            name,
            f"The cloud has no {what} called {told}; it has: {known}.",
            f"Make it at the cloud, or correct its cloud name in the admin, or disable the {what}.",
        )
    return well(name, f"{len(rows)} offered, all of them at the cloud: {', '.join(sorted(rows.values()))}.")


def network_there(name: str, cloud: Cloud) -> Finding:
    """The network exists, and desktops stand where the gateway may reach them."""
    wanted, ranges = _cloud_settings().network, settings.ENVIRONMENT.desktop_ranges
    if wanted and wanted not in cloud.offering().networks:
        known = ", ".join(sorted(cloud.offering().networks)[:10]) or "none"
        sentence = f"The cloud has no network called “{wanted}”; it has: {known}."
        return ill(name, sentence, "Make it, or correct VISA_CLOUD_NETWORK.")
    networks = [ipaddress.ip_network(one) for one in ranges]
    for server in cloud.list():
        host = server.desktop.host if server.desktop else ""
        if host and not any(ipaddress.ip_address(host) in one for one in networks):
            return ill(
                name,
                f"The desktop of {server.name} stands at {host}, outside {', '.join(ranges)}: the gateway refuses it.",
                "Correct VISA_DESKTOP_RANGES, or the network machines are put on.",
            )
    return well(name, f"{wanted or 'This host'}; desktops may stand in {', '.join(ranges)}.")


def _allowances(name: str) -> Finding:
    limits = [one for one in Limit.objects.all() if one.machines and one.cores and one.memory_mib]
    if not limits:
        return ill(name, "No limit allows anybody a machine.", "Add a limit for everyone in the admin, under limits.")
    smallest = Flavour.objects.filter(enabled=True).order_by("cores", "memory_mib").first()
    if smallest is not None and not any(
        one.cores >= smallest.cores and one.memory_mib >= smallest.memory_mib for one in limits
    ):
        sentence = f"No limit holds even the smallest size, {smallest.slug}."
        return ill(name, sentence, "Raise a limit in the admin, or offer a smaller size.")
    return well(name, f"{len(limits)} limits allow machines.")


# --- what machines mount -----------------------------------------------------------------------------------------


def mount_there(name: str, source: str, fstype: str, variable: str, *, port: int = NFS_PORT) -> Finding:
    """What machines mount can be had: a directory of this host that can be read, or an NFS server that listens."""
    if not source:
        return ill(name, f"{variable}_SOURCE is not set.", "Say what machines mount.")
    if fstype == "none":
        place = Path(source.split("{path}")[0] or "/")
        if not place.is_dir():
            return ill(name, f"{place} is no directory of this host.", f"Mount it there, or correct {variable}_SOURCE.")
        if not os.access(place, os.R_OK | os.X_OK):
            return ill(name, f"{place} cannot be read by this user.", "Give the right to read it.")
        return well(name, f"{place} is there.")
    host = source[1:].partition("]:")[0] if source.startswith("[") else source.partition(":")[0]
    try:
        socket.create_connection((host, port), timeout=NEIGHBOUR_SECONDS).close()
    except OSError as error:
        return ill(
            name,
            f"The file server {host} does not listen at port {port} ({_first_line(error)}).",
            f"Start its NFS service, open the way to it, or correct {variable}_SOURCE.",
        )
    return well(name, f"The file server {host} listens.")


def _data(name: str) -> Finding:
    data = settings.ENVIRONMENT.data
    return mount_there(name, data.source, data.fstype, "VISA_DATA")


def _software(name: str) -> Finding:
    data = settings.ENVIRONMENT.data
    if not data.software_source:
        told = f"CVMFS: {', '.join(data.cvmfs_repositories)}." if data.cvmfs_repositories else "Only what images hold."
        return well(name, told)
    return mount_there(name, data.software_source, data.software_fstype, "VISA_SOFTWARE")


#: every examination by its name, those first that others depend on
EXAMINATIONS: dict[str, Callable[[str], Finding]] = {
    "Configuration": _configuration,
    "Database": _database,
    "Migrations": _migrations,
    "Redis": _redis,
    "Workers": _workers,
    "Timetable": _timetable,
    "Reconciler": _reconciler,
    "Machines": _machines,
    "Outbox": _outbox,
    "Mail": _mail,
    "Sweeps": _sweeps,
    "Reservations": _books,
    "Audit trail": _audit,
    "Keys": _keys,
    "Identity providers": _providers,
    "Cloud": with_cloud(cloud_answers),
    "Images": with_cloud(images_there),
    "Flavours": with_cloud(flavours_there),
    "Network": with_cloud(network_there),
    "Allowances": _allowances,
    "Data": _data,
    "Software": _software,
}
