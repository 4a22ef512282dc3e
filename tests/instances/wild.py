"""A world for machines in which anything may go wrong, in one process and in time that is told to pass.

`WildCloud` executes an order once, late, twice or not at all, and tells or does not tell. A step of a worker may die or
freeze at any checkpoint and before or after any call. `age` lets time pass for everything that is written down.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from django.apps import apps
from django.db import connection, models
from django.db.models import F
from typing_extensions import override

from instances import checkpoints
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import (
    CloudError,
    CloudFull,
    CloudLimited,
    CloudUnreachable,
    Port,
    Server,
    ServerSpec,
    ServerStatus,
)

T = TypeVar("T")


class Mishap(StrEnum):
    """What becomes of one order."""

    LOST = "lost"  #: it never arrives, and nobody says so
    UNTOLD = "untold"  #: it is executed, the answer is lost
    LATE = "late"  #: given up by the client, and executed later
    TWICE = "twice"  #: executed two times
    LIMITED = "limited"  #: refused for now
    FULL = "full"  #: no room
    BREAKS = "breaks"  #: executed, and the server ends in ERROR
    STUCK = "stuck"  #: executed, and the server is never made


class Death(BaseException):
    """A worker dies here: not an Exception, as nothing may catch it."""


_here = threading.local()


def passing(point: str) -> None:
    """Whoever has a plan for this point dies or freezes at it."""
    plan: Callable[[str], None] | None = getattr(_here, "plan", None)
    if plan is not None:
        plan(point)


@contextlib.contextmanager
def planned(plan: Callable[[str], None]) -> Iterator[None]:
    """Within the block this thread passes checkpoints and calls by this plan."""
    checkpoints.told(passing)
    _here.plan = plan
    try:
        yield
    finally:
        _here.plan = None


def dying(step: Callable[[], object], point: str) -> bool:
    """Takes a step as a worker that dies at this point. True where it came there."""

    def plan(passed: str) -> None:
        if passed == point:
            raise Death(point)

    with planned(plan):
        try:
            step()
        except Death:
            # Its connection dies with it, and with that whatever it had open.
            connection.close()
            return True
    return False


class Frozen(threading.Thread):
    """A step that freezes at a point, until it is thawed; `frozen` where it came there."""

    def __init__(self, step: Callable[[], object], point: str) -> None:
        super().__init__(daemon=True)
        self._step, self._point = step, point
        self._go, self._stands_or_ended = threading.Event(), threading.Event()
        self.frozen = False
        self.since = 0
        self.error: BaseException | None = None
        self.start()
        assert self._stands_or_ended.wait(60), f"neither at {point} nor at its end"

    @override
    def run(self) -> None:
        def plan(passed: str) -> None:
            if passed == self._point and not self.frozen:
                self.frozen = True
                self._stands_or_ended.set()
                assert self._go.wait(600)

        try:
            with planned(plan):
                self._step()
        except BaseException as error:  # noqa: BLE001 - told to whoever thaws it
            self.error = error
        finally:
            connection.close()
            self._stands_or_ended.set()

    def thaw(self) -> None:
        """It goes on, and ends. Raises what it ended with."""
        self._go.set()
        self.join(60)
        assert not self.is_alive(), "it does not end"
        if self.error is not None:
            raise self.error


class WildCloud(MemoryCloud):
    """`mishaps` holds what becomes of the next order of each verb, once."""

    def __init__(self, **how: object) -> None:
        super().__init__(**how)  # type: ignore[arg-type]
        self.mishaps: dict[str, Mishap] = {}
        self.deaf_for = 0
        self.clock = 0
        self.late: list[tuple[int, Callable[[], object]]] = []

    def catch_up(self, now: int) -> int:
        """What was late is executed now. How late the latest was, in seconds."""
        latest = 0
        while self.late:
            since, order = self.late.pop(0)
            latest = max(latest, now - since)
            with contextlib.suppress(CloudError):
                order()
        return latest

    def unbreak(self) -> None:
        """All is well from now on; builds that were stuck are made."""
        self.mishaps.clear()
        self.deaf_for = 0
        with self._lock:
            for machine in self._machines.values():
                if machine.server.status is ServerStatus.BUILD and machine.arriving is None:
                    self._set_off(machine, ServerStatus.BUILD)
                if machine.server.status is ServerStatus.RESIZE:
                    self.of_environment(machine.environment).move(machine.server.id)

    def age(self, by: timedelta) -> None:
        """Everything in the cloud is older by so much."""
        with self._lock:
            for machine in (*self._machines.values(), *self._deleted):
                server = machine.server
                changed_at = server.changed_at - by if server.changed_at is not None else None
                machine.server = replace(server, created_at=server.created_at - by, changed_at=changed_at)
            for key, (environment, port) in self._ports.items():
                self._ports[key] = (environment, replace(port, created_at=port.created_at - by))

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        self._listen("find")
        return super().find(instance_id)

    @override
    def known(self, server_id: str) -> Server | None:
        self._listen("known")
        return super().known(server_id)

    @override
    def find_ports(self, instance_id: UUID) -> tuple[Port, ...]:
        self._listen("find_ports")
        return super().find_ports(instance_id)

    @override
    def list(self) -> Iterable[Server]:
        self._listen("list")
        return super().list()

    @override
    def create(self, spec: ServerSpec) -> Server:
        return self._ordered("create", lambda: super(WildCloud, self).create(spec))

    @override
    def create_port(self, instance_id: UUID) -> Port:
        return self._ordered("create_port", lambda: super(WildCloud, self).create_port(instance_id))

    @override
    def delete(self, server_id: str) -> None:
        self._ordered("delete", lambda: super(WildCloud, self).delete(server_id))

    @override
    def delete_port(self, port_id: str) -> None:
        self._ordered("delete_port", lambda: super(WildCloud, self).delete_port(port_id))

    @override
    def start(self, server_id: str) -> None:
        self._ordered("start", lambda: super(WildCloud, self).start(server_id))

    @override
    def stop(self, server_id: str) -> None:
        self._ordered("stop", lambda: super(WildCloud, self).stop(server_id))

    @override
    def reboot(self, server_id: str) -> None:
        self._ordered("reboot", lambda: super(WildCloud, self).reboot(server_id))

    def _listen(self, verb: str) -> None:
        passing(f"before {verb}")
        if self.deaf_for > 0:
            self.deaf_for -= 1
            raise CloudUnreachable("no answer")

    def _ordered(self, verb: str, order: Callable[[], T]) -> T:
        passing(f"before {verb}")
        mishap = self.mishaps.pop(verb, None)
        match mishap:
            case Mishap.LOST:
                raise CloudUnreachable("the order was lost")
            case Mishap.UNTOLD:
                order()
                raise CloudUnreachable("the answer was lost")
            case Mishap.LATE:
                self.late.append((self.clock, order))
                raise CloudUnreachable("no answer in time")
            case Mishap.LIMITED:
                raise CloudLimited("too many calls", retry_after=2.0)
            case Mishap.FULL if verb in {"create", "create_port", "start"}:
                raise CloudFull("no room")
        done = order()
        if mishap is Mishap.TWICE:
            with contextlib.suppress(CloudError):
                order()
        if isinstance(done, Server) and mishap is Mishap.BREAKS:
            self.fail_build(done.id, "the host has burnt down")
        if isinstance(done, Server) and mishap is Mishap.STUCK:
            self._machine(done.id).becomes(ServerStatus.BUILD, ran=False)
        passing(f"after {verb}")
        return done


#: every point at which a worker may die or freeze
POINTS = (
    *checkpoints.ALL,
    *(f"before {verb}" for verb in ("find", "find_ports", "create_port", "stop", "start", "reboot", "delete_port")),
    *(f"after {verb}" for verb in ("stop", "start", "reboot", "delete_port")),
)
#: tables in which time passes
AGEING = ("Instance", "ServiceState", "Watch", "Sighting", "Sweep", "GuestPass")


def age(by: timedelta) -> None:
    """So much time passes for everything that is written down: all that was is so much longer ago."""
    for name in AGEING:
        model = apps.get_model("instances", name)
        moments = [one.name for one in model._meta.get_fields() if isinstance(one, models.DateTimeField)]
        model._default_manager.update(**{moment: F(moment) - by for moment in moments})


def forget() -> None:
    """Nothing is left of what one run wrote, but the audit trail, which nobody can take away."""
    for label in (
        *("instances.InstanceEvent", "instances.Instance", "instances.ServiceState", "instances.Watch"),
        *("instances.Sighting", "instances.Sweep", "instances.SweepHold", "outbox.Outbox"),
        *("quotas.Reservation", "quotas.Allowance"),
    ):
        apps.get_model(label)._default_manager.all().delete()
