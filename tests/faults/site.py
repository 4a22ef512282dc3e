"""A whole site before the real OpenStack: every process of the platform, its neighbours, and wires that may fail.

All of it belongs to the run: a directory, a PostgreSQL, a Redis, a mail server, desktops, and a name of its own at the
cloud (`environment`), which is emptied at the end. The driver of a test, which is this process, is a Django process of
the same site, so that it can ask for machines and read rows; it never takes a step itself.
"""

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml
from typing_extensions import override

from deploy import processes
from deploy.demo_platform import DemoPlatform
from deploy.processes import LOOPBACK, Running, free_port
from tests.faults import oracle
from tests.faults.desks import Desks
from tests.visa.outbox.sink import Sink
from tests.wire import Wire

T = TypeVar("T")

#: where the services of deploy/openstack listen
SERVICES = {"keystone": (5000, ""), "nova": (8774, "/v2.1"), "neutron": (9696, ""), "glance": (9292, "")}
#: the size of a site's own disk
DISK = "1200m"
#: the networks of that cloud, with the addresses of each: the second is the project's own (`Cloud.unique_ports`)
NETWORKS = {"visa": "10.77.0.0/20", "visa-own": "10.78.0.0/20"}
STATE = Path(os.environ.get("VISA_TEST_OPENSTACK", "/var/lib/visa-openstack-fake"))


class NotSo(Exception):
    """What should have come did not."""


def until(condition: Callable[[], T], seconds: float, what: str | Callable[[], str], *, every: float = 0.1) -> T:
    """The first true value of the condition. Raises NotSo after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise NotSo(f"after {seconds:.0f} s still not: {what if isinstance(what, str) else what()}")
        time.sleep(every)
    return value


class Platform(DemoPlatform):
    """The demo's processes with what a test of faults wants told: checkpoints, shorter times, a mail server."""

    def __init__(self, directory: Path, *, environment: str, openstack: dict[str, str], more: dict[str, str]) -> None:
        super().__init__(directory, port=free_port(), environment=environment, openstack=openstack, durable=False)
        self.more = more

    @override
    def variables(self, process: str) -> dict[str, str]:
        said = super().variables(process) | self.more
        (self.directory / "checkpoints").mkdir(exist_ok=True)
        if process in {"worker", "reconciler"}:
            said["VISA_TEST_CHECKPOINTS"] = str(self.directory / "checkpoints")
        return said


class Site:
    """Enter it, and it runs. `scale` multiplies every waiting time of the platform; `network` is one of NETWORKS."""

    def __init__(
        self, directory: Path, *, scale: float, creates: int = 20, drivers: bool = True, network: str = "visa"
    ) -> None:
        self.directory = directory
        self.scale = scale
        self.creates = creates
        self.network = network
        self.environment = f"test-{secrets.token_hex(5)}"
        self.wires: dict[str, Wire] = {}
        self.desks = Desks(NETWORKS[network])
        self.mail = Sink()
        self.platform: Platform
        self._drivers = drivers
        self._stack = contextlib.ExitStack()

    # --- coming and going ------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _begin(self) -> None:
        self._lay_disk()
        for name, (port, prefix) in SERVICES.items():
            self.wires[name] = self._stack.enter_context(Wire(LOOPBACK, port, prefix=prefix))
        self._stack.enter_context(self.desks)
        self.mail.start()
        self._stack.callback(self.mail.stop)
        openstack = self._cloud_entry()
        more = {
            "VISA_TEST_SCALE": str(self.scale),
            "VISA_CLOUD_CREATES": str(self.creates),
            "VISA_MAIL_HOST": LOOPBACK,
            "VISA_MAIL_PORT": str(self.mail.port),
            "VISA_MAIL_TLS": "none",
            "VISA_MAIL_FROM": "visa@facility.example",
        }
        self.platform = Platform(self.directory / "site", environment=self.environment, openstack=openstack, more=more)
        self._stack.callback(self.platform.down)
        self.platform.hold()
        self.platform.start_neighbours()
        self.platform.fill()
        os.environ.update(self.platform.variables("command"))
        import django

        django.setup()
        self._stack.callback(self.empty)
        self._offer()
        self.platform.start_web()
        if self._drivers:
            self.start_drivers()

    def _lay_disk(self) -> None:
        """A disk of the site's own, so that one that is full is nobody else's."""
        disk = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=711", "visa-faults", str(self.directory)]
        subprocess.run(disk, check=True, capture_output=True)
        self._stack.callback(subprocess.run, ["umount", "--lazy", str(self.directory)], check=False)

    def revive(self) -> None:
        """Starts again whatever has ended, as a supervisor does."""
        platform = self.platform
        starts: dict[str, Callable[[], object]] = {
            "PostgreSQL": self.start_postgres,
            "Redis": platform.start_redis,
            "The identity provider": platform.start_identity_provider,
            "web": platform.start_web,
        }
        for name, start in starts.items():
            if not platform.running[name].alive:
                start()
        self.start_drivers()

    def start_postgres(self) -> None:
        platform = self.platform
        platform._begin(
            processes.start_postgres(platform.directory / "postgres", log=platform._log("postgres"), durable=False)
        )

    def _cloud_entry(self) -> dict[str, str]:
        """A clouds.yaml of this run, in which the platform's credential goes through the wires."""
        known = yaml.safe_load((STATE / "clouds.yaml").read_text(encoding="utf-8"))["clouds"]
        entry = {
            **known["visa"],
            "auth": {**known["visa"]["auth"], "auth_url": f"{self.wires['keystone'].url}/v3"},
            "compute_endpoint_override": self.wires["nova"].url,
            "network_endpoint_override": self.wires["neutron"].url,
            "image_endpoint_override": self.wires["glance"].url,
        }
        path = self.directory / "clouds.yaml"
        path.touch(mode=0o600)
        path.write_text(
            yaml.safe_dump({"clouds": {"wired": entry, "user": known["visa-user"], "admin": known["visa-admin"]}})
        )
        lines = (STATE / "visa.env").read_text(encoding="utf-8").splitlines()
        told = dict(line.split("=", 1) for line in lines if "=" in line)
        network = {"VISA_CLOUD_NETWORK": self.network, "VISA_DESKTOP_RANGES": NETWORKS[self.network]}
        return told | network | {"OS_CLIENT_CONFIG_FILE": str(path), "VISA_CLOUD_NAME": "wired"}

    def _offer(self) -> None:
        """Room for everybody, and people and data enough."""
        from quotas.models import Limit

        Limit.objects.filter(kind=Limit.Kind.EVERYONE).update(
            machines=10_000, cores=20_000, memory_mib=20_000_000, gpus=100
        )

    # --- processes -------------------------------------------------------------------------------------------------

    def start_drivers(self, *names: str) -> None:
        """Starts whichever of these do not run: worker, beat, reconciler."""
        starts = {
            "worker": self.platform.start_worker,
            "beat": self.platform.start_beat,
            "reconciler": self.platform.start_reconciler,
        }
        for name in names or starts:
            there = self.platform.running.get(name)
            if there is None or not there.alive:
                starts[name]()

    def stop_drivers(self, *names: str) -> None:
        for name in names or ("beat", "worker", "reconciler"):
            if name in self.platform.running:
                self.platform.running[name].ask()
        for name in names or ("beat", "worker", "reconciler"):
            if name in self.platform.running:
                self.platform.running[name].stop(60)

    def running(self, name: str) -> Running:
        return self.platform.running[name]

    # --- the cloud, past the wires and past the platform's own code ------------------------------------------------

    def sdk(self, cloud: str = "user") -> Any:
        from openstack.connection import Connection

        if cloud not in self._sdks:
            self._sdks[cloud] = Connection(cloud=cloud, compute_default_microversion="2.90")
        return self._sdks[cloud]

    @property
    def _sdks(self) -> dict[str, Any]:
        return self.__dict__.setdefault("_sdks_made", {})  # type: ignore[no-any-return]

    def servers(self) -> list[Any]:
        """Nova's own word: all servers of this run's environment."""
        found = self.sdk().compute.servers(details=True)
        return [one for one in found if (one.metadata or {}).get("visa_environment") == self.environment]

    def ports(self) -> list[Any]:
        """Neutron's own word: all ports of this run's environment."""
        return [one for one in self.sdk().network.ports() if one.description == f"visa:environment={self.environment}"]

    def violations(self, accepted: Iterable[Any] = (), *, sealed: bool = True) -> list[str]:
        """What does not hold now (`tests.faults.oracle`), from rows, servers and ports."""
        servers = [
            oracle.Live(
                id=one.id,
                instance_id=one.metadata["visa_instance"],
                status=one.status,
                flavour=one.flavor.original_name or "",
            )
            for one in self.servers()
        ]
        ports = [
            oracle.Held(id=one.id, instance_id=one.name.removeprefix("visa-"), server_id=one.device_id or "")
            for one in self.ports()
        ]
        return oracle.violations(servers, ports, accepted=accepted, sealed=sealed)

    def sound(self, accepted: Iterable[Any] = (), *, seconds: float) -> float:
        """How long it takes until all invariants hold. Raises NotSo with those that do not."""
        began = time.monotonic()
        accepted = list(accepted)
        said: list[str] = []

        def holds() -> bool:
            said[:] = self.violations(accepted)
            return not said

        until(holds, seconds, lambda: "; ".join(said[:6]), every=0.3)
        return time.monotonic() - began

    def empty(self) -> None:
        """Deletes everything of this run's environment."""
        for _ in range(20):
            servers, ports = self.servers(), self.ports()
            if not servers and not ports:
                return
            for server in servers:
                self.sdk().compute.delete_server(server.id, ignore_missing=True)
            if not servers:
                for port in ports:
                    self.sdk().network.delete_port(port.id, ignore_missing=True)
            time.sleep(1)

    # --- people and machines ---------------------------------------------------------------------------------------

    def launch(self, *, by: Any = None, flavour: str = "small") -> Any:
        """A machine that a person asks for, on a dataset of its own. Returns the id."""
        from instances import actions
        from instances.actions import Launch
        from tests import factories

        person = by or self.person()
        dataset = factories.make_dataset(doi=f"10.5555/fault-{secrets.token_hex(6)}")
        made = actions.launch(Launch(doi=dataset.minted, flavour=flavour), by=person)
        return made.instance_id

    def person(self) -> Any:
        from tests import factories

        return factories.make_user(subject=f"fault-{secrets.token_hex(6)}")

    def row(self, instance_id: Any) -> Any:
        from instances.models import Instance

        return Instance.objects.get(id=instance_id)

    def until_state(self, instance_id: Any, *states: str, seconds: float) -> Any:
        """The row, when it has one of these states."""

        def there() -> Any:
            row = self.row(instance_id)
            return row if row.state in states else None

        return until(there, seconds, lambda: f"{self.row(instance_id).state} is {' or '.join(states)}")


@contextlib.contextmanager
def a_site(*, keep: bool = False, **how: Any) -> Iterator[Site]:
    """A site (`Site`) in a directory that goes with it; with `keep` its logs stay beside that."""
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="visa-faults-"))
    directory.chmod(0o711)  # PostgreSQL, which is not root, has to walk through
    try:
        with Site(directory, **how) as site:
            try:
                yield site
            finally:
                if keep:
                    kept = directory.with_name(f"{directory.name}-log")
                    shutil.copytree(site.platform.directory / "log", kept)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


__all__ = ["NotSo", "Site", "a_site", "processes", "subprocess", "until"]
