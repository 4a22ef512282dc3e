"""A desktop's sandbox on this machine: bubblewrap's command, limits and user; starting it, knowing it, ending it.

What it may see is an argument; what it is stands in `machine/` beside this file. Knows no cloud and no document.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from instances.cloud.relay import DESKTOP_SOCKET

#: the programs a desktop is made of, and the Debian package of each
PROGRAMS: Final = {
    "bwrap": "bubblewrap",
    "Xtigervnc": "tigervnc-standalone-server",
    "openbox": "openbox",
    "tint2": "tint2",
    "hsetroot": "hsetroot",
    "xterm": "xterm",
    "xset": "x11-xserver-utils",
    "xclip": "xclip",
    "setpriv": "util-linux",
}

#: sandboxes of a platform that runs as root belong to ordinary users that have no account and nothing else
FIRST_UID: Final = 1_800_000_000

HERE: Final = Path(__file__).parent / "machine"
RELAY: Final = Path(__file__).parent / "relay.py"
ATTENDANT: Final = "instances.cloud.attendant"
#: what of the host's /etc programs in a desktop need; the rest of it is not seen there
HOST_ETC: Final = (
    "alternatives", "environment-modules", "fonts", "X11", "xdg", "ssl/certs", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "localtime", "terminfo", "mime.types",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """A running sandbox: its first process, and what tells that process from a later one of the same number."""

    pid: int
    started: int  #: clock ticks since boot (proc(5), field 22)
    boot: str


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What one sandbox is to be. `folder` holds its `etc` and `home`; `mounts` are (source, target), all read-only."""

    server_id: str
    folder: Path
    hostname: str
    user: str
    uid: int
    vcpus: int
    memory_mib: int
    mounts: tuple[tuple[str, str], ...]


def missing_programs() -> str:
    """A sentence naming the programs that are not installed and their packages; empty where all are there."""
    missing = {program: package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if not _modules_init():
        missing["module"] = "environment-modules"
    if not missing:
        return ""
    packages = " ".join(sorted(set(missing.values())))
    return f"desktops need {', '.join(missing)}: apt-get install --no-install-recommends {packages}"


def problems() -> list[str]:
    """What keeps this machine from giving desktops, a sentence each with what to do; empty where nothing does."""
    found = [sentence] if (sentence := missing_programs()) else []
    if shutil.which("bwrap") is not None and (said := _refusal(own_users=True)) and not _users_of_the_host():
        found.append(
            f"sandboxes cannot be made here ({said}): the kernel has to allow unprivileged user namespaces "
            "(kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor), and allows none in a chroot: "
            "enter that with systemd-nspawn, or with unshare --mount and pivot_root, or run as root"
        )
    return found


def uid_inside(uid: int) -> int:
    """The desktop user's number as the sandbox of `uid` shows it."""
    return uid if _users_of_the_host() else 1000


@cache
def _users_of_the_host() -> bool:
    """Whether sandboxes have to do without user namespaces, and can: in a chroot, or where the kernel forbids them,
    root may still give each sandbox a user that is nobody else, and no rights."""
    return os.geteuid() == 0 and bool(_refusal(own_users=True)) and not _refusal(own_users=False)


@cache
def _refusal(*, own_users: bool) -> str:
    """What bubblewrap says against an empty sandbox here; "" where it can be made."""
    with tempfile.TemporaryDirectory() as place:
        stage = Path(place)
        trial = [*_ground("visa-trial", own_users=own_users), "--", *_inside(FIRST_UID, own_users), "/usr/bin/true"]
        by_root = os.geteuid() == 0
        done = subprocess.run(  # noqa: S603 - as in launch
            _by_root(FIRST_UID, stage, {}, trial, own_users=own_users) if by_root else ["bwrap", *trial],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        if stage.is_mount():
            # In a chroot whose file system is shared with others, what is mounted for one sandbox is seen by all.
            subprocess.run(["umount", "--lazy", place], check=False, timeout=20)  # noqa: S603, S607 - as in launch
            return "mounts made here are seen outside"
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or ["no reason was given"])[-1]


def listener(port: int) -> socket.socket:
    """The socket a desktop is entered by: bound before its port is promised, so that no port is ever promised twice.
    The port of before, where it is still free."""
    for wanted in (port, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", wanted))
            listener.listen(16)
        except OSError:
            listener.close()
            if wanted == 0:
                raise
        else:
            return listener
    raise AssertionError("unreachable")


def launch(shape: Shape, listening: socket.socket) -> str:
    """Starts a sandbox that nobody has to look after. Returns "" or why it did not start.

    `listening` is where its desktop will be entered; the caller may close its own copy afterwards. It stays outside:
    the sandbox gets a Unix socket, from which nothing of the host's network can be reached, and a relay carries between
    the two until the sandbox ends.
    """
    folder = shape.folder
    shutil.copytree(HERE, folder / "opt", dirs_exist_ok=True)
    report = folder / "sandbox.json"
    report.unlink(missing_ok=True)
    with (
        (folder / "console.log").open("ab") as console,
        report.open("wb") as status,
        _inner(folder) as inner,
        contextlib.ExitStack() as pipe,
    ):
        said_before = console.tell()
        ends = os.pipe()
        for end_of_pipe in ends:
            pipe.callback(os.close, end_of_pipe)
        ended, held = ends
        command = _relayed(folder, listening.fileno(), ended, held, _command(shape, status.fileno(), held))
        # setsid: the sandbox is a child of nobody of ours. It outlives whoever started it, and leaves no zombie there.
        done = subprocess.run(  # noqa: S603 - a list of our own making, no shell's words
            ["/usr/bin/setsid", "--fork", *command],
            stdin=inner.fileno(),
            stdout=console,
            stderr=console,
            pass_fds=[status.fileno(), listening.fileno(), *ends],
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            cwd="/",
            timeout=5,
            check=False,
        )
    if done.returncode == 0 and _wait(lambda: sandbox_of(folder, shape.server_id) is not None, 4.0):
        return ""
    said = (folder / "console.log").read_bytes()[said_before:].decode("utf-8", "replace").strip().splitlines()
    return f"the sandbox did not start: {said[-1][:300] if said else 'no reason was given'}"


def attend(folder: Path) -> None:
    """Starts the attendant of the sandbox in this folder: it ends by itself, and is a child of nobody of ours."""
    with (folder / "console.log").open("ab") as console:
        subprocess.run(  # noqa: S603 - a list of our own making, no shell
            ["/usr/bin/setsid", "--fork", sys.executable, "-m", ATTENDANT, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            # Nothing of the platform's own environment: what it needs stands in the folder.
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(HERE.parents[2])},
            cwd="/",
            timeout=5,
            check=True,
        )


def _inner(folder: Path) -> socket.socket:
    """The socket the sandbox listens on, in its folder, where nobody inside can put another in its place."""
    inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    (folder / DESKTOP_SOCKET).unlink(missing_ok=True)
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        # By the directory's number: a Unix socket's path may have 107 bytes only (unix(7)).
        inner.bind(f"/proc/self/fd/{place}/{DESKTOP_SOCKET}")
        inner.listen(16)
    except OSError:
        inner.close()
        raise
    finally:
        os.close(place)
    return inner


def _relayed(folder: Path, listening: int, ended: int, held: int, command: Iterable[str]) -> list[str]:
    """The command, with a relay beside it: it holds `listening`, and ends when nobody holds `held`."""
    # A shell gives /dev/null to what it starts in the background, unless it is told otherwise by a number.
    script = (
        f'(cd "$1" && exec "$2" -I -S "$3" {ended} <&{listening} {listening}<&- {held}<&-) & '
        f'exec {listening}<&- {ended}<&-; shift 3; exec "$@"'
    )
    return ["/bin/bash", "-c", script, "relay", str(folder), sys.executable, str(RELAY), *command]


def end(sandbox: Sandbox, folder: Path) -> bool:
    """Ends the sandbox of this folder: politely for a second, then all of it at once, since with its first process its
    kernel's process table ends. True where nothing of it lives any more, and its port is free."""
    for child in _children(sandbox.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    if not _wait(lambda: not alive(sandbox), 1.0):
        with contextlib.suppress(ProcessLookupError):
            os.kill(sandbox.pid, signal.SIGKILL)
    return _wait(lambda: not alive(sandbox) and not (folder / DESKTOP_SOCKET).exists(), 3.0)


def alive(sandbox: Sandbox) -> bool:
    """Whether this very sandbox lives, and not another process that has come to its number."""
    return sandbox.boot == boot() and started(sandbox.pid) == sandbox.started


def _command(shape: Shape, status_fd: int, held_fd: int) -> list[str]:
    """The whole command of a sandbox: limits, user, bubblewrap, session."""
    sources = {name: shape.folder / name for name in ("etc", "home", "opt")}
    sources |= {f"mount{place}": Path(source) for place, (source, _) in enumerate(shape.mounts)}
    root, own_users = os.geteuid() == 0, not _users_of_the_host()
    stage = _stage(sources.values()) if root else Path()
    seen = {name: stage / name if root else path for name, path in sources.items()}
    home = f"/home/{shape.user}"
    arguments = [
        *_ground(shape.hostname, own_users=own_users),
        "--json-status-fd",
        str(status_fd),
        "--sync-fd",
        str(held_fd),
        "--ro-bind",
        str(seen["etc"]),
        "/etc",
    ]
    for name in HOST_ETC:
        host, point = Path("/etc") / name, shape.folder / "etc" / name
        if not host.exists():
            continue
        # Mount points inside what is read-only have to be there before.
        point.parent.mkdir(parents=True, exist_ok=True)
        if host.is_dir():
            point.mkdir(exist_ok=True)
        else:
            point.touch()
        arguments += ["--ro-bind", str(host.resolve()), f"/etc/{name}"]
    for parent in sorted({str(Path(target).parent) for _, target in shape.mounts} | {"/opt", "/home"}):
        arguments += ["--perms", "0755", "--dir", parent]
    arguments += ["--ro-bind", str(seen["opt"]), "/opt/visa", "--bind", str(seen["home"]), home]
    for place, (_, target) in enumerate(shape.mounts):
        arguments += ["--ro-bind", str(seen[f"mount{place}"]), target]
    environment = {
        "PATH": "/opt/visa/bin:/usr/local/bin:/usr/bin:/bin:/usr/games",
        "HOME": home,
        "USER": shape.user,
        "LOGNAME": shape.user,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "BASH_ENV": "/etc/bash.bashrc",
        # By this the first process of the sandbox is known for this server's.
        "VISA_SERVER": shape.server_id,
    }
    arguments.append("--clearenv")
    for name, value in environment.items():
        arguments += ["--setenv", name, value]
    # What was not mounted cannot be written either: without this the empty root itself could be filled.
    arguments += ["--remount-ro", "/", "--chdir", "/", "--"]
    arguments += [*_inside(shape.uid, own_users), "/opt/visa/bin/session"]
    if root:
        return _by_root(shape.uid, stage, sources, arguments, _limits(shape), own_users=own_users)
    return [*_limits(shape), "bwrap", *arguments]


def _ground(hostname: str, *, own_users: bool) -> list[str]:
    """What every sandbox stands on: its own namespaces, the host's programs read-only, and nothing else of the host."""
    arguments = [
        "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try",
        "--hostname", hostname, "--new-session", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr",
    ]  # fmt: skip
    if own_users:
        arguments += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
        if _bwrap_version() >= (0, 8):
            # Nobody inside becomes root of yet another namespace, where most of the kernel's faults are found.
            arguments.append("--disable-userns")
    else:
        # What it takes to become an ordinary user inside, and nothing more; see `_inside`.
        for right in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            arguments += ["--cap-add", right]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        host = Path("/") / name
        if host.is_symlink():
            arguments += ["--symlink", str(host.readlink()), str(host)]
        elif host.is_dir():
            arguments += ["--ro-bind", str(host), str(host)]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for place, mode, size in (
        ("/tmp", "1777", 256),  # noqa: S108 - the sandbox's own
        ("/dev/shm", "1777", 256),  # noqa: S108 - the same
        ("/run", "0755", 16),
        ("/var", "0755", 16),
    ):
        if _bwrap_version() >= (0, 7):
            arguments += ["--size", str(size * 1024 * 1024)]
        arguments += ["--perms", mode, "--tmpfs", place]
    return arguments


def _inside(uid: int, own_users: bool) -> list[str]:
    """What precedes the session where it would else begin as root: it becomes `uid`, with no right and no way back."""
    if own_users:
        return []
    user = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--no-new-privs"]
    return [*user, "--inh-caps=-all", "--bounding-set=-all", "--"]


def _by_root(
    uid: int,
    stage: Path,
    sources: Mapping[str, Path],
    arguments: Iterable[str],
    limits: Iterable[str] = (),
    *,
    own_users: bool,
) -> list[str]:
    """bubblewrap, run by root, in a mount namespace where `sources` stand below `stage`: as the ordinary user `uid`
    where that one may have user namespaces of its own, else as root, who becomes `uid` inside."""
    # What is no mount point, as the / of a chroot, cannot be made private; `_refusal` looks whether it matters.
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    propagation = "private" if any(line.split()[4] == "/" for line in mounts) else "unchanged"
    pairs = [part for name, path in sources.items() for part in (name, str(path))]
    return [
        *("unshare", "--mount", "--propagation", propagation, "--", "sh", str(HERE / "staged")),
        *(str(uid) if own_users else "root", str(stage), *pairs, "--", *limits, "bwrap", *arguments),
    ]


def _stage(sources: Iterable[Path]) -> Path:
    """A directory every user can reach and below which no source stands: there something else is mounted, unseen by
    everybody outside."""
    paths = tuple(sources)
    for place in (Path("/media"), Path("/mnt"), Path("/srv"), Path("/opt")):
        if place.is_dir() and not any(path.is_relative_to(place) for path in paths):
            return place
    raise OSError("none of /media, /mnt, /srv, /opt is free of this platform's directories")


def _limits(shape: Shape) -> list[str]:
    """Commands that hold back what follows them, as far as an ordinary user's limits can."""
    ours = sorted(os.sched_getaffinity(0))
    first = int(shape.server_id[:8], 16) % len(ours)
    cores = sorted({ours[(first + step) % len(ours)] for step in range(max(1, min(shape.vcpus, len(ours))))})
    limits = ["prlimit", "--core=0", "--nofile=4096", f"--data={shape.memory_mib * 1024 * 1024}"]
    if shape.uid >= FIRST_UID:
        # A limit per user, so only where the user is the sandbox's own.
        limits.append("--nproc=512")
    return [*limits, "nice", "-n", "5", "taskset", "--cpu-list", ",".join(map(str, cores))]


def sandbox_of(folder: Path, server_id: str) -> Sandbox | None:
    """The sandbox bubblewrap reported in this folder, where that process lives and carries the server's id."""
    try:
        first = (folder / "sandbox.json").read_text(encoding="utf-8").split("\n")[0]
        pid = int(json.loads(first)["child-pid"])
        if server_id.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return None
    except (OSError, ValueError, KeyError):
        return None
    since = started(pid)
    return None if since is None else Sandbox(pid=pid, started=since, boot=boot())


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where it has ended or only waits to be buried."""
    try:
        # The name in brackets may hold anything; what follows it does not.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    return []


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def mapped(uid: int) -> bool:
    """Whether this user id exists where we run: in a container perhaps only the first 65,536 do."""
    lines = (line.split() for line in Path("/proc/self/uid_map").read_text(encoding="utf-8").splitlines())
    return any(int(first) <= uid < int(first) + int(count) for first, _, count in lines)


def _modules_init() -> bool:
    places = ("/usr/share/modules/init/bash", "/usr/share/lmod/lmod/init/bash")
    return any(Path(place).is_file() for place in places)


@cache
def _bwrap_version() -> tuple[int, ...]:
    """bubblewrap's version; (0, 8) knows what Ubuntu 22.04's (0, 6) does not."""
    said = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, timeout=5, check=False)  # noqa: S607 - found by PATH, as every program here
    return tuple(int(number) for number in re.findall(r"\d+", said.stdout)[:3])


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
