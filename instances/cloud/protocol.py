"""A cloud as the platform sees it: a handful of verbs whose docstrings are contracts, and its values. Pure.

Every implementation passes `tests/contracts/test_cloud.py`. Verbs are synchronous, take at most
`CALL_SECONDS`, never retry a write, and raise only the errors defined here. Words are Nova's.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

#: the longest one call may take, in seconds; half a lease must hold three of them
CALL_SECONDS = 10.0


class Service(StrEnum):
    """The services of a cloud, each of which may be away by itself. OpenStack's project names."""

    KEYSTONE = "keystone"
    NOVA = "nova"
    NEUTRON = "neutron"
    GLANCE = "glance"
    CINDER = "cinder"


class ServerStatus(StrEnum):
    """Nova's server status, as far as the platform acts on it."""

    BUILD = "BUILD"
    ACTIVE = "ACTIVE"  #: VERIFY_RESIZE and PASSWORD as well: the server runs
    SHUTOFF = "SHUTOFF"
    REBOOT = "REBOOT"
    PAUSED = "PAUSED"  #: frozen in memory or on disk (SUSPENDED) by an operator
    SHELVED = "SHELVED"  #: SHELVED and SHELVED_OFFLOADED: put aside, its disk kept
    RESIZE = "RESIZE"  #: moved or resized, and off meanwhile (RESIZE, MIGRATING when cold, REVERT_RESIZE)
    ERROR = "ERROR"
    DELETED = "DELETED"
    UNKNOWN = "UNKNOWN"  #: any other, or not told: never a reason to act


@dataclass(frozen=True, kw_only=True)
class Desktop:
    """Where a server's desktop listens."""

    host: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as last seen. `desktop` is None until it has an address. `fault` is the cloud's own sentence.

    `flavour` is the cloud's name of its size; `host` an opaque word that changes when it moves; `deleting` says that
    its deletion is under way. `serial` is what it was created with (`ServerSpec.serial`), 0 where it carries none.
    `ran`: it has run at least once, so that somebody's work may be on it.
    """

    id: str
    name: str
    instance_id: UUID
    status: ServerStatus
    desktop: Desktop | None
    created_at: datetime
    fault: str = ""
    flavour: str = ""
    host: str = ""
    deleting: bool = False
    serial: int = 0
    ran: bool = False
    changed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Servers of our environment that changed, with those that were deleted (status DELETED).

    `times` are those of all changes that were read, by the cloud's clock and of whomever: others' servers may have to
    be read to find ours, and need not be read again. Empty where the cloud does not tell.
    """

    servers: tuple[Server, ...]
    times: tuple[datetime, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Port:
    """A server's place on the network, made before the server. `server_id` is empty until one uses it."""

    id: str
    name: str
    instance_id: UUID
    mac: str
    created_at: datetime
    server_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A disk made for an instance beside its server's own. `server_id` is empty while nobody uses it."""

    id: str
    name: str
    instance_id: UUID
    created_at: datetime
    server_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """What to create. `image` and `flavour` are the cloud's own names, resolved from our tables by the caller.

    `vcpus`, `memory_mib`, `disk_gib` and `gpus` say what the flavour is meant to hold: a cloud without flavours of
    its own counts them. `user_data` is the cloud-init document (at most 49,149 bytes). `port_id` names the port made
    for it before; `serial` is the instance's place among all that this installation ever accepted, and goes with the
    server, so that a cloud which knows newer machines than the database tells of a database that was put back.
    """

    instance_id: UUID
    image: str
    flavour: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    gpus: int
    user_data: str = field(repr=False)
    port_id: str = ""
    serial: int = 0


@dataclass(frozen=True, kw_only=True)
class Offering:
    """What the cloud has, by name, for `doctor` and for administrators' forms."""

    images: frozenset[str]
    flavours: frozenset[str]
    networks: frozenset[str]


class CloudError(Exception):
    """Something the cloud answered, or did not. `str(error)` is for staff; it never holds a secret.

    `service` is who answered or was silent.
    """

    def __init__(self, sentence: str, *, service: Service = Service.NOVA) -> None:
        super().__init__(sentence)
        self.service = service


class CloudUnreachable(CloudError):
    """No answer, or one that does not tell what happened (timeouts, connection lost, 5xx).

    The call may have been executed, and the caller looks before it acts again; unless `unsent`: then it is certain that
    no order left the house (a lookup before it failed, nobody took the connection, the limit was told first).
    `alone`: the service answers, and can say nothing of this one thing.
    """

    def __init__(
        self, sentence: str, *, service: Service = Service.NOVA, unsent: bool = False, alone: bool = False
    ) -> None:
        super().__init__(sentence, service=service)
        self.unsent = unsent
        self.alone = alone


class CloudLimited(CloudUnreachable):
    """Too many calls (429, or 503 with Retry-After): nothing was executed; come back after `retry_after` seconds."""

    def __init__(self, sentence: str, *, service: Service = Service.NOVA, retry_after: float = 1.0) -> None:
        super().__init__(sentence, service=service, unsent=True)
        self.retry_after = retry_after


class CloudFull(CloudError):
    """There is no room now, or the project's quota is used up: worth trying again later."""


class CloudRefused(CloudError):
    """The request is wrong and will stay so: unknown image or flavour, malformed user-data, no right."""


class CloudDenied(CloudRefused):
    """The credential is not accepted."""


class PortTaken(CloudError):
    """The port that was to be used has a server already, or is gone: nothing was made, look again."""


class ServerGone(CloudError):
    """The cloud knows no server with this id."""


class Cloud(Protocol):
    """What every cloud can do. Servers of other environments are invisible to every verb."""

    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        """All servers made for this instance, oldest first: none, one, or more after a doubled create.

        Deleted servers are not among them; a server whose create was accepted but not yet scheduled is.
        Raises CloudUnreachable, CloudDenied.
        """
        ...

    def known(self, server_id: str) -> Server | None:
        """The server of ours with this id, which a list may leave out while a part of the cloud is away; else None.

        Raises CloudUnreachable, also where the cloud knows of it and can say nothing else, and CloudDenied.
        """
        ...

    def create(self, spec: ServerSpec) -> Server:
        """Asks for one server, named `server_name(spec.instance_id)`, on the port `spec.port_id` where one is named,
        and returns it as accepted.

        Not idempotent in itself: callers `find` first. Raises CloudFull, CloudRefused, PortTaken, CloudUnreachable (may
        have been executed).
        """
        ...

    @property
    def unique_ports(self) -> bool:
        """Whether a port has an address derived from the instance, so that a second `create_port` finds the first.

        Where it does not (a network of another project's), callers wait out the quiet period after an unanswered one.
        Raises CloudUnreachable where that cannot be told yet.
        """
        ...

    def find_ports(self, instance_id: UUID) -> tuple[Port, ...]:
        """All ports made for this instance, oldest first. Raises CloudUnreachable, CloudDenied."""
        ...

    def create_port(self, instance_id: UUID) -> Port:
        """Makes the port of an instance, named `server_name(instance_id)`; with `unique_ports` the one there is.

        Raises CloudFull, CloudRefused, CloudUnreachable (may have been executed).
        """
        ...

    def delete_port(self, port_id: str) -> None:
        """Deletes a port of ours. Nothing happens where it is gone. Raises CloudRefused, CloudUnreachable."""
        ...

    def ports(self) -> Iterable[Port]:
        """All ports of our environment. Raises CloudUnreachable."""
        ...

    def volumes(self) -> Iterable[Volume]:
        """All volumes of our environment; none where the cloud has no volumes. Raises CloudUnreachable."""
        ...

    def delete_volume(self, volume_id: str) -> None:
        """Deletes a volume of ours. Nothing happens where it is gone. Raises CloudRefused, CloudUnreachable."""
        ...

    def start(self, server_id: str) -> None:
        """Makes a server run: one that is off is started, a paused one goes on, a shelved one is brought back.

        Nothing happens where it already runs. Raises ServerGone, CloudFull, CloudUnreachable.
        """
        ...

    def stop(self, server_id: str) -> None:
        """Shuts a server off; its disk stays. Nothing happens where it is off. Raises ServerGone, CloudUnreachable."""
        ...

    def reboot(self, server_id: str) -> None:
        """Boots a running server anew; a server that is off is started. Raises ServerGone, CloudUnreachable."""
        ...

    def delete(self, server_id: str) -> None:
        """Deletes a server and its disk, for ever. Nothing happens where it is gone. Raises CloudUnreachable.

        The server may be found for some seconds more.
        """
        ...

    def list(self) -> Iterable[Server]:
        """All servers of our environment, all pages, without the deleted. Raises CloudUnreachable."""
        ...

    def changed_since(self, when: datetime) -> Changes:
        """What changed then and later. What counts is the cloud's clock, and a change may be written a moment after
        its time. Raises CloudUnreachable.
        """
        ...

    def console(self, server_id: str, *, lines: int = 50) -> str:
        """The last lines of the serial console: hostile text. Raises ServerGone, CloudUnreachable."""
        ...

    def offering(self) -> Offering:
        """What images, flavours and networks there are now. Raises CloudUnreachable, CloudDenied."""
        ...


def server_name(instance_id: UUID) -> str:
    """The name of the server made for an instance, the same in every cloud."""
    return f"visa-{instance_id}"


def port_address(instance_id: UUID) -> str:
    """The MAC address of an instance's port where we may choose it: always the same, locally administered."""
    return ":".join(f"{byte:02x}" for byte in (0x0E, *hashlib.sha256(instance_id.bytes).digest()[:5]))
