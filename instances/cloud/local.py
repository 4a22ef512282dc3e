"""Real desktops on this machine, without a hypervisor: the embedded cloud of the demo.

Every server is a TigerVNC desktop in a bubblewrap sandbox with processes, users, host name, network and file system of
its own. The platform keeps no process for it and no memory of it: what is, stands in one directory per server and
in /proc, so any process of the platform finds and drives the same servers, and ends without ending them.

What holds: `/usr`, data and software cannot be written; a machine sees neither other machines nor the host's files,
processes, sockets or network; cores, memory and GPUs are counted over all servers, running or not, as Nova's placement
does; no sandboxed process has a right of root's. What does not: of memory only each process's own share is limited
(RLIMIT_DATA), cores are a proposal (affinity and niceness), and the disk is not limited at all. For strangers use
OpenStack.
"""

import base64
import contextlib
import fcntl
import json
import os
import platform
import pwd
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, Final
from uuid import UUID

import yaml
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.modes import ECB
from typing_extensions import override

from instances.cloud import sandbox
from instances.cloud.protocol import (
    CALL_SECONDS,
    Changes,
    Cloud,
    CloudFull,
    CloudRefused,
    CloudUnreachable,
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
from instances.cloud.sandbox import FIRST_UID, Sandbox, Shape
from instances.userdata import LIMIT_BYTES, from_fstab

#: what it offers, by the names the development OpenStack has too. Flavours are only counted, so any name is taken.
OFFERING: Final = Offering(
    images=frozenset({"visa-desktop"}),
    flavours=frozenset({"visa.small", "visa.medium", "visa.gpu"}),
    networks=frozenset({"loopback"}),
)

#: how long to wait for another process's change to end, in seconds
PATIENCE: Final = CALL_SECONDS / 2

#: the instance's id, so that the directories say whose they are, and something to tell doubled creates apart
_SERVER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[0-9a-f]{8}")
#: a port is a file of this name: one for each instance, since a file cannot be made twice
_PORT_ID = re.compile(r"port-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
#: how long a deleted server is remembered, for those who ask what has changed
_DELETED_LASTS: Final = timedelta(hours=1)
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: where a document may mount something, and where it may write files
_MOUNT_ROOTS: Final = ("/data", "/cvmfs", "/software", "/mnt", "/srv")
_FILE_ROOT: Final = PurePosixPath("/etc")
#: what a machine goes by to fetch its secrets; its attendant's and not the sandbox's
GUEST_FILE: Final = _FILE_ROOT / "visa" / "guest.json"
AUTHORITY_FILE: Final = _FILE_ROOT / "visa" / "platform-ca.pem"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is written down about one server: the whole truth about it, besides /proc."""

    id: str
    instance_id: str
    environment: str
    image: str
    flavour: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    gpus: int
    created_at: str
    hostname: str
    user: str
    uid: int
    mounts: tuple[tuple[str, str], ...]
    wanted: str  #: "running" or "stopped"
    port: int = 0
    sandbox: Sandbox | None = None
    fault: str = ""
    port_id: str = ""
    serial: int = 0
    deleted_at: str = ""
    ran: bool = False


@dataclass(frozen=True, kw_only=True)
class Document:
    """What a cloud-init document asks for, as far as this cloud can give it. File contents by absolute path."""

    hostname: str
    files: Mapping[PurePosixPath, tuple[bytes, int]]
    mounts: tuple[tuple[str, str], ...]


class LocalCloud(Cloud):
    """The servers below `directory`, for one environment. Objects hold no state; many processes use one directory.

    `directory` is made where its parent is there. Servers of other environments in it are not seen, but counted.
    """

    def __init__(
        self,
        directory: Path,
        *,
        environment: str,
        cores: int,
        memory_mib: int,
        gpus: int,
        patience: float = PATIENCE,
    ) -> None:
        self._directory = directory
        self._environment = environment
        self._capacity = (("cores", cores), ("MiB of memory", memory_mib), ("GPUs", gpus))
        self._patience = patience

    @override
    def find(self, instance_id: UUID) -> tuple[Server, ...]:
        return tuple(server for server in self.list() if server.instance_id == instance_id)

    @override
    def known(self, server_id: str) -> Server | None:
        try:
            return self._server(self._record(server_id))
        except ServerGone:
            return None

    @override
    def create(self, spec: ServerSpec) -> Server:
        if spec.image not in OFFERING.images:
            raise CloudRefused(f"no image is called {spec.image!r}")
        document = read_document(spec.user_data)
        if missing := sandbox.missing_programs():
            raise CloudRefused(missing)
        with self._locked():
            if spec.port_id:
                self._take(spec.port_id)
            self._make_room(spec)
            server_id = f"{spec.instance_id}.{secrets.token_hex(4)}"
            record = Record(
                id=server_id,
                instance_id=str(spec.instance_id),
                environment=self._environment,
                image=spec.image,
                flavour=spec.flavour,
                vcpus=spec.vcpus,
                memory_mib=spec.memory_mib,
                disk_gib=spec.disk_gib,
                gpus=spec.gpus,
                created_at=datetime.now(UTC).isoformat(),
                hostname=document.hostname or server_name(spec.instance_id)[:13],
                user=_user_of(document),
                uid=self._free_uid(),
                mounts=document.mounts,
                wanted="running",
                port_id=spec.port_id,
                serial=spec.serial,
            )
            with _answering():
                # The record is written last: what has none was never accepted, and is swept away.
                folder = self._directory / server_id
                folder.mkdir(mode=0o711)
                _furnish(folder, record, document)
                self._write(record)
            return self._server(self._run(record))

    @override
    def start(self, server_id: str) -> None:
        with self._locked():
            record = self._record(server_id)
            if self._alive(record) is None:
                self._run(record)

    @override
    def stop(self, server_id: str) -> None:
        with self._locked():
            record = self._record(server_id)
            self._write(replace(record, wanted="stopped", fault=""))
            self._end(record)
            self._write(replace(record, wanted="stopped", sandbox=None, fault=""))

    @override
    def reboot(self, server_id: str) -> None:
        with self._locked():
            record = self._record(server_id)
            self._end(record)
            self._run(record)

    @override
    def delete(self, server_id: str) -> None:
        with self._locked():
            try:
                record = self._record(server_id)
            except ServerGone:
                return
            self._end(record)
            self._remember(replace(record, sandbox=None, deleted_at=datetime.now(UTC).isoformat()))
            with _answering():
                # Gone in one step for all who look; then its files, which may be many.
                (self._directory / server_id / "server.json").unlink(missing_ok=True)
        _remove(self._directory / server_id)

    @override
    def list(self) -> Iterable[Server]:
        mine = [record for record in self._records() if record.environment == self._environment]
        return tuple(self._server(record) for record in sorted(mine, key=lambda record: (record.created_at, record.id)))

    @override
    def changed_since(self, when: datetime) -> Changes:
        # A sandbox that ends writes nothing down, so any server may have changed.
        deleted = [record for record in self._deleted() if datetime.fromisoformat(record.deleted_at) >= when]
        gone = (self._server(one) for one in deleted if one.environment == self._environment)
        return Changes(servers=(*self.list(), *gone))

    # Sandboxes have no network, so a port leads nowhere. It is kept as strictly as a real one.

    @property
    @override
    def unique_ports(self) -> bool:
        return True

    @override
    def find_ports(self, instance_id: UUID) -> tuple[Port, ...]:
        return tuple(port for port in self.ports() if port.instance_id == instance_id)

    @override
    def create_port(self, instance_id: UUID) -> Port:
        with self._locked():
            path = self._directory / f"port-{instance_id}"
            with _answering():
                if not path.exists():
                    write_file(path, json.dumps([self._environment, datetime.now(UTC).isoformat()]).encode(), 0o600)
            if found := self.find_ports(instance_id):
                return found[0]
        raise CloudRefused(f"the port of {instance_id} is another installation's")

    @override
    def delete_port(self, port_id: str) -> None:
        with self._locked(), _answering():
            if port_id in {port.id for port in self.ports()}:
                (self._directory / port_id).unlink(missing_ok=True)

    @override
    def ports(self) -> Iterable[Port]:
        users = {record.port_id: record.id for record in self._records()}
        found = []
        with _answering():
            for path in self._directory.iterdir() if self._directory.exists() else ():
                if not (name := _PORT_ID.fullmatch(path.name)):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    environment, created_at = json.loads(path.read_text(encoding="utf-8"))
                    if environment == self._environment:
                        found.append(_port(UUID(name[1]), datetime.fromisoformat(created_at), users.get(path.name, "")))
        return tuple(sorted(found, key=lambda port: (port.created_at, port.id)))

    @override
    def volumes(self) -> Iterable[Volume]:
        self._records()  # a directory that cannot be read is a cloud that does not answer
        return ()

    @override
    def delete_volume(self, volume_id: str) -> None:
        self._records()

    @override
    def console(self, server_id: str, *, lines: int = 50) -> str:
        self._record(server_id)
        with _answering(), (self._directory / server_id / "console.log").open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 65_536))
            said = log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(said[-lines:]) + "\n" if lines > 0 else ""

    @override
    def offering(self) -> Offering:
        self._records()  # a directory that cannot be read is a cloud that does not answer
        return OFFERING

    # What is written down.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time, over all processes; who waits too long hears that the cloud does not answer."""
        with _answering():
            self._directory.mkdir(mode=0o711, exist_ok=True)
            lock = os.open(self._directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + self._patience
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise CloudUnreachable(f"another process holds the lock of {self._directory}") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(lock)

    def _record(self, server_id: str) -> Record:
        if _SERVER_ID.fullmatch(server_id):
            with _answering():
                self._directory.parent.stat()  # a directory with no place to be in is silence
            with _answering(), contextlib.suppress(FileNotFoundError):
                record = parse((self._directory / server_id / "server.json").read_text(encoding="utf-8"))
                if record.environment == self._environment:
                    return record
        raise ServerGone(f"no server has the id {server_id[:80]!r}")

    def _records(self) -> tuple[Record, ...]:
        """Every server of every environment: they share one machine's cores."""
        records = []
        with _answering():
            # Before the first machine nothing is there yet; a directory with no place to be in is silence.
            self._directory.parent.stat()
            folders = self._folders() if self._directory.exists() else []
            for folder in folders:
                with contextlib.suppress(FileNotFoundError):
                    records.append(parse((folder / "server.json").read_text(encoding="utf-8")))
        return tuple(records)

    def _folders(self) -> tuple[Path, ...]:
        return tuple(folder for folder in self._directory.iterdir() if _SERVER_ID.fullmatch(folder.name))

    def _write(self, record: Record) -> None:
        with _answering():
            write_file(self._directory / record.id / "server.json", json.dumps(asdict(record)).encode(), 0o600)

    def _take(self, port_id: str) -> None:
        port = next((port for port in self.ports() if port.id == port_id), None)
        if port is None or port.server_id:
            raise PortTaken(f"the port {port_id[:80]!r} is {f'used by {port.server_id}' if port else 'gone'}")

    def _deleted(self) -> tuple[Record, ...]:
        """The servers that were deleted lately, of every environment."""
        with _answering(), contextlib.suppress(FileNotFoundError):
            lines = (self._directory / "deleted.jsonl").read_text(encoding="utf-8").splitlines()
            return tuple(parse(line) for line in lines)
        return ()

    def _remember(self, record: Record) -> None:
        oldest = datetime.now(UTC) - _DELETED_LASTS
        kept = [one for one in self._deleted() if datetime.fromisoformat(one.deleted_at) > oldest]
        lines = [json.dumps(asdict(one)) for one in (*kept, record)]
        with _answering():
            write_file(self._directory / "deleted.jsonl", "\n".join(lines).encode(), 0o600)

    def _make_room(self, spec: ServerSpec) -> None:
        records = self._records()
        asked = (spec.vcpus, spec.memory_mib, spec.gpus)
        used = [(one.vcpus, one.memory_mib, one.gpus) for one in records]
        for place, (unit, have) in enumerate(self._capacity):
            free = have - sum(numbers[place] for numbers in used)
            if asked[place] > free:
                raise CloudFull(f"{asked[place]} {unit} asked, {max(free, 0)} of {have} free")
        with _answering():
            # Left behind by a process that was killed between two lines.
            for folder in self._folders():
                if not (folder / "server.json").exists():
                    _remove(folder)

    def _free_uid(self) -> int:
        """Whose the next sandbox is: a user of its own where we may choose, else ours."""
        if os.geteuid() != 0:
            return os.geteuid()
        if not sandbox.mapped(FIRST_UID):
            # In a container with few user ids all sandboxes share one, and only their namespaces part them.
            return pwd.getpwnam("nobody").pw_uid
        # By chance, since there may be other directories like ours on this host.
        taken = {record.uid for record in self._records()}
        while (uid := FIRST_UID + secrets.randbelow(100_000_000)) in taken:
            pass
        return uid

    # What runs.

    def _server(self, record: Record) -> Server:
        running = not record.deleted_at and self._alive(record) is not None
        if record.deleted_at:
            status = ServerStatus.DELETED
        elif running:
            status = ServerStatus.ACTIVE
        elif record.fault:
            status = ServerStatus.ERROR
        else:
            status = ServerStatus.SHUTOFF
        return Server(
            id=record.id,
            name=server_name(UUID(record.instance_id)),
            instance_id=UUID(record.instance_id),
            status=status,
            desktop=Desktop(host="127.0.0.1", port=record.port) if record.port else None,
            created_at=datetime.fromisoformat(record.created_at),
            fault="" if running else record.fault,
            flavour=record.flavour,
            host=platform.node(),
            serial=record.serial,
            ran=record.ran or running,
        )

    def _alive(self, record: Record) -> Sandbox | None:
        """The server's sandbox, where it lives. One that was started by a process killed before it could write that
        down is found by what bubblewrap itself wrote."""
        with _answering():
            if record.sandbox is not None:
                return record.sandbox if sandbox.alive(record.sandbox) else None
            if record.wanted != "running":
                return None
            return sandbox.sandbox_of(self._directory / record.id, record.id)

    def _run(self, record: Record) -> Record:
        """Starts the sandbox and returns the record as written. A sandbox that does not start is the server's fault,
        told with it; not an answer that says nothing."""
        folder = self._directory / record.id
        shape = Shape(
            server_id=record.id,
            folder=folder,
            hostname=record.hostname,
            user=record.user,
            uid=record.uid,
            vcpus=record.vcpus,
            memory_mib=record.memory_mib,
            mounts=record.mounts,
        )
        with _answering():
            listening = sandbox.listener(record.port)
        with listening:
            record = replace(record, wanted="running", sandbox=None, fault="", port=listening.getsockname()[1])
            self._write(record)
            with _answering():
                fault = sandbox.launch(shape, listening)
                running = None if fault else sandbox.sandbox_of(folder, record.id)
        record = replace(record, sandbox=running, fault=fault, ran=record.ran or running is not None)
        self._write(record)
        if running is not None:
            with _answering():
                sandbox.attend(folder)
        return record

    def _end(self, record: Record) -> None:
        running = self._alive(record)
        with _answering():
            if running is not None and not sandbox.end(running, self._directory / record.id):
                raise CloudUnreachable(f"the sandbox of {record.id} does not end")


def _port(instance_id: UUID, created_at: datetime, server_id: str) -> Port:
    return Port(
        id=f"port-{instance_id}",
        name=server_name(instance_id),
        instance_id=instance_id,
        mac=port_address(instance_id),
        created_at=created_at,
        server_id=server_id,
    )


def read_document(text: str) -> Document:
    """A cloud-init document as this cloud understands it: `hostname`, `write_files` below /etc, `mounts` of type none.

    `runcmd` is passed over: there is nothing to set up. Raises CloudRefused for what is malformed or not had here.
    """
    if len(text.encode()) > LIMIT_BYTES:
        raise CloudRefused(f"the user-data is larger than {LIMIT_BYTES:,} bytes")
    if not text.startswith("#cloud-config\n"):
        raise CloudRefused("the user-data is no cloud-init document")
    try:
        document = yaml.safe_load(text) or {}
        hostname = str(document.get("hostname", ""))
        files = {}
        for entry in document.get("write_files", []):
            content = entry.get("content", "")
            encoded = entry.get("encoding", "") in {"b64", "base64"}
            data = base64.b64decode(content, validate=True) if encoded else str(content).encode()
            files[_file_path(str(entry["path"]))] = (data, int(str(entry.get("permissions", "0644")), 8))
        mounts = tuple(_mount([str(part) for part in entry]) for entry in document.get("mounts", []))
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        # The sentence never quotes the document: it holds the machine's secrets.
        raise CloudRefused(f"the user-data cannot be understood ({type(error).__name__})") from None
    if hostname and not _HOSTNAME.fullmatch(hostname):
        raise CloudRefused("the user-data's host name is malformed")
    if GUEST_FILE not in files:
        raise CloudRefused(f"the user-data brings no {GUEST_FILE}, so nobody could enter the desktop")
    return Document(hostname=hostname, files=files, mounts=mounts)


def _file_path(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if not path.is_relative_to(_FILE_ROOT) or path == _FILE_ROOT or ".." in path.parts:
        raise CloudRefused(f"a file {text[:200]!r} is asked for; the local cloud writes below /etc only")
    inside = path.relative_to(_FILE_ROOT)
    if any(inside.is_relative_to(host) or PurePosixPath(host).is_relative_to(inside) for host in sandbox.HOST_ETC):
        raise CloudRefused(f"a file {text[:200]!r} is asked for; that one is the host's")
    return path


def _mount(entry: list[str]) -> tuple[str, str]:
    source, target, fstype, *_ = entry
    source = from_fstab(source)
    if fstype != "none":
        raise CloudRefused(
            f"{target[:200]!r} is of type {fstype[:20]!r}; the local cloud mounts its own directories only"
        )
    path = PurePosixPath(target)
    if ".." in path.parts or not any(path.is_relative_to(root) for root in _MOUNT_ROOTS):
        raise CloudRefused(f"nothing can be mounted at {target[:200]!r}")
    if not source.startswith("/") or not Path(source).is_dir():
        raise CloudRefused(f"the directory {source[:300]!r}, to be seen at {target[:200]!r}, does not exist here")
    return str(Path(source).resolve()), str(path)


def _furnish(folder: Path, record: Record, document: Document) -> None:
    """Everything of a new server's own: its /etc, its home, its console."""
    etc, home = folder / "etc", folder / "home"
    for new, mode in ((etc, 0o755), (home, 0o700)):
        new.mkdir()
        new.chmod(mode)
    user, uid = record.user, sandbox.uid_inside(record.uid)
    texts = {
        "passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\n{user}:x:{uid}:{uid}:Desktop:/home/{user}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "group": f"root:x:0:\n{user}:x:{uid}:\nnogroup:x:65534:\n",
        "hosts": f"127.0.0.1 localhost {record.hostname}\n::1 localhost\n",
        "hostname": f"{record.hostname}\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "bash.bashrc": (sandbox.HERE / "share" / "bash.bashrc").read_text(encoding="utf-8"),
        "profile": ". /etc/bash.bashrc\n",
        "motd": _motd(record),
        "visa/name": f"{record.hostname}\n",
        "visa/desktop.env": "DESKTOP_USER=visa\nDESKTOP_SIZE=1280x800\n",
    }
    files = {name: (text.encode(), 0o444) for name, text in texts.items()}
    for path, content in document.files.items():
        if path in {GUEST_FILE, AUTHORITY_FILE}:
            write_file(folder / path.name, content[0], 0o600)
        else:
            files[str(path.relative_to(_FILE_ROOT))] = content
    for name, (data, mode) in files.items():
        place = etc / name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, data, mode & 0o555 | stat.S_IRUSR)
        # In the sandbox all of /etc is read-only.
        give(place, record.uid)
    give(home, record.uid)
    write_file(folder / "console.log", b"", 0o600)


def _user_of(document: Document) -> str:
    """The desktop's user, as /etc/visa/desktop.env names it."""
    text = document.files.get(_FILE_ROOT / "visa" / "desktop.env", (b"", 0))[0].decode("utf-8", "replace")
    found = re.search(r"^DESKTOP_USER=([a-z_][a-z0-9_-]{0,30})$", text, re.MULTILINE)
    return found[1] if found else "visa"


def _motd(record: Record) -> str:
    data = [target for _, target in record.mounts if target.startswith("/data")]
    cores = f"{record.vcpus} core{'s' if record.vcpus > 1 else ''}"
    lines = [f"Welcome to {record.hostname}: {cores}, {record.memory_mib / 1024:g} GiB of memory."]
    lines += [f"Your data, read-only:  {target}" for target in data]
    lines += [
        "Software:              module avail, module load NAME",
        "Your own files:        ~ (kept until deletion)",
        "",
    ]
    return "\n".join(lines)


def scrambled(password: str) -> bytes:
    """A VNC password as TigerVNC's password file holds it: DES under a key everybody knows, which hides nothing."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in (23, 82, 107, 6, 35, 78, 88, 7))
    encryptor = Cipher(TripleDES(key * 3), ECB()).encryptor()  # noqa: S305 - the file format's, not ours
    return encryptor.update(password.encode("utf-8")[:8].ljust(8, b"\0")) + encryptor.finalize()


def parse(text: str) -> Record:
    fields: dict[str, Any] = json.loads(text)
    running = fields.pop("sandbox")
    mounts = tuple((source, target) for source, target in fields.pop("mounts"))
    return Record(**fields, mounts=mounts, sandbox=Sandbox(**running) if running else None)


def record_of(folder: Path) -> Record:
    """What is written down about the server of this folder."""
    return parse((folder / "server.json").read_text(encoding="utf-8"))


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, also for readers in other processes and after a power cut."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(number, "wb") as new:
        new.write(data)
        new.flush()
        os.fsync(new.fileno())
        os.fchmod(new.fileno(), mode)
    Path(name).replace(path)


def give(path: Path, uid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, uid)


def _remove(folder: Path) -> None:
    """A server's files. Whoever used the desktop may have made directories nobody can enter."""

    def insist(action: Callable[..., Any], name: str, error: object) -> None:
        with contextlib.suppress(OSError):
            Path(name).parent.chmod(0o700)
            if not Path(name).is_symlink():  # what it points to is not the desktop's, and perhaps ours
                Path(name).chmod(0o700)
            action(name)

    shutil.rmtree(folder, onerror=insist)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """What goes wrong with our own files is a cloud that does not answer: nothing may be concluded from it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
        raise CloudUnreachable(f"the local cloud's directory or programs do not answer: {error}") from error
