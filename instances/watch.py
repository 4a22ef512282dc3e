"""Follows all machines by a few calls, however many there are: what changed at the cloud, and which desktops answer.

It compares and wakes: rows that differ from what is seen become due, and the step looks for itself, but where a list
told the one harmless thing that was waited for: a machine has come up (`turn`). It writes nothing of what it saw. Any
number of processes may drive it; a conditional UPDATE decides who does each round.
"""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db.models import Q
from django.db.models.functions import Now

from instances import nudges, pacing, releases
from instances.cloud.greeting import PATIENCE, which_answer
from instances.cloud.protocol import Changes, Cloud, CloudError, Desktop, Server, ServerStatus
from instances.lifecycle import Seen, State, Wanted
from instances.looking import MEANS, has_come_up
from instances.models import Instance, Watch
from instances.outcomes import unanswered
from instances.pace import pace

log = logging.getLogger(__name__)

#: states in which the cloud is expected to change something soon
ON_THE_WAY: Final = (State.BUILDING, State.STARTING, State.STOPPING, State.REBOOTING, State.DELETING)

#: Nova tells the times of changes in whole seconds
TICK: Final = timedelta(seconds=1)
#: between two lists passes so many times what the first one took
REST_OF_LIST: Final = 2
#: seconds a ready desktop has for it, and how many are asked at once; then the same for those that missed it
GREETING_PATIENCE: Final = ((0.5, 50), (1.5, 20))

#: where a desktop listens, and whether it is known to be silent
_Greeted = tuple[Desktop, bool]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What a row says of its server, as far as a list can contradict it."""

    id: UUID
    wanted: str
    seen: str
    had_server: bool
    server_id: str | None
    cloud_flavour: str
    cloud_host: str
    discarding_since: datetime | None


def turn(cloud: Cloud) -> Mapping[UUID, Server]:
    """Does those rounds that are due and that nobody else does. One query where none is.

    Returns the machines that were being made and are listed as running now, which are due: their next step need not
    ask the cloud for them again.
    """
    if releases.outdated():
        return {}
    up: Mapping[UUID, Server] = {}
    state = Watch.objects.annotate(now=Now()).first()
    if state is None:
        Watch.objects.bulk_create([Watch()], ignore_conflicts=True)
        state = Watch.objects.annotate(now=Now()).get()
    now: datetime = state.now
    if _due(state.due_at, now) and _take("due_at", pace().budget):
        up = _servers(cloud, state, now)
    if _due(state.booting_due_at, now) and _take("booting_due_at", pace().greet_booting):
        _booting()
    if _due(state.ready_due_at, now) and _take("ready_due_at", pace().greet_ready):
        _ready()
    return up


def _due(at: datetime | None, now: datetime) -> bool:
    return at is None or at <= now


def _take(field: str, interval: timedelta) -> bool:
    """Takes one round for this process: it is due again after `interval`. False where somebody was first."""
    due = Q(**{field: None}) | Q(**{f"{field}__lte": Now()})
    return Watch.objects.filter(due).update(**{field: Now() + interval}) == 1


def _servers(cloud: Cloud, state: Watch, now: datetime) -> Mapping[UUID, Server]:
    """What changed at the cloud since the last time, or all there is. Rows that say otherwise are woken.

    Returns who came up.
    """
    gate = pacing.gate()
    if not gate.passes(*pacing.FOR_ALL):
        Watch.objects.update(due_at=Now() + pace().watch_busy)
        return {}
    full = state.changes_at is None or state.full_at is None or now - state.full_at > pace().watch_full
    began = time.monotonic()
    try:
        changes = _all(cloud) if full else cloud.changed_since(_since(state, now))
    except CloudError as error:
        log.warning("the watch saw nothing: %s: %s", type(error).__name__, error)
        unanswered(error)
        Watch.objects.update(due_at=Now() + pace().watch_busy)
        return {}
    pacing.answered(gate, pacing.FOR_ALL)
    differing = _differing(changes.servers, full=full)
    up = {one: server for one, server in differing.items() if server is not None}
    woken = _wake([one for one in differing if one not in up])
    # Whoever called takes these at once: nobody else is told.
    woken = _make_due(list(up)) or woken
    busy = woken or Instance.objects.filter(state__in=ON_THE_WAY, deleted_at=None).exists()
    # From when it was asked, not from when it answered: what changed meanwhile is in the next round.
    seen = {"changes_at": now, **({"full_at": now} if full else {}), **_newest(state, changes.times, now)}
    # A cloud that takes long over its lists has something else to do: machines to make, for one.
    patient = timedelta(seconds=REST_OF_LIST * (time.monotonic() - began))
    Watch.objects.update(**seen, due_at=Now() + max(patient, pace().watch_busy if busy else pace().watch_idle))
    return up


def _since(state: Watch, now: datetime) -> datetime:
    """From when on changes are asked for: by the cloud's own clock, as soon as it has told the time of one."""
    if state.newest_at is None:
        return (state.changes_at or now) - pace().watch_overlap
    late = state.newest_since is None or now - state.newest_since < pace().watch_late
    # All that happened in its second has been listed by then, so the next list may well be empty.
    return state.newest_at + (-pace().watch_late if late else TICK)


def _all(cloud: Cloud) -> Changes:
    servers = tuple(cloud.list())
    return Changes(servers=servers, times=tuple(at for one in servers if (at := one.changed_at) is not None))


def _newest(state: Watch, times: Iterable[datetime], now: datetime) -> dict[str, datetime]:
    """When the newest change was, if it is newer than all before. A host's clock that is far ahead tells nothing."""
    newest = max((at for at in times if at <= now + pace().watch_overlap), default=None)
    if newest is None or (state.newest_at is not None and newest <= state.newest_at):
        return {}
    return {"newest_at": newest, "newest_since": now}


def _differing(servers: Collection[Server], *, full: bool) -> dict[UUID, Server | None]:
    """Whose row is not what is listed, with the server of those that came up. The rows are read after the list, in one
    query.
    """
    listed: dict[UUID, list[Server]] = {}
    for server in servers:
        listed.setdefault(server.instance_id, []).append(server)
    mine = Q(id__in=list(listed))
    if full:
        # Whoever is missing from the whole list differs as well.
        mine |= Q(had_server=True) & ~Q(seen=Seen.ABSENT)
    asked = [one.name for one in fields(_Known)]
    rows = [_Known(**row) for row in Instance.objects.filter(mine, deleted_at=None).values(*asked)]
    differing = [row for row in rows if _differs(row, listed.get(row.id, ()), full=full)]
    return {row.id: _come_up(row, listed.get(row.id, ())) for row in differing}


def _come_up(row: _Known, servers: Sequence[Server]) -> Server | None:
    """The one server that is listed for it, where that is the news of a launch."""
    return servers[0] if len(servers) == 1 and has_come_up(row, servers[0]) else None


def _differs(row: _Known, servers: Iterable[Server], *, full: bool) -> bool:
    alive = [one for one in servers if one.status is not ServerStatus.DELETED]
    if not alive:
        # A round of changes lists what was deleted; one that lists nothing of a machine says nothing of it.
        told = full or any(one.id == row.server_id for one in servers)
        return told and row.had_server and row.seen != Seen.ABSENT
    server = alive[0]
    if len(alive) > 1 or server.id != row.server_id:
        return True
    if server.flavour and row.cloud_flavour and server.flavour[:255] != row.cloud_flavour:
        return True
    if server.host and row.cloud_host and server.host[:255] != row.cloud_host:
        return True
    means = MEANS.get(server.status)
    return means is not None and row.seen not in _SAME.get(means, {means})


#: the cloud cannot tell whether a desktop answers
_SAME: Final[Mapping[Seen, frozenset[Seen]]] = {Seen.BOOTING: frozenset({Seen.BOOTING, Seen.READY})}


def _booting() -> None:
    """Whose desktop has begun to answer is woken."""
    rows = _desktops(Seen.BOOTING)
    answering = which_answer({desktop for desktop, _silent in rows.values()}, patience=PATIENCE / 3)
    _wake([one for one, (desktop, _silent) in rows.items() if desktop in answering])


def _ready() -> None:
    """Whose desktop stopped answering, and whose answers again, is woken. The step asks once more by itself.

    Who did not answer is asked twice here: where this host is busy, many are late at once, and each that is woken for
    it asks the cloud, which may be what keeps the host busy.
    """
    rows = _desktops(Seen.READY)
    asked = {desktop for desktop, _silent in rows.values()}
    answering: set[Desktop] = set()
    for patience, at_once in GREETING_PATIENCE:
        answering |= which_answer(asked - answering, patience=patience, at_once=at_once)
    _wake([one for one, (desktop, silent) in rows.items() if (desktop in answering) is silent])


def _desktops(seen: Seen) -> dict[UUID, _Greeted]:
    """Where the desktops of machines with this sight listen, and whether each is known to be silent."""
    rows = Instance.objects.filter(
        seen=seen,
        wanted=Wanted.RUNNING,
        deleted_at=None,
        desktop_host__isnull=False,
        desktop_port__isnull=False,
    ).values_list("id", "desktop_host", "desktop_port", "silent_since")
    return {one: (Desktop(host=host or "", port=port or 0), since is not None) for one, host, port, since in rows}


def _wake(ids: Collection[UUID]) -> bool:
    """Makes these rows due now and says so. True where one was not due already."""
    woken = _make_due(ids)
    if woken:
        nudges.say()
    return woken


def _make_due(ids: Collection[UUID]) -> bool:
    """Makes these rows due now, in one UPDATE. True where one was not due already."""
    later = Instance.objects.filter(id__in=ids, deleted_at=None, due_at__gt=Now())
    return bool(ids) and later.update(due_at=Now()) > 0
