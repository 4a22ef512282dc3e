"""Clouds with one trait each, and the harness that puts every kind of cloud before the same contract.

Traits are subclasses of the memory cloud, or stand before any cloud (`LosingReplies`); nothing is patched.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from typing_extensions import override

from instances import credentials
from instances.cloud.local import LocalCloud
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import (
    Changes,
    Cloud,
    CloudFull,
    CloudLimited,
    CloudUnreachable,
    Offering,
    Port,
    Server,
    ServerSpec,
    ServerStatus,
    Volume,
)
from instances.userdata import BIND_OPTIONS, DesktopSecret, Enrolment, Machine, MountPoint, render
from tests.door import TOKEN, door_of

T = TypeVar("T")


class FullCloud(MemoryCloud):
    """Has no room for anything."""

    @override
    def create(self, spec: ServerSpec) -> Server:
        raise CloudFull("No valid host was found.")


class GatedCloud(MemoryCloud):
    """Asks its gate before every verb: what that raises is the cloud's answer."""

    def gate(self) -> None:
        """Lets all through."""

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        self.gate()
        return super().find(instance_id)

    @override
    def known(self, server_id: str) -> Server | None:
        self.gate()
        return super().known(server_id)

    @override
    def create(self, spec: ServerSpec) -> Server:
        self.gate()
        return super().create(spec)

    @override
    def start(self, server_id: str) -> None:
        self.gate()
        super().start(server_id)

    @override
    def stop(self, server_id: str) -> None:
        self.gate()
        super().stop(server_id)

    @override
    def reboot(self, server_id: str) -> None:
        self.gate()
        super().reboot(server_id)

    @override
    def delete(self, server_id: str) -> None:
        self.gate()
        super().delete(server_id)

    @override
    def list(self) -> Iterable[Server]:
        self.gate()
        return super().list()

    @override
    def changed_since(self, when: datetime) -> Changes:
        self.gate()
        return super().changed_since(when)

    @override
    def find_ports(self, instance_id: UUID) -> tuple[Port, ...]:
        self.gate()
        return super().find_ports(instance_id)

    @override
    def create_port(self, instance_id: UUID) -> Port:
        self.gate()
        return super().create_port(instance_id)

    @override
    def delete_port(self, port_id: str) -> None:
        self.gate()
        super().delete_port(port_id)

    @override
    def ports(self) -> Iterable[Port]:
        self.gate()
        return super().ports()

    @override
    def volumes(self) -> Iterable[Volume]:
        self.gate()
        return super().volumes()

    @override
    def delete_volume(self, volume_id: str) -> None:
        self.gate()
        super().delete_volume(volume_id)

    @override
    def console(self, server_id: str, *, lines: int = 50) -> str:
        self.gate()
        return super().console(server_id, lines=lines)

    @override
    def offering(self) -> Offering:
        self.gate()
        return super().offering()


class DeafCloud(GatedCloud):
    """Does not answer while `deaf`."""

    deaf = True

    @override
    def gate(self) -> None:
        if self.deaf:
            raise CloudUnreachable("no answer")


class LimitedCloud(GatedCloud):
    """Says "too many calls" while `limited`."""

    limited = True

    @override
    def gate(self) -> None:
        if self.limited:
            raise CloudLimited("too many calls", retry_after=7.0)


class CountingCloud(MemoryCloud):
    """Counts how often it is asked for one machine's servers (`finds`), and for what one says (`consoles`)."""

    finds = consoles = 0

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        self.finds += 1
        return super().find(instance_id)

    @override
    def known(self, server_id: str) -> Server | None:
        self.finds += 1
        return super().known(server_id)

    @override
    def console(self, server_id: str, *, lines: int = 50) -> str:
        self.consoles += 1
        return super().console(server_id, lines=lines)


class SlowCloud(MemoryCloud):
    """Takes `delay` seconds for a create, as a cloud at work does; `arrived` is set when a create has begun."""

    def __init__(self, *, delay: float = 0.5) -> None:
        super().__init__()
        self.delay = delay
        self.arrived = threading.Event()

    @override
    def create(self, spec: ServerSpec) -> Server:
        self.arrived.set()
        time.sleep(self.delay)
        return super().create(spec)


class LosingReplies(Cloud):
    """Stands before any cloud: what is ordered is executed, and the answer is lost, while `losing`."""

    def __init__(self, behind: Cloud) -> None:
        self.behind = behind
        self.losing = True

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        return self._lost(lambda: self.behind.find(instance_id))

    @override
    def known(self, server_id: str) -> Server | None:
        return self._lost(lambda: self.behind.known(server_id))

    @override
    def create(self, spec: ServerSpec) -> Server:
        return self._lost(lambda: self.behind.create(spec))

    @override
    def start(self, server_id: str) -> None:
        return self._lost(lambda: self.behind.start(server_id))

    @override
    def stop(self, server_id: str) -> None:
        return self._lost(lambda: self.behind.stop(server_id))

    @override
    def reboot(self, server_id: str) -> None:
        return self._lost(lambda: self.behind.reboot(server_id))

    @override
    def delete(self, server_id: str) -> None:
        return self._lost(lambda: self.behind.delete(server_id))

    @override
    def list(self) -> Iterable[Server]:
        return self._lost(lambda: tuple(self.behind.list()))

    @override
    def changed_since(self, when: datetime) -> Changes:
        return self._lost(lambda: self.behind.changed_since(when))

    @property
    @override
    def unique_ports(self) -> bool:
        return self.behind.unique_ports

    @override
    def find_ports(self, instance_id: UUID) -> tuple[Port, ...]:
        return self._lost(lambda: self.behind.find_ports(instance_id))

    @override
    def create_port(self, instance_id: UUID) -> Port:
        return self._lost(lambda: self.behind.create_port(instance_id))

    @override
    def delete_port(self, port_id: str) -> None:
        return self._lost(lambda: self.behind.delete_port(port_id))

    @override
    def ports(self) -> Iterable[Port]:
        return self._lost(lambda: tuple(self.behind.ports()))

    @override
    def volumes(self) -> Iterable[Volume]:
        return self._lost(lambda: tuple(self.behind.volumes()))

    @override
    def delete_volume(self, volume_id: str) -> None:
        return self._lost(lambda: self.behind.delete_volume(volume_id))

    @override
    def console(self, server_id: str, *, lines: int = 50) -> str:
        return self._lost(lambda: self.behind.console(server_id, lines=lines))

    @override
    def offering(self) -> Offering:
        return self._lost(self.behind.offering)

    def _lost(self, order: Callable[[], T]) -> T:
        answer = order()
        if self.losing:
            raise CloudUnreachable("the answer was lost")
        return answer


@cache
def secret() -> DesktopSecret:
    """One desktop credential for the whole run: keys take time."""
    return credentials.generate("visa-test")


def document(instance_id: UUID, *mounts: tuple[Path, str], name: str = "Test desktop") -> str:
    """The cloud-init document of a machine, with directories of this host as (source, target)."""
    machine = Machine(
        instance_id=instance_id,
        hostname=f"visa-{instance_id.hex[:8]}",
        name=name,
        enrolment=Enrolment(url=door_of(secret()).url, token=TOKEN),
        mounts=tuple(
            MountPoint(source=str(source), target=target, fstype="none", options=BIND_OPTIONS)
            for source, target in mounts
        ),
    )
    return render(machine)


class CloudUnderTest(ABC):
    """One kind of cloud before the contract: the cloud, and real ways to bring it into trouble."""

    cloud: Cloud
    #: how long a server may take to be what it was ordered to be, in seconds
    patience: float = 10.0

    def spec(self, instance_id: UUID | None = None) -> ServerSpec:
        """A server this cloud can make."""
        instance_id = instance_id or uuid4()
        return ServerSpec(
            instance_id=instance_id,
            image="visa-desktop",
            flavour="visa.small",
            vcpus=1,
            memory_mib=1024,
            disk_gib=4,
            gpus=0,
            user_data=document(instance_id),
        )

    def settle(self, server_id: str, status: ServerStatus | None) -> Server | None:
        """Looks until the server is seen in this state (None: not seen any more) and returns it."""
        deadline = time.monotonic() + self.patience
        while True:
            seen = next((server for server in self.cloud.list() if server.id == server_id), None)
            if (seen.status if seen else None) is status:
                return seen
            assert time.monotonic() < deadline, f"{seen} has not become {status} in {self.patience:g} s"
            time.sleep(min(0.05, self.patience / 100))

    def arrived(self, spec: ServerSpec | None = None) -> Server:
        """A server that was made and runs."""
        server = self.settle(self.cloud.create(spec or self.spec()).id, ServerStatus.ACTIVE)
        assert server is not None
        return server

    def losing_replies(self, *, looks: bool = False) -> Cloud:
        """The same cloud, executing orders without an answer; or looks, where `looks` is set."""
        return LosingReplies(self.cloud)

    @abstractmethod
    def deaf(self) -> AbstractContextManager[Cloud]:
        """The same cloud, which does not answer within the block."""

    def limited(self) -> AbstractContextManager[Cloud]:
        """The same cloud, which says "too many calls, come back in 7 seconds" within the block."""
        raise NotImplementedError("this cloud knows no limit")

    @abstractmethod
    def full(self) -> AbstractContextManager[None]:
        """Within the block there is no room for another `spec()`."""

    @abstractmethod
    def stranger(self) -> Cloud:
        """The same cloud, as another installation uses it."""

    def close(self) -> None:
        """Nothing is left behind."""
        for server in self.cloud.list():
            self.cloud.delete(server.id)
        for port in self.cloud.ports():
            self.cloud.delete_port(port.id)


class MemoryUnderTest(CloudUnderTest):
    class _Cloud(DeafCloud, LimitedCloud):
        deaf = limited = False

        @override
        def gate(self) -> None:
            super().gate()
            LimitedCloud.gate(self)

    def __init__(self, *, own_network: bool = True) -> None:
        self.memory = self._Cloud(looks=2, own_network=own_network)
        self.cloud = self.memory

    @override
    @contextmanager
    def limited(self) -> Iterator[Cloud]:
        self.memory.limited = True
        yield self.memory
        self.memory.limited = False

    @override
    @contextmanager
    def deaf(self) -> Iterator[Cloud]:
        self.memory.deaf = True
        yield self.memory
        self.memory.deaf = False

    @override
    @contextmanager
    def full(self) -> Iterator[None]:
        cores, self.memory.cores = self.memory.cores, len(list(self.memory.list()))
        yield
        self.memory.cores = cores

    @override
    def stranger(self) -> Cloud:
        return self.memory.of_environment("stranger")


class LocalUnderTest(CloudUnderTest):
    """Real sandboxes. Deaf is a state directory that has gone away; full is counted."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        self.cloud = self._connected()

    def _connected(self, environment: str = "test", cores: int = 8) -> LocalCloud:
        return LocalCloud(
            self.place / "machines", environment=environment, cores=cores, memory_mib=16_384, gpus=1, patience=2.0
        )

    @override
    @contextmanager
    def deaf(self) -> Iterator[Cloud]:
        away = self.place.with_name(f"{self.place.name}-away")
        self.place.rename(away)
        yield self.cloud
        away.rename(self.place)

    @override
    @contextmanager
    def full(self) -> Iterator[None]:
        whole = self.cloud
        self.cloud = self._connected(cores=max(1, len(list(whole.list()))))
        filler = self.cloud.create(self.spec()) if not list(whole.list()) else None
        yield
        if filler is not None:
            self.cloud.delete(filler.id)
        self.cloud = whole

    @override
    def stranger(self) -> Cloud:
        return self._connected(environment="stranger")
