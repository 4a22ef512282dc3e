"""The real OpenStack before the contract of every cloud. Silence and lost answers come from faulty wires."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

from typing_extensions import override

from instances.cloud.protocol import Cloud, ServerSpec, Service
from tests.clouds import CloudUnderTest
from tests.real_cloud import RealCloud, has_guests
from tests.wire import Fault

#: whose wires are faulty; signing in goes on
SERVICES = (Service.NOVA, Service.NEUTRON, Service.GLANCE)


class OpenStackUnderTest(CloudUnderTest):
    """One environment in the OpenStack of deploy/openstack; `real` empties it at its own end."""

    def __init__(self, real: RealCloud, network: str = "visa") -> None:
        self.patience = 240 if has_guests() else 60
        self.real = real
        self.network = network
        self.cloud = real.connect(network=network)
        self._open = ExitStack()

    @override
    def spec(self, instance_id: UUID | None = None) -> ServerSpec:
        spec = self.real.spec()
        return spec if instance_id is None else replace(spec, instance_id=instance_id)

    @override
    def losing_replies(self, *, looks: bool = False) -> Cloud:
        return self._faulty(self._open, Fault.LOSE_REPLY, reads=looks)

    @override
    @contextmanager
    def deaf(self) -> Iterator[Cloud]:
        with ExitStack() as stack:
            yield self._faulty(stack, Fault.LOSE_REQUEST, reads=True)

    @override
    @contextmanager
    def limited(self) -> Iterator[Cloud]:
        with ExitStack() as stack:
            wires = [stack.enter_context(self.real.wire(service)) for service in SERVICES]
            for wire in wires:
                wire.spoil(Fault.LIMITED, seconds=7.0)
            yield self.real.connect(wires=wires, network=self.network)

    @override
    @contextmanager
    def full(self) -> Iterator[None]:
        """The project may have as many servers as it has."""
        nova: Any = self.real.sdk()
        project: str = self.real.sdk("visa-user").current_project_id
        before = nova.get_compute_quotas(project).instances
        present = sum(1 for _ in nova.compute.servers(all_projects=True, project_id=project))
        nova.set_compute_quotas(project, instances=present)
        try:
            yield
        finally:
            nova.set_compute_quotas(project, instances=before)

    @override
    def stranger(self) -> Cloud:
        return self.real.connect(environment=f"{self.real.environment}-stranger", network=self.network)

    @override
    def close(self) -> None:
        self._open.close()

    def _faulty(self, stack: ExitStack, fault: Fault, *, reads: bool) -> Cloud:
        wires = [stack.enter_context(self.real.wire(service)) for service in SERVICES]
        for wire in wires:
            wire.fault, wire.reads = fault, reads
        return self.real.connect(wires=wires, network=self.network)
