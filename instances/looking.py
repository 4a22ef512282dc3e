"""What the cloud shows of one instance now, and what that alone changes in its row."""

from datetime import datetime
from typing import Final, Protocol

from instances import checkpoints
from instances.checkpoints import checkpoint
from instances.cloud.greeting import desktop_answers
from instances.cloud.protocol import CloudDenied, CloudUnreachable, Desktop, Server, ServerStatus, Service, server_name
from instances.lifecycle import OFF, ON, Seen, Wanted, fulfilled
from instances.models import Instance
from instances.outcomes import OUTAGES, Sight, Visit, saying, silence
from instances.transitions import Event

#: what each status of a server means for its machine; a running one is READY as soon as its desktop answers
MEANS: Final = {
    ServerStatus.BUILD: Seen.BUILDING,
    ServerStatus.ACTIVE: Seen.BOOTING,
    ServerStatus.REBOOT: Seen.BOOTING,
    ServerStatus.SHUTOFF: Seen.STOPPED,
    ServerStatus.PAUSED: Seen.PAUSED,
    ServerStatus.SHELVED: Seen.SHELVED,
    ServerStatus.RESIZE: Seen.RESIZING,
    ServerStatus.ERROR: Seen.FAILED,
    ServerStatus.DELETED: Seen.ABSENT,
}


def look(visit: Visit) -> Sight:
    """What the cloud shows of an instance now. Silence is UNKNOWN and never ABSENT."""
    instance = visit.claim.instance
    if visit.told is not None and has_come_up(instance, visit.told):
        checkpoint(checkpoints.ACTIVE_SEEN)
        return Sight(seen=Seen.BOOTING, server=visit.told)
    greeted: dict[Desktop, bool] = {}
    try:
        up = _is_up(visit, greeted)
        servers = (up,) if up is not None else visit.cloud.find(instance.id) or _renamed(visit)
    except (CloudUnreachable, CloudDenied) as error:
        visit.unanswered(error)
        return Sight(seen=Seen.UNKNOWN, detail=str(error), error=error)
    visit.heard |= {Service.KEYSTONE, Service.NOVA}
    if not servers:
        return Sight(seen=Seen.ABSENT)
    # The one somebody works on; else the oldest that is sound, and one that is going away where there is no other.
    theirs = instance.server_id if instance.ready_at is not None else None
    if theirs is not None and instance.wanted != Wanted.DELETED and all(one.id != theirs for one in servers):
        # Another one is no answer: taken for theirs, it would make theirs the surplus one once that is listed again.
        return Sight(seen=Seen.ABSENT)
    order = sorted(
        servers,
        key=lambda server: (theirs not in {None, server.id}, server.status is ServerStatus.ERROR, server.deleting),
    )
    kept = order[0]
    seen = MEANS.get(kept.status, Seen.UNKNOWN)
    silent = False
    if kept.status is ServerStatus.ACTIVE:
        answers = kept.desktop is not None and _answers(kept.desktop, greeted)
        # One that was ready and has not been rebooted keeps its word; that it is silent is said beside it.
        silent = not answers and instance.seen == Seen.READY
        seen = Seen.READY if answers or silent else Seen.BOOTING
        if instance.seen != seen:
            checkpoint(checkpoints.READY_SEEN if seen is Seen.READY else checkpoints.ACTIVE_SEEN)
    return Sight(seen=seen, server=kept, surplus=tuple(order[1:]), detail=kept.fault, silent=silent)


def _is_up(visit: Visit, greeted: dict[Desktop, bool]) -> Server | None:
    """The server of a machine that boots and whose desktop greets now, asked for by its id, where it runs.

    Half the price of looking for all there are. Of two that were made on one port none has a network (decision 0008),
    so one that greets has no double. Raises CloudUnreachable, CloudDenied.
    """
    instance = visit.claim.instance
    if instance.wanted != Wanted.RUNNING or instance.seen != Seen.BOOTING or instance.discarding_since is not None:
        return None
    if instance.server_id is None or instance.desktop_host is None or instance.desktop_port is None:
        return None
    desktop = Desktop(host=instance.desktop_host, port=instance.desktop_port)
    if not _answers(desktop, greeted):
        return None
    server = visit.cloud.known(instance.server_id)
    runs = server is not None and server.status is ServerStatus.ACTIVE and not server.deleting
    return server if server is not None and runs and server.desktop == desktop else None


def _renamed(visit: Visit) -> tuple[Server, ...]:
    """Its server, where somebody gave it another name at the cloud, by which nobody finds it.

    Under its own name it is not taken for seen: why no list shows it is then not known. Raises CloudUnreachable,
    CloudDenied.
    """
    instance = visit.claim.instance
    server = visit.cloud.known(instance.server_id) if instance.server_id is not None else None
    return (server,) if server is not None and server.name != server_name(instance.id) else ()


def _answers(desktop: Desktop, greeted: dict[Desktop, bool]) -> bool:
    """Whether it greets, asked once in a look."""
    if desktop not in greeted:
        greeted[desktop] = desktop_answers(desktop)
    return greeted[desktop]


class Awaited(Protocol):
    """What a row says of a machine that may be on its way: `models.Instance`, or as much of it."""

    @property
    def wanted(self) -> str: ...

    @property
    def seen(self) -> str: ...

    @property
    def server_id(self) -> str | None: ...

    @property
    def discarding_since(self) -> datetime | None: ...


def has_come_up(row: Awaited, server: Server) -> bool:
    """Whether a list that shows this server has told all there is to know for now: what was being made runs.

    Its desktop is asked for later, and with that the cloud. A build that was given up is not waited for: only its
    desktop can save it.
    """
    waited_for = row.wanted == Wanted.RUNNING and row.seen == Seen.BUILDING and row.discarding_since is None
    return waited_for and server.id == row.server_id and server.status is ServerStatus.ACTIVE


def sighted(instance: Instance, sight: Sight, now: datetime) -> tuple[dict[str, object], list[Event]]:
    """What a look alone changes in the row, and tells. `now` is the database's."""
    seen, fresh = sight.seen, sight.seen != instance.seen
    if seen is Seen.UNKNOWN:
        # `seen` keeps the last thing that was really seen; `seen_at` says since when it is old.
        return {}, []
    changes: dict[str, object] = {"seen": seen, "seen_at": now, "missed": 0}
    events = [Event(kind=f"seen.{seen}")] if fresh else []
    if seen is Seen.ABSENT:
        changes["missed"] = instance.missed + 1
    else:
        changes |= {"had_server": True, "intent_at": None, "gone": False}
        if seen is not Seen.BUILDING:
            # It is made, or will never be: its place among the creates in flight is free.
            changes["admitted_at"] = None
    if sight.server is not None:
        changes |= _placed(instance, sight.server, events)
    if fresh:
        changes |= {"step_since": now, "failures": 0}
        if not instance.failed and (seen in OFF | ON or not instance.reason_code.startswith("retry_")):
            changes |= silence()
    elif instance.reason_code in OUTAGES | {"step_broke"}:
        changes |= {"failures": 0, **silence()}
    if fulfilled(Wanted(instance.wanted), seen) and instance.fulfilled_at is None and instance.reboot_wanted_at is None:
        changes["fulfilled_at"] = now
    if seen is Seen.READY:
        changes |= {"failed": False, "builds_lost": 0, **silence()}
        if instance.ready_at is None:
            changes["ready_at"] = now
        if instance.reboot_sent_at is not None and fresh:
            changes |= {"reboot_wanted_at": None, "reboot_sent_at": None, "fulfilled_at": now}
    _voice(instance, sight, now, changes, events)
    return changes, events


def _placed(instance: Instance, server: Server, events: list[Event]) -> dict[str, object]:
    """Which server it is, where its desktop listens, and where the cloud keeps it."""
    changes: dict[str, object] = {"server_id": server.id}
    if server.desktop is not None:
        changes |= {"desktop_host": server.desktop.host, "desktop_port": server.desktop.port}
    if server.host and server.host != instance.cloud_host:
        changes["cloud_host"] = server.host[:255]
        if instance.cloud_host and instance.server_id == server.id:
            events.append(Event(kind="moved"))
    return changes


def _voice(instance: Instance, sight: Sight, now: datetime, changes: dict[str, object], events: list[Event]) -> None:
    """Since when its desktop is silent, and that it is back."""
    if sight.silent:
        changes |= saying("desktop_silent")
        if instance.silent_since is None:
            changes["silent_since"] = now
            events.append(Event(kind="desktop.silent"))
    elif instance.silent_since is not None:
        changes["silent_since"] = None
        if sight.seen is Seen.READY:
            events.append(Event(kind="desktop.back"))
