"""What must hold when everything has come to rest, told from three sides: rows, servers, ports.

I1 each live row has at most one live server, and it is the one it names
I2 no server of ours is without a row
I3 no port or volume is without a row that needs it
I4 counters are the sum of the reservations, and these are what the cloud holds
I5 the state shown is the state of the server
I6 no launch is lost: each that was accepted ends ready, off, failed with a reason, gone with a reason, or deleted
I7 each step of a machine's story has its row in the audit trail, and the trail's chain is whole

Servers and ports are given as the cloud itself lists them, past the platform's own code.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, kw_only=True)
class Live:
    """A server as the cloud lists it; `status` is Nova's word, `flavour` the cloud's name of its size."""

    id: str
    instance_id: str
    status: str
    flavour: str = ""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A port or volume as the cloud lists it."""

    id: str
    instance_id: str
    server_id: str = ""


#: what a server's status may be where a person reads this state
SHOWN = {
    "active": {"ACTIVE"},
    "starting": {"ACTIVE", "BUILD", "REBOOT", "SHUTOFF"},
    "rebooting": {"ACTIVE", "REBOOT", "HARD_REBOOT", "SHUTOFF"},
    "stopped": {"SHUTOFF"},
    "paused": {"PAUSED", "SUSPENDED"},
    "shelved": {"SHELVED", "SHELVED_OFFLOADED"},
    "resizing": {"RESIZE", "VERIFY_RESIZE"},
}
#: where a machine may come to rest
RESTS = frozenset({"active", "stopped", "paused", "shelved", "error", "gone", "deleted"})


def violations(
    servers: Collection[Live],
    ports: Collection[Held],
    volumes: Collection[Held] = (),
    *,
    accepted: Iterable[UUID] = (),
    sealed: bool = True,
) -> list[str]:
    """Whatever does not hold now, each in a sentence that begins with its invariant. Empty where all is well.

    The audit trail's chain, which grows longer all the time, is read where `sealed` says so, and all else holds.
    """
    from instances.models import Instance

    rows = {str(row.id): row for row in Instance.objects.all()}
    found = [*_servers(rows, servers), *_things(rows, servers, ports, "port")]
    found += [*_things(rows, servers, volumes, "volume"), *_books(rows, servers), *_states(rows, servers)]
    found += [*_accepted(rows, accepted), *_trail(rows)]
    return found or (chain() if sealed else [])


def _live(row: Any) -> bool:
    return row is not None and row.deleted_at is None and not row.gone


def _servers(rows: dict[str, Any], servers: Collection[Live]) -> Iterator[str]:
    for instance_id, number in Counter(server.instance_id for server in servers).items():
        if number > 1:
            yield f"I1 {number} servers of {instance_id}"
    named: dict[str, str] = {server.instance_id: server.id for server in servers}
    for instance_id, row in rows.items():
        if _live(row) and row.server_id and named.get(instance_id) != row.server_id:
            yield f"I1 {instance_id} ({row.state}) names {row.server_id}; there is {named.get(instance_id)}"
        if _live(row) and not row.server_id and instance_id in named:
            yield f"I1 {instance_id} ({row.state}) names no server; there is {named[instance_id]}"
    for server in servers:
        if not _live(rows.get(server.instance_id)):
            yield f"I2 server {server.id} ({server.status}) of {server.instance_id} has no row"


def _things(rows: dict[str, Any], servers: Collection[Live], things: Collection[Held], what: str) -> Iterator[str]:
    alive = {server.id for server in servers}
    for thing in things:
        row = rows.get(thing.instance_id)
        if row is None or row.deleted_at is not None:
            yield f"I3 {what} {thing.id} of {thing.instance_id} has no row"
        elif what == "port" and row.port_id != thing.id and thing.server_id not in alive:
            yield f"I3 {what} {thing.id} of {thing.instance_id} ({row.state}) is not the one it names, {row.port_id}"
    for instance_id, number in Counter(thing.instance_id for thing in things if what == "port").items():
        if number > 1:
            yield f"I3 {number} ports of {instance_id}"


def _books(rows: dict[str, Any], servers: Collection[Live]) -> Iterator[str]:
    from quotas import allowances
    from quotas.models import Flavour, Reservation

    for one in allowances.differences():
        yield f"I4 {one.person}'s counter says {one.used}, the reservations {one.reserved}"
    held = {str(one.holder): one for one in Reservation.objects.all()}
    sizes = {flavour.cloud_name: flavour.resources for flavour in Flavour.objects.all()}
    for instance_id in held:
        row = rows.get(instance_id)
        if row is None or row.deleted_at is not None or row.gone:
            yield f"I4 {instance_id} ({row.state if row else 'no row'}) holds a reservation"
    for server in servers:
        if server.instance_id not in held:
            yield f"I4 server {server.id} of {server.instance_id} has no reservation"
        elif server.flavour in sizes and held[server.instance_id].resources != sizes[server.flavour]:
            yield f"I4 server {server.id} is {server.flavour}; reserved is {held[server.instance_id].resources}"
    for instance_id, row in rows.items():
        if _live(row) and not row.failed and instance_id not in held:
            yield f"I4 {instance_id} ({row.state}) holds no reservation"


def _states(rows: dict[str, Any], servers: Collection[Live]) -> Iterator[str]:
    status = {server.instance_id: server.status for server in servers}
    for instance_id, row in rows.items():
        if row.state in SHOWN and status.get(instance_id) not in SHOWN[row.state]:
            yield f"I5 {instance_id} is shown as {row.state}, and its server is {status.get(instance_id)}"
        if row.state in {"gone", "deleted"} and instance_id in status:
            yield f"I5 {instance_id} is shown as {row.state}, and its server is {status[instance_id]}"


def _accepted(rows: dict[str, Any], accepted: Iterable[UUID]) -> Iterator[str]:
    for instance_id in accepted:
        row = rows.get(str(instance_id))
        if row is None:
            yield f"I6 {instance_id} was accepted and has no row"
        elif row.state not in RESTS:
            yield f"I6 {instance_id} is {row.state}: {row.reason_code or 'no reason'}"
        elif row.state in {"error", "gone"} and not row.reason:
            yield f"I6 {instance_id} is {row.state} without a reason"


def _trail(rows: dict[str, Any]) -> Iterator[str]:
    from instances.models import InstanceEvent
    from visa.audit.models import AuditEvent

    told = Counter((str(one), kind) for one, kind in InstanceEvent.objects.values_list("instance_id", "kind"))
    written = Counter(
        AuditEvent.objects.filter(kind="instance", object_id__in=list(rows)).values_list("object_id", "action")
    )
    for (instance_id, kind), number in told.items():
        seen = written[(instance_id, f"instance.{kind}")]
        if seen != number:
            yield f"I7 {instance_id}: {kind} happened {number} times, the trail says {seen}"


def chain() -> list[str]:
    """What is wrong with the audit trail's chain."""
    from visa.audit import sealing, verification

    sealing.seal()
    return [f"I7 {fault.words}" for fault in verification.verify(heads={}).faults]
