"""The real OpenStack of deploy/openstack, for tests: where it is, clouds in it, and an end to what they made.

VISA_TEST_OPENSTACK names its state directory. A test that needs it and does not find it fails and says how to start it.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from instances.cloud.openstack import OpenStackCloud
from instances.cloud.protocol import Server, ServerSpec, ServerStatus, Service
from tests.wire import Wire

T = TypeVar("T")

#: what in clouds.yaml says where a service is, its port here, and its path
_WIRES = {
    Service.KEYSTONE: ("auth_url", 5000, "/v3"),
    Service.NOVA: ("compute_endpoint_override", 8774, "/v2.1"),
    Service.NEUTRON: ("network_endpoint_override", 9696, ""),
    Service.GLANCE: ("image_endpoint_override", 9292, ""),
}


def state() -> Path:
    """The state directory of the OpenStack that runs."""
    directory = Path(os.environ.get("VISA_TEST_OPENSTACK", "/var/lib/visa-openstack"))
    if not (directory / "clouds.yaml").is_file():
        pytest.fail(f"there is no OpenStack at {directory}: run deploy/openstack/up, or name it in VISA_TEST_OPENSTACK")
    return directory


def has_guests() -> bool:
    """Whether its servers really boot; else they are Nova's fake ones."""
    return (state() / "kind").read_text().strip() == "guests"


def until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """The first true value of the condition; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"after {seconds:.0f} s still not: {what}")
        time.sleep(0.25)
    return value


class RealCloud:
    """One test's clouds in the real OpenStack: each with a name of its own as environment, all emptied at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._clouds: dict[str, Any] = yaml.safe_load((state() / "clouds.yaml").read_text())["clouds"]
        self.environment = f"test-{uuid.uuid4().hex[:12]}"
        self._environments = {self.environment}
        self._wires: dict[Wire, str] = {}
        self._sdks: list[Any] = []

    def connect(
        self, *, environment: str = "", wire: Wire | None = None, wires: Iterable[Wire] = (), **changes: object
    ) -> OpenStackCloud:
        """A cloud with the platform's own credential; through these wires of `wire()`. `changes` go into the entry of
        clouds.yaml (`auth` is merged), `seconds`, `network` and `cloud` to the cloud itself."""
        named: dict[str, Any] = {name: changes.pop(name) for name in ("seconds", "network", "cloud") if name in changes}
        entry = {**self._clouds["visa"], **changes}
        entry["auth"] = {**self._clouds["visa"]["auth"], **entry["auth"]}
        for one in (*wires, wire) if wire is not None else wires:
            if (key := self._wires[one]) == "auth_url":
                entry["auth"]["auth_url"] = one.url
            else:
                entry[key] = one.url
        name = f"visa-{uuid.uuid4().hex[:8]}"
        self._write(name, entry)
        environment = environment or self.environment
        self._environments.add(environment)
        # Longer than in production: here the APIs share two cores with their guests and with everything else.
        arguments: dict[str, Any] = {"cloud": name, "network": "visa", "environment": environment, "seconds": 40.0}
        arguments.update(named)
        return OpenStackCloud(**arguments)

    def sdk(self, cloud: str = "visa-admin") -> Any:
        """The SDK itself, as somebody else in the same project or as the cloud's administrator."""
        from openstack.connection import Connection

        self._write(cloud, self._clouds[cloud])
        self._sdks.append(Connection(cloud=cloud, compute_default_microversion="2.90"))
        return self._sdks[-1]

    def wire(self, service: Service = Service.NOVA) -> Wire:
        """A wire to one of the services, to be entered with `with` and given to `connect`."""
        key, port, prefix = _WIRES[service]
        wire = Wire("127.0.0.1", port, prefix=prefix)
        self._wires[wire] = key
        return wire

    def spec(self, **changes: object) -> ServerSpec:
        """What the smallest machine asks for."""
        values: dict[str, Any] = {
            "instance_id": uuid.uuid4(),
            "image": "visa-desktop",
            "flavour": "visa.small",
            "vcpus": 1,
            "memory_mib": 1024,
            "disk_gib": 4,
            "gpus": 0,
            "user_data": "#cloud-config\n{}\n",
        }
        return ServerSpec(**{**values, **changes})

    def settled(self, cloud: OpenStackCloud, spec: ServerSpec, *wanted: ServerStatus, seconds: float = 120) -> Server:
        """The one server made for `spec`, when it has one of these states."""

        def seen() -> Server | None:
            found = cloud.find(spec.instance_id)
            assert len(found) <= 1
            return found[0] if found and found[0].status in wanted else None

        server = until(seen, seconds, f"{spec.instance_id} is {' or '.join(wanted)}")
        assert server is not None
        return server

    def gone(self, cloud: OpenStackCloud, spec: ServerSpec) -> None:
        """Waits until nothing made for `spec` is found."""
        until(lambda: not cloud.find(spec.instance_id), 90, f"{spec.instance_id} is gone")

    def end(self) -> None:
        """Deletes everything the clouds of this test made, and closes what is open to them."""
        for sdk in self._sdks:
            sdk.session.session.close()
        clouds = [self.connect(environment=environment) for environment in tuple(self._environments)]
        for cloud in clouds:
            for server in cloud.list():
                cloud.delete(server.id)
        until(lambda: not any(cloud.list() for cloud in clouds), 120, "all of the test's servers are gone")
        for cloud in clouds:
            for port in cloud.ports():
                cloud.delete_port(port.id)

    def _write(self, name: str, entry: dict[str, Any]) -> None:
        path = self._directory / "clouds.yaml"
        clouds = yaml.safe_load(path.read_text())["clouds"] if path.exists() else {}
        path.write_text(yaml.safe_dump({"clouds": {**clouds, name: entry}}))


@contextlib.contextmanager
def real_cloud(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCloud]:
    """The real OpenStack for one test; its credentials are in a clouds.yaml of this test alone."""
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(directory / "clouds.yaml"))
    real = RealCloud(directory)
    try:
        yield real
    finally:
        real.end()
