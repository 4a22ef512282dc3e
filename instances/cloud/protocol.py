"""A cloud as the platform sees it: a handful of verbs whose docstrings are contracts, and its values. Pure.

Every implementation passes `tests/contracts/test_cloud.py`. Verbs are synchronous, take at most
`CALL_SECONDS`, never retry a write, and raise only the errors defined here. Words are Nova's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

#: the longest one call may take, in seconds; half a lease must hold three of them
CALL_SECONDS = 10.0


class ServerStatus(StrEnum):
    """Nova's server status, as far as the platform acts on it."""

    BUILD = "BUILD"
    ACTIVE = "ACTIVE"
    SHUTOFF = "SHUTOFF"
    REBOOT = "REBOOT"
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
    """A server as last seen. `desktop` is None until it has an address. `fault` is the cloud's own sentence."""

    id: str
    name: str
    instance_id: UUID
    status: ServerStatus
    desktop: Desktop | None
    created_at: datetime
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """What to create. `image` and `flavour` are the cloud's own names, resolved from our tables by the caller.

    `vcpus`, `memory_mib`, `disk_gib` and `gpus` say what the flavour is meant to hold: a cloud without flavours of
    its own counts them. `user_data` is the cloud-init document (at most 49,149 bytes).
    """

    instance_id: UUID
    image: str
    flavour: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    gpus: int
    user_data: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Offering:
    """What the cloud has, by name, for `doctor` and for administrators' forms."""

    images: frozenset[str]
    flavours: frozenset[str]
    networks: frozenset[str]


class CloudError(Exception):
    """Something the cloud answered, or did not. `str(error)` is for staff; it never holds a secret."""


class CloudUnreachable(CloudError):
    """No answer, or one that does not tell what happened (timeouts, connection lost, 5xx): the call may have been
    executed. The caller looks before it acts again."""


class CloudFull(CloudError):
    """There is no room now, or the project's quota is used up: worth trying again later."""


class CloudRefused(CloudError):
    """The request is wrong and will stay so: unknown image or flavour, malformed user-data, no right."""


class CloudDenied(CloudRefused):
    """The credential is not accepted."""


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

    def create(self, spec: ServerSpec) -> Server:
        """Asks for one server, named `server_name(spec.instance_id)`, and returns it as accepted.

        Not idempotent in itself: callers `find` first. Raises CloudFull, CloudRefused, CloudUnreachable (may have been
        executed).
        """
        ...

    def start(self, server_id: str) -> None:
        """Starts a server that is off. Nothing happens where it already runs. Raises ServerGone, CloudUnreachable."""
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
        """All servers of our environment. Raises CloudUnreachable."""
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
