"""How hard the cloud may be asked: a breaker for each of its services, and how many machines are made at once.

All workers share what stands in the database, in the database's time. While a breaker is open no row fails and none is
touched: they stay due, and one call each `breaker_probe` tries whether the service is back.
"""

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Case, Exists, Func, Q, Value, When
from django.db.models.functions import Now
from django.utils.translation import gettext_noop as _

from instances import transitions
from instances.lifecycle import State
from instances.models import Instance, ServiceState, Watch
from instances.pace import pace

#: so many failures within the window open a breaker
FAILURES: Final = 5
#: of so many places among the creates in flight, one is for a machine that is still to be ordered. An order costs the
#: cloud its network and its scheduler, both of which one process may be; a build is the hosts' own work.
PLACES_PER_ORDER: Final = 4
#: services without which no machine can be seen, and those that one is made with beside them
FOR_ALL: Final = ("keystone", "nova")
FOR_CREATES: Final = ("neutron", "glance")
#: the advisory lock of those who let rows in, so that two never count the same free place
_LINE_LOCK: Final = 7_201_602

#: what is said of a row that waits for the cloud, as of all others
SKY: Final = {
    "cloud_silent": _("The cloud does not answer right now; we keep asking. Nothing is lost."),
    "cloud_busy": _("The cloud is busy and asked us to wait; we go on as soon as we may. Nothing is lost."),
}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Which services may be called now: what stood in the database when a step began. Without rows all is well."""

    services: Mapping[str, ServiceState] = field(default_factory=dict)
    #: those that asked not to be called yet
    held: frozenset[str] = frozenset()

    @property
    def silent(self) -> bool:
        """Whether a breaker is open."""
        return any(state.opened_at is not None for state in self.services.values())

    def clear(self, *services: str) -> bool:
        """Whether these services may be called by everybody: no breaker is open and none asked to be left alone."""
        states = [self.services[name] for name in services if name in self.services]
        return self.held.isdisjoint(services) and all(state.opened_at is None for state in states)

    def passes(self, *services: str) -> bool:
        """Whether these services may be called now. Where a breaker is open, one caller is let through now and then."""
        for name in services:
            state = self.services.get(name)
            if state is None:
                continue
            if name in self.held:
                return False
            if state.opened_at is not None and not _probe(name):
                return False
        return True


def gate() -> Gate:
    """What may be called now. One query."""
    found = ServiceState.objects.annotate(held=Case(When(not_before__gt=Now(), then=True), default=False))
    return Gate(services={one.service: one for one in found}, held=frozenset(one.service for one in found if one.held))


def failed(service: str, detail: str, *, retry_after: float = 0.0, counts: bool = True) -> None:
    """Notes that a service did not answer, or (`counts` false) asked not to be called for `retry_after` seconds."""
    # text, which the database reads as intervals
    window, probe = (f"{one.total_seconds()} seconds" for one in (pace().breaker_window, pace().breaker_probe))
    with connection.cursor() as cursor:
        cursor.execute(
            _FAILED,
            {
                "service": service,
                "one": 1 if counts else 0,
                "after": retry_after,
                "window": window,
                "probe": probe,
                "limit": FAILURES,
                "detail": detail[:300],
            },
        )


def answered(gate: Gate, services: Iterable[str]) -> None:
    """Notes that these services answered. Writes only where they had not.

    What waited for one that was left alone is looked at soon; while it was asked all the same, each row had its own
    turn and keeps it.
    """
    unclean = [name for name in services if name in gate.services]
    if not unclean:
        return
    with transaction.atomic():
        ended, _per_model = ServiceState.objects.filter(
            Q(not_before=None) | Q(not_before__lte=Now()), service__in=unclean
        ).delete()
        left_alone = any(gate.services[name].opened_at or gate.services[name].not_before for name in unclean)
        if ended and left_alone:
            # Spread over some seconds: a cloud that has just come back is not met by everybody at once.
            spread = Func(Value(pace().tick), template="(%(expressions)s) * random()")
            waiting = Instance.objects.filter(reason_code__in=SKY, deleted_at=None)
            waiting.filter(due_at__gt=Now()).update(due_at=Now() + spread)


def admit() -> list[UUID]:
    """Lets in whose turn it is, as far as there are places; returns whom.

    A machine has its place until it runs. Those that are still to be ordered have a share of the places, so that a herd
    does not order all at once and is in flight all the same; one whose order failed waits by itself and leaves that
    share to others. People with the fewest machines being made come first, then each in their own order of asking, then
    by age. Nobody is let in while the cloud, or what a create needs of it, is away.
    """
    waiting = Instance.objects.filter(state=State.WAITING, deleted_at=None)
    # The watch asks the first two all the time, and the others nobody but who makes a machine: who is let in when it
    # is time to try them tries them.
    untried = Q(service__in=FOR_ALL) | Q(probe_at__gt=Now())
    away = ServiceState.objects.filter(
        Q(opened_at__isnull=False) & untried | Q(not_before__gt=Now()), service__in=(*FOR_ALL, *FOR_CREATES)
    )
    if not waiting.filter(~Exists(away), due_at__lte=Now()).exists():
        return []
    cloud = settings.ENVIRONMENT.cloud
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LINE_LOCK])
        places = cloud.creates if cloud else 0
        cursor.execute(_TURN, {"places": places, "orders": -(-places // PLACES_PER_ORDER)})
        turn = [row[0] for row in cursor.fetchall()]
        if turn:
            # Nothing may have been on its way when the cloud was asked last what changed there.
            soon = Now() + pace().watch_busy
            Watch.objects.filter(due_at__gt=soon).update(due_at=soon)
        return transitions.let_in(turn) if turn else []


def places(ids: Collection[UUID]) -> dict[UUID, int]:
    """The places of these rows in the line, 1 for who is next. One query."""
    with connection.cursor() as cursor:
        cursor.execute(_PLACES, {"ids": list(ids)})
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return {row[0]: row[1] for row in rows}


def backed_off(failures: int) -> timedelta:
    """When to try again after so many failures in a row: 2 s × 2^failures, at most five minutes, with full jitter."""
    longest = min(pace().longest_wait, 2 * pace().soon * int(2 ** min(failures, 10)))
    return pace().soon + longest * random.random()  # noqa: S311 - spreads load, guards nothing


def spread(interval: timedelta) -> timedelta:
    """About this long, so that what began together does not go on together."""
    return interval * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing


_STATES: Final = ServiceState._meta.db_table
_ROWS: Final = Instance._meta.db_table

#: counts a failure, and opens the breaker at the last of them that fall into one window
_FAILED: Final = f"""
    INSERT INTO {_STATES} AS s (service, failures, failing_since, not_before, detail)
    VALUES (%(service)s, %(one)s, clock_timestamp(),
        CASE WHEN %(after)s > 0 THEN clock_timestamp() + %(after)s * interval '1 second' END, %(detail)s)
    ON CONFLICT (service) DO UPDATE SET (failures, failing_since, opened_at, probe_at, not_before, detail) = (
        SELECT n, since, CASE WHEN n >= %(limit)s THEN coalesce(s.opened_at, clock_timestamp()) END,
            CASE WHEN n >= %(limit)s THEN clock_timestamp() + %(probe)s::interval END,
            greatest(s.not_before, EXCLUDED.not_before), EXCLUDED.detail
        FROM (SELECT CASE WHEN kept THEN s.failures ELSE 0 END + %(one)s AS n,
                CASE WHEN kept THEN s.failing_since ELSE clock_timestamp() END AS since
            FROM (SELECT s.opened_at IS NOT NULL
                OR s.failing_since > clock_timestamp() - %(window)s::interval AS kept) AS window_) AS counted)
"""  # noqa: S608 - the table's own name

#: the line: each waiting row with how many machines of its person come before it
_LINE: Final = f"""
    WITH flying AS (
        SELECT owner_id, count(*) AS n, count(*) FILTER (WHERE NOT had_server AND failures = 0) AS orders FROM {_ROWS}
        WHERE admitted_at IS NOT NULL AND deleted_at IS NULL GROUP BY owner_id
    ), line AS (
        SELECT one.id, one.serial, one.due_at <= clock_timestamp() AS due,
            row_number() OVER (PARTITION BY one.owner_id ORDER BY one.due_at > clock_timestamp(), one.serial)
                + coalesce(flying.n, 0) AS turn
        FROM {_ROWS} AS one LEFT JOIN flying USING (owner_id)
        WHERE one.state = 'waiting' AND one.deleted_at IS NULL
    )
"""  # noqa: S608 - the table's own name
_TURN: Final = f"""{_LINE}
    SELECT id FROM line WHERE due ORDER BY turn, serial
    LIMIT greatest(0, least(
        %(places)s - (SELECT coalesce(sum(n), 0) FROM flying),
        %(orders)s - (SELECT coalesce(sum(orders), 0) FROM flying)
    ))
"""  # noqa: S608 - our own words
_PLACES: Final = f"""{_LINE}, placed AS (SELECT id, row_number() OVER (ORDER BY turn, serial) AS place FROM line)
    SELECT id, place FROM placed WHERE id = ANY(%(ids)s)
"""  # noqa: S608 - our own words


def _probe(service: str) -> bool:
    """Takes the one call that may try an open breaker now. False where somebody else has it."""
    return bool(
        ServiceState.objects.filter(service=service, opened_at__isnull=False, probe_at__lte=Now()).update(
            probe_at=Now() + pace().breaker_probe
        )
    )
