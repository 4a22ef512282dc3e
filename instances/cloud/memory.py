"""A cloud without machines, for tests: every verb of the protocol, with capacity that is really counted.

Passes the same contract suite as the real clouds. The system check `instances.E001` keeps it out of production.
"""

import copy
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from typing_extensions import override

from instances.cloud.protocol import (
    Changes,
    Cloud,
    CloudFull,
    CloudRefused,
    Desktop,
    Offering,
    Port,
    PortTaken,
    Server,
    ServerGone,
    ServerSpec,
    ServerStatus,
    Volume,
    port_address,
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

    def becomes(self, status: ServerStatus, **changes: Any) -> None:
        ran = self.server.ran or status is ServerStatus.ACTIVE
        now = datetime.now(UTC)
        self.server = replace(self.server, **{"status": status, "ran": ran, "changed_at": now, **changes})
        self.arriving = None


class MemoryCloud(Cloud):
    """Servers in this process's memory; any number of threads may use one at once.

    `looks` is how many times a server is seen on its way (BUILD, REBOOT) before it has arrived; 0 is at once.
    `desktop` is where every server's desktop is said to be: a real one of the test's own, or nobody. Servers of other
    environments are not seen, but counted. `own_network` says whether ports have addresses of our choice. While
    `holding` is set, deleted servers stay, their deletion under way, as where a host is away.
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
        own_network: bool = True,
    ) -> None:
        self.cores = cores
        self.memory_mib = memory_mib
        self.gpus = gpus
        self.looks = looks
        self.environment = environment
        self.desktop = desktop or Desktop(host="127.0.0.1", port=9)  # "discard": nobody answers there
        self.own_network = own_network
        self.holding = False
        #: what a test says an instance's machine printed on its console
        self.printed: dict[UUID, str] = {}
        self._offering = offering
        self._machines: dict[str, _Machine] = {}
        self._deleted: list[_Machine] = []
        self._ports: dict[str, tuple[str, Port]] = {}
        self._volumes: dict[str, tuple[str, Volume]] = {}
        self._lock = threading.RLock()

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        named = [server for server in self._listed() if server.name == server_name(instance_id)]
        return tuple(server for server in named if server.instance_id == instance_id)

    @override
    def known(self, server_id: str) -> Server | None:
        with self._lock:
            machine = self._machines.get(server_id)
            ours = machine is not None and machine.environment == self.environment
            return self._look(machine) if machine is not None and ours else None

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
            if spec.port_id:
                self._take(spec.port_id)
            self._make_room(spec)
            now = datetime.now(UTC)
            server = Server(
                id=str(uuid4()),
                name=server_name(spec.instance_id),
                instance_id=spec.instance_id,
                status=ServerStatus.BUILD,
                desktop=None,
                created_at=now,
                changed_at=now,
                flavour=spec.flavour,
                host="memory-1",
                serial=spec.serial,
            )
            machine = _Machine(server, spec, self.environment, self.looks, ServerStatus.ACTIVE)
            self._machines[server.id] = machine
            return server if self.looks else self._look(machine)

    @override
    def start(self, server_id: str) -> None:
        with self._lock:
            machine = self._machine(server_id)
            if machine.server.status in {ServerStatus.SHUTOFF, ServerStatus.SHELVED}:
                self._set_off(machine, ServerStatus.BUILD)
            elif machine.server.status is ServerStatus.PAUSED:
                machine.becomes(ServerStatus.ACTIVE)

    @override
    def stop(self, server_id: str) -> None:
        with self._lock:
            machine = self._machine(server_id)
            if machine.server.status not in {ServerStatus.SHUTOFF, ServerStatus.SHELVED, ServerStatus.RESIZE}:
                machine.becomes(ServerStatus.SHUTOFF)

    @override
    def reboot(self, server_id: str) -> None:
        with self._lock:
            self._set_off(self._machine(server_id), ServerStatus.REBOOT)

    @override
    def delete(self, server_id: str) -> None:
        with self._lock:
            machine = self._machines.get(server_id)
            if machine is None or machine.environment != self.environment:
                return
            if self.holding:
                machine.becomes(machine.server.status, deleting=True)
                return
            machine.becomes(ServerStatus.DELETED)
            self._deleted.append(self._machines.pop(server_id))

    @override
    def list(self) -> Iterable[Server]:
        return self._listed()

    @override
    def changed_since(self, when: datetime) -> Changes:
        with self._lock:
            self._listed()
            machines = [*self._machines.values(), *self._deleted]
            changed = [one for one in machines if (at := one.server.changed_at) is not None and at >= when]
            times = [one.server.changed_at for one in changed if one.server.changed_at is not None]
            return Changes(servers=tuple(one.server for one in self._ours(changed)), times=tuple(times))

    @property
    @override
    def unique_ports(self) -> bool:
        return self.own_network

    @override
    def find_ports(self, instance_id: UUID) -> tuple[Port, ...]:
        return self._ports_of(instance_id)

    @override
    def create_port(self, instance_id: UUID) -> Port:
        with self._lock:
            if self.own_network and (there := self._ports_of(instance_id)):
                return there[0]
            number = uuid4()
            port = Port(
                id=str(number),
                name=server_name(instance_id),
                instance_id=instance_id,
                mac=port_address(instance_id if self.own_network else number),
                created_at=datetime.now(UTC),
            )
            self._ports[port.id] = (self.environment, port)
            return port

    @override
    def delete_port(self, port_id: str) -> None:
        with self._lock:
            if self._ports.get(port_id, ("",))[0] == self.environment:
                del self._ports[port_id]

    @override
    def ports(self) -> Iterable[Port]:
        return self._ports_seen()

    @override
    def volumes(self) -> Iterable[Volume]:
        with self._lock:
            alive = self._machines
            mine = [volume for environment, volume in self._volumes.values() if environment == self.environment]
            return tuple(volume if volume.server_id in alive else replace(volume, server_id="") for volume in mine)

    @override
    def delete_volume(self, volume_id: str) -> None:
        with self._lock:
            if self._volumes.get(volume_id, ("",))[0] == self.environment:
                del self._volumes[volume_id]

    @override
    def console(self, server_id: str, *, lines: int = 50) -> str:
        with self._lock:
            machine = self._machine(server_id)
            said = [f"{machine.server.name} is {machine.server.status}", "no machine is behind this console"]
            said += self.printed.get(machine.server.instance_id, "").splitlines()
            return "\n".join(said[-lines:]) + "\n"

    @override
    def offering(self) -> Offering:
        return self._offering

    # What a test asks of it, and what happens behind the platform's back.

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
        self._behind_our_back(server_id, ServerStatus.ERROR, fault=fault)

    def fail_build(self, server_id: str, fault: str) -> None:
        """The same, and it has never run."""
        self._behind_our_back(server_id, ServerStatus.ERROR, fault=fault, ran=False)

    def pause(self, server_id: str) -> None:
        """An operator freezes it."""
        self._behind_our_back(server_id, ServerStatus.PAUSED)

    def shelve(self, server_id: str) -> None:
        """An operator puts it aside."""
        self._behind_our_back(server_id, ServerStatus.SHELVED)

    def resize(self, server_id: str, flavour: str) -> None:
        """An operator begins to give it another size; `move` ends it."""
        self._behind_our_back(server_id, ServerStatus.RESIZE, flavour=flavour)

    def rename(self, server_id: str, name: str) -> None:
        """Somebody gives it another name."""
        self._behind_our_back(server_id, self._machine(server_id).server.status, name=name)

    def move(self, server_id: str, host: str = "memory-2") -> None:
        """It runs, on another host."""
        self._behind_our_back(server_id, ServerStatus.ACTIVE, host=host, desktop=self.desktop)

    def add_volume(self, instance_id: UUID, server_id: str = "") -> Volume:
        """A disk made for an instance, in use by one of its servers or by nobody."""
        volume = Volume(
            id=str(uuid4()),
            name=server_name(instance_id),
            instance_id=instance_id,
            created_at=datetime.now(UTC),
            server_id=server_id,
        )
        with self._lock:
            self._volumes[volume.id] = (self.environment, volume)
        return volume

    def let_go(self) -> None:
        """Deletions that were held up are done."""
        with self._lock:
            self.holding = False
            for machine in [one for one in self._machines.values() if one.server.deleting]:
                self.of_environment(machine.environment).delete(machine.server.id)

    def _behind_our_back(self, server_id: str, status: ServerStatus, **changes: Any) -> None:
        with self._lock:
            self._machine(server_id).becomes(status, **changes)

    def _set_off(self, machine: _Machine, status: ServerStatus) -> None:
        machine.becomes(status)
        machine.looks_left, machine.arriving = self.looks, ServerStatus.ACTIVE

    def _machine(self, server_id: str) -> _Machine:
        machine = self._machines.get(server_id)
        if machine is None or machine.environment != self.environment:
            raise ServerGone(f"no server has the id {server_id[:80]!r}")
        return machine

    def _ours(self, machines: Iterable[_Machine]) -> Iterable[_Machine]:
        mine = [machine for machine in machines if machine.environment == self.environment]
        return sorted(mine, key=lambda machine: machine.server.created_at)

    def _listed(self) -> tuple[Server, ...]:
        with self._lock:
            return tuple(self._look(machine) for machine in self._ours(self._machines.values()))

    def _look(self, machine: _Machine) -> Server:
        if machine.arriving is not None:
            if machine.looks_left <= 0:
                machine.becomes(machine.arriving, desktop=self.desktop)
            machine.looks_left -= 1
        return machine.server

    def _ports_seen(self) -> tuple[Port, ...]:
        with self._lock:
            users = {machine.spec.port_id: machine.server.id for machine in self._machines.values()}
            mine = [port for environment, port in self._ports.values() if environment == self.environment]
            return tuple(replace(port, server_id=users.get(port.id, "")) for port in mine)

    def _ports_of(self, instance_id: UUID) -> tuple[Port, ...]:
        return tuple(port for port in self._ports_seen() if port.instance_id == instance_id)

    def _take(self, port_id: str) -> None:
        port = next((port for port in self._ports_seen() if port.id == port_id), None)
        if port is None:
            raise PortTaken(f"the port {port_id[:80]!r} is gone")
        if port.server_id:
            raise PortTaken(f"the port {port_id} is used by the server {port.server_id}")

    def _make_room(self, spec: ServerSpec) -> None:
        specs = [machine.spec for machine in self._machines.values()]
        for unit, asked, have, used in (
            ("cores", spec.vcpus, self.cores, sum(one.vcpus for one in specs)),
            ("MiB of memory", spec.memory_mib, self.memory_mib, sum(one.memory_mib for one in specs)),
            ("GPUs", spec.gpus, self.gpus, sum(one.gpus for one in specs)),
        ):
            if asked > have - used:
                raise CloudFull(f"{asked} {unit} asked, {max(have - used, 0)} of {have} free")
