"""The whole platform on this machine: neighbours and the platform's own processes, as separate as in production.

`deploy/demo` runs one for people; tests run one of their own. Its state stands in one directory: secrets, database,
machines of the embedded cloud, data, software, logs. Knows Django only as programs to start.
"""

import base64
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import urlsplit

from deploy import processes
from deploy.processes import LOOPBACK, ROOT, NotReady, Running

PYTHON = [sys.executable]
#: what our own processes need until they have ended
NEIGHBOURS = ("PostgreSQL", "Redis", "The identity provider")
Step = Callable[[str], AbstractContextManager[None]]


def _quietly(_words: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What one platform keeps secret, and what must stay the same from one start to the next."""

    signing_key: str
    machine_key: str
    client_secret: str
    #: people are known by issuer and subject, so the issuer's port must not change
    identity_port: int

    @classmethod
    def of(cls, path: Path, *, near: int) -> "Keys":
        """The keys in `path`, made if there are none. The provider's port is the next free one after `near`."""
        if not path.exists():
            port = near + 1
            while processes.accepts(port) or port > 65535:
                port = processes.free_port()
            made = {
                "signing_key": secrets.token_urlsafe(50),
                "machine_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                "client_secret": secrets.token_urlsafe(32),
                "identity_port": port,
            }
            path.touch(mode=0o600)
            path.write_text(json.dumps(made), encoding="utf-8")
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class DemoPlatform:
    """One platform in `directory`, at `port` of loopback. `up` and `down`, or a `with`.

    `openstack` are the variables that tell of an OpenStack to put machines on (cloud, network, ranges, data, software,
    and as VISA_GUEST_URL this host's address on the machines' network; the port is the site's own);
    without them machines are desktops of this host.
    Raises `Missing` and `NotReady` with one sentence.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        environment: str = "demo",
        openstack: Mapping[str, str] | None = None,
        step: Step = _quietly,
        durable: bool = True,
    ) -> None:
        self.directory = directory
        self.port = port
        self.environment = environment
        self.openstack = openstack
        self.url = f"http://{LOOPBACK}:{port}"
        self.running: dict[str, Running] = {}
        self._step = step
        self._durable = durable
        self._held: IO[bytes] | None = None
        self._keys: Keys | None = None

    # --- state ---------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> Keys:
        if self._keys is None:
            self._keys = Keys.of(self.directory / "keys.json", near=self.port)
        return self._keys

    @property
    def issuer(self) -> str:
        return f"http://{LOOPBACK}:{self.keys.identity_port}"

    def _log(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.log"

    def hold(self) -> None:
        """Take the directory for this process alone, until it ends."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o711)  # servers that are not root walk through, and see nothing
        held = (self.directory / "lock").open("ab")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            raise NotReady(
                f"A demo is running in {self.directory} already; end it with Ctrl-C in its terminal."
            ) from None
        self._held = held

    def variables(self, process: str) -> dict[str, str]:
        """The environment of one process: what it needs and no more (a worker has no signing key, the web no cloud)."""
        keys, name = self.keys, "VISA_OIDC_DEMO"
        facts = self.running["PostgreSQL"].facts
        said = {key: value for key, value in os.environ.items() if not key.startswith(("VISA_", "DJANGO_"))}
        said |= {
            "DJANGO_SETTINGS_MODULE": "visa.settings",
            "PYTHONUNBUFFERED": "1",
            "VISA_PROCESS": process,
            "VISA_SITE_URL": self.url,
            "VISA_SITE_NAME": "VISA demo",
            "VISA_SITE_DEMO": "yes",
            "VISA_SITE_STATIC_ROOT": str(self.directory / "static"),
            "VISA_DATABASE_HOST": facts["host"],
            "VISA_DATABASE_NAME": facts["name"],
            "VISA_DATABASE_USER": facts["user"],
            "VISA_REDIS_URL": self.running["Redis"].facts["url"],
            "VISA_MACHINE_KEYS": keys.machine_key,
            "VISA_DESKTOP_RANGES": f"{LOOPBACK}/32",
            "VISA_ROLES_ADMINISTRATOR": f"subject:{self.issuer}#administrator",
            "VISA_ROLES_INSTRUMENT_SCIENTIST": f"subject:{self.issuer}#instrumentscientist",
        }
        if process in {"web", "command"}:
            said |= {
                "VISA_SIGNING_KEY": keys.signing_key,
                "VISA_OIDC_PROVIDERS": "demo",
                f"{name}_LABEL": "The demo's own sign-in",
                f"{name}_PRESET": "generic",
                f"{name}_ISSUER": self.issuer,
                f"{name}_CLIENT_ID": "visa",
                f"{name}_CLIENT_SECRET": keys.client_secret,
                f"{name}_SCOPES": "openid profile email aarc",
                f"{name}_API_CLIENTS": "notebook",
                f"{name}_NAMESPACES": "urn:geant:demo.example",
            }
        if self.openstack is None:
            said |= {
                "VISA_DATA_SOURCE": f"{self.directory}/data/{{path}}",
                "VISA_DATA_FSTYPE": "none",
                "VISA_SOFTWARE_SOURCE": str(self.directory / "software"),
                "VISA_SOFTWARE_FSTYPE": "none",
            }
        cloud = {"VISA_CLOUD_KIND": "local", "VISA_CLOUD_DIRECTORY": str(self.directory / "machines")}
        if self.openstack is not None:
            cloud = dict(self.openstack)
            if "VISA_GUEST_URL" in cloud:
                cloud["VISA_GUEST_URL"] = f"http://{urlsplit(cloud['VISA_GUEST_URL']).hostname}:{self.port}"
        said |= cloud | {"VISA_CLOUD_ENVIRONMENT": self.environment}
        if process == "web":
            # It takes wishes and opens desktops; the cloud and its credential are the drivers' alone.
            said = {key: value for key, value in said.items() if not key.startswith(("VISA_CLOUD_", "OS_"))}
        return said

    # --- neighbours ----------------------------------------------------------------------------------------------

    def _begin(self, process: Running) -> Running:
        self.running[process.name] = process
        return process

    def start_neighbours(self) -> None:
        """PostgreSQL, Redis and the identity provider."""
        with self._step("PostgreSQL"):
            place = self.directory / "postgres"
            self._begin(processes.start_postgres(place, log=self._log("postgres"), durable=self._durable))
        with self._step("Redis"):
            self.start_redis()
        with self._step("Identity provider"):
            self.start_identity_provider()

    def start_redis(self) -> Running:
        return self._begin(processes.start_redis(self.directory / "redis", log=self._log("redis")))

    def start_identity_provider(self) -> Running:
        port = self.keys.identity_port
        if processes.accepts(port):
            raise NotReady(
                f"Port {port}, where people sign in to this demo, is in use: end that, or run deploy/demo --reset."
            )
        client = {"slug": "demo", "url": self.url, "client_id": "visa", "client_secret": self.keys.client_secret}
        configuration = {
            "port": port,
            "title": "Sign in to the demo",
            "cast": str(ROOT / "deploy" / "identity" / "cast.json"),
            "relying_parties": [client],
            "api_clients": ["notebook"],
        }
        return self._begin(
            processes.start_identity_provider(
                configuration, directory=self.directory / "identity", log=self._log("identity")
            )
        )

    # --- content -------------------------------------------------------------------------------------------------

    def run(self, *command: str, seconds: float = 300) -> str:
        """Run a command of the platform to its end and return what it said; raises `NotReady` where it failed."""
        log = self._log("set-up")
        log.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [*PYTHON, *command],
            cwd=ROOT,
            env=self.variables("command"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        with log.open("a", encoding="utf-8") as written:
            written.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
        if done.returncode:
            last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-3:]
            raise NotReady(f"{' '.join(command[:3])} failed; {log} says all of it, and ends with:\n" + "\n".join(last))
        return done.stdout

    def fill(self) -> None:
        """Software tree, sample data, database, pages' parts; each only where something changed."""
        with self._step("Software tree"):
            self.run("-m", "deploy.software", str(self.directory / "software"))
        stamp, wanted = self.directory / "filled", self._fingerprint()
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return
        with self._step("Database, records and sample data"):
            self.run("-m", "deploy.demo_setup", "--data", str(self.directory / "data"))
        stamp.write_text(wanted, encoding="utf-8")

    def _fingerprint(self) -> str:
        """Of everything that `deploy.demo_setup` makes its content from."""
        digest = hashlib.sha256(self.issuer.encode())
        sources = [*ROOT.glob("*/migrations/*.py"), *ROOT.glob("visa/accounts/migrations/*.py")]
        sources += ROOT.glob("visa/static/**/*")
        sources += ROOT.glob("visa/frontend/package-lock.json")
        sources += ROOT.glob("deploy/demo_*")
        for path in sorted(path for path in sources if path.is_file()):
            digest.update(f"{path.relative_to(ROOT)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    # --- our own processes ---------------------------------------------------------------------------------------

    def start_web(self) -> Running:
        """Returns when it answers."""
        command = ["-m", "visa.web", "--host", LOOPBACK, "--port", str(self.port)]
        # Where machines are on a network of their own, they reach the site by this host's address there.
        machines = urlsplit((self.openstack or {}).get("VISA_GUEST_URL", "")).hostname
        command += ["--host", machines] if machines else []
        process = self._start("web", command, "web")
        processes.wait_until(self._answers, process, seconds=60)
        return process

    def start_worker(self) -> Running:
        command = ["-m", "celery", "-A", "visa", "worker", "--queues", "default,cloud", "--concurrency", "2"]
        return self._start("worker", [*command, "--without-gossip", "--without-mingle", "--loglevel", "INFO"], "worker")

    def start_beat(self) -> Running:
        schedule = str(self.directory / "beat-schedule")
        return self._start(
            "beat", ["-m", "celery", "-A", "visa", "beat", "--schedule", schedule, "--pidfile", ""], "worker"
        )

    def start_reconciler(self) -> Running:
        return self._start("reconciler", ["manage.py", "run_reconciler"], "reconciler")

    def _start(self, name: str, command: list[str], process: str) -> Running:
        return self._begin(
            processes.start(name, [*PYTHON, *command], log=self._log(name), environment=self.variables(process))
        )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/", timeout=20) as answer:  # noqa: S310 - http, our own
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    # --- all of it -----------------------------------------------------------------------------------------------

    def up(self) -> Self:
        """Everything, in order. What was started is stopped again when a later part fails."""
        if processes.accepts(self.port):
            raise NotReady(f"Port {self.port} is in use; choose another with --port, such as --port {self._another()}.")
        self.hold()
        try:
            self.start_neighbours()
            self.fill()
            with self._step("Web, worker, beat and reconciler"):
                self.start_worker()
                self.start_beat()
                self.start_reconciler()
                self.start_web()
        except BaseException:
            self.down()
            raise
        return self

    def _another(self) -> int:
        """A port that is free now, easy to remember where one of those is."""
        hundreds = range(self.port + 100, min(self.port + 1100, 65536), 100)
        return next((port for port in hundreds if not processes.accepts(port)), None) or processes.free_port()

    def down(self) -> None:
        """End all that was started here, newest first. The desktops stay: a later start finds them again."""
        for name in reversed(list(self.running)):
            if name not in NEIGHBOURS:
                self.running[name].ask()
        for name in reversed(list(self.running)):
            self.running.pop(name).stop()
        if self._held:
            self._held.close()
            self._held = None

    def watch(self) -> None:
        """Stay until something that cannot be missed ends; start our own processes again where they end."""
        again = {
            "web": self.start_web,
            "worker": self.start_worker,
            "beat": self.start_beat,
            "reconciler": self.start_reconciler,
        }
        ended: list[float] = []
        while True:
            for name, process in list(self.running.items()):
                if process.alive:
                    continue
                ended = [moment for moment in ended if time.monotonic() - moment < 60] + [time.monotonic()]
                if name not in again or len(ended) > 5:
                    raise NotReady(f"{name} ended; its log {process.log} ends with:\n{process.said()}")
                print(f"  {name} ended; starting it again (its log: {process.log})", file=sys.stderr)
                again[name]()
            time.sleep(0.5)  # how soon an ended process is noticed

    def end_desktops(self) -> None:
        """End this platform's desktops, for good: the embedded cloud's, or its machines in the OpenStack."""
        if self.openstack:
            where = ["openstack", self.openstack["VISA_CLOUD_NAME"]]
        elif (self.directory / "machines").is_dir():
            where = ["local", str(self.directory / "machines")]
        else:
            return
        command = [*PYTHON, "-m", "deploy.demo_clear", *where, self.environment]
        environment = os.environ | (self.openstack or {})
        subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=120)

    def clear(self) -> None:
        """End this directory's desktops and remove all of it. Only while nothing of it runs."""
        if not self.directory.exists():
            return
        self.hold()
        try:
            self.end_desktops()
            if self.openstack:
                # What is exported to guests stays or is emptied: the NFS server goes on with a directory that is gone.
                for entry in self.directory.iterdir():
                    if entry.name != "software":
                        for place in entry.iterdir() if entry.name == "data" else [entry]:
                            shutil.rmtree(place) if place.is_dir() else place.unlink()
            else:
                shutil.rmtree(self.directory)
        except OSError as error:
            raise NotReady(f"{error.filename}: {error.strerror}; remove it as the user who made it.") from error
        finally:
            self.down()
        self._keys = None

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def as_interrupt() -> None:
    """SIGTERM and SIGHUP end us as Ctrl-C does, in order; SIGINT too where a shell started us with it ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
