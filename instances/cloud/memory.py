"""A cloud without machines, for tests: every verb of the protocol, with capacity that is really counted.

Passes the same contract suite as the real clouds. The system check `instances.E001` keeps it out of production.
"""

import copy
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

from typing_extensions import override

from instances.cloud.protocol import (
    Cloud,
    CloudFull,
    CloudRefused,
    Desktop,
    Offering,
    Server,
    ServerGone,
    ServerSpec,
    ServerStatus,
    server_name,
)
from instances.userdata import LIMIT_BYTES

#: what it offers: the names the other clouds of a development machine offer too
OFFERING: Final = Offering(
    images=frozenset({"visa-desktop"}),
    flavours=frozenset({"visa.small", "visa.medium", "visa.gpu"}),
    networks=frozenset({"memory"}),
)


@dataclass
class _Machine:
    """One server, and after how many further looks it is what it is on its way to be."""

    server: Server
    spec: ServerSpec
    environment: str
    looks_left: int
    arriving: ServerStatus | None


class MemoryCloud(Cloud):
    """Servers in this process's memory; any number of threads may use one at once.

    `looks` is how many times a server is seen on its way (BUILD, REBOOT) before it has arrived; 0 is at once.
    `desktop` is where every server's desktop is said to be: a real one of the test's own, or nobody. Servers of other
    environments are not seen, but counted.
    """

    def __init__(
        self,
        *,
        cores: int = 64,
        memory_mib: int = 262_144,
        gpus: int = 4,
        looks: int = 0,
        desktop: Desktop | None = None,
        environment: str = "test",
        offering: Offering = OFFERING,
    ) -> None:
        self.cores = cores
        self.memory_mib = memory_mib
        self.gpus = gpus
        self.looks = looks
        self.environment = environment
        self.desktop = desktop or Desktop(host="127.0.0.1", port=9)  # "discard": nobody answers there
        self._offering = offering
        self._machines: dict[str, _Machine] = {}
        self._lock = threading.RLock()

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        return tuple(server for server in self.list() if server.instance_id == instance_id)

    @override
    def create(self, spec: ServerSpec) -> Server:
        if spec.image not in self._offering.images:
            raise CloudRefused(f"no image is called {spec.image!r}")
        if spec.flavour not in self._offering.flavours:
            raise CloudRefused(f"no flavour is called {spec.flavour!r}")
        if not spec.user_data.startswith("#cloud-config\n"):
            raise CloudRefused("the user-data is no cloud-init document")
        if len(spec.user_data.encode()) > LIMIT_BYTES:
            raise CloudRefused(f"the user-data is larger than {LIMIT_BYTES:,} bytes")
        with self._lock:
            self._make_room(spec)
            server = Server(
                id=str(uuid4()),
                name=server_name(spec.instance_id),
                instance_id=spec.instance_id,
                status=ServerStatus.BUILD,
                desktop=None,
                created_at=datetime.now(UTC),
            )
            self._machines[server.id] = _Machine(server, spec, self.environment, self.looks, ServerStatus.ACTIVE)
            return server if self.looks else self._look(self._machines[server.id])

    @override
    def start(self, server_id: str) -> None:
        with self._lock:
            machine = self._machine(server_id)
            if machine.server.status is ServerStatus.SHUTOFF:
                self._set_off(machine, ServerStatus.BUILD)

    @override
    def stop(self, server_id: str) -> None:
        with self._lock:
            machine = self._machine(server_id)
            machine.server = replace(machine.server, status=ServerStatus.SHUTOFF)
            machine.arriving = None

    @override
    def reboot(self, server_id: str) -> None:
        with self._lock:
            self._set_off(self._machine(server_id), ServerStatus.REBOOT)

    @override
    def delete(self, server_id: str) -> None:
        with self._lock:
            if server_id in self._machines and self._machines[server_id].environment == self.environment:
                del self._machines[server_id]

    @override
    def list(self) -> Iterable[Server]:
        with self._lock:
            mine = [machine for machine in self._machines.values() if machine.environment == self.environment]
            machines = sorted(mine, key=lambda machine: machine.server.created_at)
            return tuple(self._look(machine) for machine in machines)

    @override
    def console(self, server_id: str, *, lines: int = 50) -> str:
        with self._lock:
            machine = self._machine(server_id)
            said = [f"{machine.server.name} is {machine.server.status}", "no machine is behind this console"]
            return "\n".join(said[-lines:]) + "\n"

    @override
    def offering(self) -> Offering:
        return self._offering

    def of_environment(self, environment: str) -> "MemoryCloud":
        """The same cloud, as another installation uses it."""
        other = copy.copy(self)
        other.environment = environment
        return other

    def spec(self, server_id: str) -> ServerSpec:
        """What a server was asked to be, for tests that look at it."""
        with self._lock:
            return self._machine(server_id).spec

    def break_down(self, server_id: str, fault: str) -> None:
        """The server ends in ERROR with this fault, as one does whose host fails."""
        with self._lock:
            machine = self._machine(server_id)
            machine.server = replace(machine.server, status=ServerStatus.ERROR, fault=fault)
            machine.arriving = None

    def _set_off(self, machine: _Machine, status: ServerStatus) -> None:
        machine.server = replace(machine.server, status=status)
        machine.looks_left, machine.arriving = self.looks, ServerStatus.ACTIVE

    def _machine(self, server_id: str) -> _Machine:
        machine = self._machines.get(server_id)
        if machine is None or machine.environment != self.environment:
            raise ServerGone(f"no server has the id {server_id[:80]!r}")
        return machine

    def _look(self, machine: _Machine) -> Server:
        if machine.arriving is not None:
            if machine.looks_left <= 0:
                machine.server = replace(machine.server, status=machine.arriving, desktop=self.desktop)
                machine.arriving = None
            machine.looks_left -= 1
        return machine.server

    def _make_room(self, spec: ServerSpec) -> None:
        specs = [machine.spec for machine in self._machines.values()]
        for unit, asked, have, used in (
            ("cores", spec.vcpus, self.cores, sum(one.vcpus for one in specs)),
            ("MiB of memory", spec.memory_mib, self.memory_mib, sum(one.memory_mib for one in specs)),
            ("GPUs", spec.gpus, self.gpus, sum(one.gpus for one in specs)),
        ):
            if asked > have - used:
                raise CloudFull(f"{asked} {unit} asked, {max(have - used, 0)} of {have} free")
