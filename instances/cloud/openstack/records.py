"""What OpenStack answers, as the platform's own values. Its records are the SDK's; None where one is not ours."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from instances.cloud.protocol import Desktop, Port, Server, ServerStatus, Volume, server_name

#: where a machine's desktop listens; deploy/images/build
DESKTOP_PORT: Final = 5901

#: how long Nova may take to write down why a server failed, after it says that it did
FAULT_COMES: Final = timedelta(seconds=10)

#: what `OS-EXT-STS:power_state` says of a guest that is off
_SHUT_DOWN: Final = 4

_STATUS: Final = {
    "BUILD": ServerStatus.BUILD,
    "ACTIVE": ServerStatus.ACTIVE,
    "PASSWORD": ServerStatus.ACTIVE,
    "VERIFY_RESIZE": ServerStatus.ACTIVE,
    "MIGRATING": ServerStatus.ACTIVE,  # live: a cold one is RESIZE to Nova
    "SHUTOFF": ServerStatus.SHUTOFF,
    "REBOOT": ServerStatus.REBOOT,
    "HARD_REBOOT": ServerStatus.REBOOT,
    "PAUSED": ServerStatus.PAUSED,
    "SUSPENDED": ServerStatus.PAUSED,
    "SHELVED": ServerStatus.SHELVED,
    "SHELVED_OFFLOADED": ServerStatus.SHELVED,
    "RESIZE": ServerStatus.RESIZE,
    "REVERT_RESIZE": ServerStatus.RESIZE,
    "ERROR": ServerStatus.ERROR,
    "DELETED": ServerStatus.DELETED,
    "SOFT_DELETED": ServerStatus.DELETED,
}


def instance_tag(instance_id: UUID) -> str:
    return f"visa:instance={instance_id}"


def environment_mark(environment: str) -> str:
    """Whose something is: a server's tag, and the description of servers and ports."""
    return f"visa:environment={environment}"


def server_of(record: Any, environment: str, network: str) -> Server | None:
    """A server. Tags can be edited by anybody with access to the project, and a name can be chosen twice: the metadata
    decides. A deleted server has neither tags nor metadata left, only its name and its description."""
    metadata: Mapping[str, str] = record.metadata or {}
    status = _STATUS.get(record.status or "", ServerStatus.UNKNOWN)
    if status is ServerStatus.DELETED and not metadata:
        ours, instance_id = record.description == environment_mark(environment), _instance_named(record.name)
    else:
        ours, instance_id = metadata.get("visa_environment") == environment, _uuid(metadata.get("visa_instance", ""))
    if not ours or instance_id is None:
        return None
    if status is ServerStatus.ACTIVE and record.status in {"MIGRATING", "VERIFY_RESIZE"}:
        # Either may be of a server that was off or frozen before.
        status = ServerStatus.SHUTOFF if record.power_state == _SHUT_DOWN else status
    fault = str((record.fault or {}).get("message", "")).strip()[:500]
    if status is ServerStatus.ERROR and not fault and _is_recent(record.updated_at):
        # Nova says ERROR first and why a moment later. Not told yet is UNKNOWN: look again before judging.
        status = ServerStatus.UNKNOWN
    serial = metadata.get("visa_serial", "")
    return Server(
        id=record.id,
        name=record.name or "",
        instance_id=instance_id,
        status=status,
        desktop=_desktop(record.addresses or {}, network),
        created_at=datetime.fromisoformat(record.created_at),
        fault=fault,
        flavour=str(getattr(record.flavor, "original_name", "") or ""),
        host=record.host_id or "",
        deleting=record.task_state in {"deleting", "soft-deleting"},
        serial=int(serial) if serial.isdigit() else 0,
        ran=record.launched_at is not None,
        changed_at=changed_at(record),
    )


def changed_at(record: Any) -> datetime | None:
    """When a server changed last, by the cloud's clock, in whole seconds. None where that is not told."""
    return _aware(record.updated_at) if record.updated_at else None


def port_of(record: Any, environment: str) -> Port | None:
    """A port. Its description goes into the order that makes it; tags would be a second order."""
    instance_id = _instance_named(record.name)
    if record.description != environment_mark(environment) or instance_id is None:
        return None
    return Port(
        id=record.id,
        name=record.name,
        instance_id=instance_id,
        mac=record.mac_address,
        created_at=_aware(record.created_at),
        server_id=record.device_id or "",
    )


def volume_of(record: Any, environment: str) -> Volume | None:
    """A volume, by its metadata."""
    metadata: Mapping[str, str] = record.metadata or {}
    instance_id = _uuid(metadata.get("visa_instance", ""))
    if metadata.get("visa_environment") != environment or instance_id is None:
        return None
    users = [str(attachment.get("server_id", "")) for attachment in record.attachments or ()]
    return Volume(
        id=record.id,
        name=record.name or "",
        instance_id=instance_id,
        created_at=_aware(record.created_at),
        server_id=users[0] if users else "",
    )


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _instance_named(name: str | None) -> UUID | None:
    """The instance whose `server_name` this is."""
    found = _uuid((name or "").removeprefix("visa-"))
    return found if found is not None and name == server_name(found) else None


def _aware(timestamp: str) -> datetime:
    """A time of the cloud's; Cinder leaves out that it is UTC."""
    told = datetime.fromisoformat(timestamp)
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def _is_recent(timestamp: str | None) -> bool:
    """Whether a time of the cloud's is about now. Where its clock is wrong, it is not."""
    return timestamp is not None and abs(datetime.now(UTC) - datetime.fromisoformat(timestamp)) < FAULT_COMES


def _desktop(addresses: Mapping[str, Iterable[Mapping[str, object]]], network: str) -> Desktop | None:
    """The server's own address on our network, IPv4 before IPv6. The cloud reports it; the gateway judges it again."""
    own = [entry for entry in addresses.get(network, ()) if entry.get("OS-EXT-IPS:type", "fixed") == "fixed"]
    for entry in sorted(own, key=lambda entry: str(entry.get("version"))):
        return Desktop(host=str(entry["addr"]), port=DESKTOP_PORT)
    return None
