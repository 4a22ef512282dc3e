"""The embedded cloud: what its sandboxes keep apart, and what of it outlives which process."""

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from instances.cloud import sandbox
from instances.cloud.greeting import desktop_answers
from instances.cloud.local import LocalCloud, _remove, read_document, scrambled
from instances.cloud.protocol import CloudFull, CloudRefused, CloudUnreachable, Server, ServerSpec, ServerStatus
from instances.reports import from_console
from tests.clouds import LocalUnderTest, document, secret
from tests.door import TOKEN, door_of, open_door
from tests.instances.cloud.desk import ask, sitting_at, terminal_is_there


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalUnderTest]:
    under_test = LocalUnderTest(tmp_path / "cloud")
    yield under_test
    under_test.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    (place / "measured.txt").write_text("counts\n")
    return place


def record_of(local: LocalUnderTest, server: Server) -> Path:
    return local.place / "machines" / server.id / "server.json"


def written(local: LocalUnderTest, server: Server) -> dict[str, object]:
    fields: dict[str, object] = json.loads(record_of(local, server).read_text())
    return fields


def first_process(local: LocalUnderTest, server: Server) -> int:
    running = written(local, server)["sandbox"]
    assert isinstance(running, dict)
    return int(running["pid"])


def answering(local: LocalUnderTest, spec: ServerSpec, *, server: Server | None = None) -> Server:
    server = server or local.arrived(spec)
    assert server.desktop is not None
    deadline = time.monotonic() + 10
    while not desktop_answers(server.desktop):
        assert time.monotonic() < deadline, local.cloud.console(server.id)
        time.sleep(0.01)
    return server


def until_up(local: LocalUnderTest, server: Server) -> None:
    """Waits until the desktop's own programs run and nobody waits for it any more."""
    deadline = time.monotonic() + 20
    while "is up" not in local.cloud.console(server.id):
        assert time.monotonic() < deadline, local.cloud.console(server.id)
        time.sleep(0.05)


async def asked(local: LocalUnderTest, server: Server, script: str) -> list[str]:
    """What a script puts out when somebody runs it in the machine's terminal; it is laid into the machine's home."""
    assert server.desktop is not None
    laid = record_of(local, server).with_name("home") / "ask"
    laid.write_text(script)
    laid.chmod(0o644)
    return await ask(server.desktop, secret(), "bash ~/ask")


def test_this_machine_can_give_desktops() -> None:
    assert sandbox.problems() == []


async def test_a_desktop_has_a_panel_and_a_terminal_behind_its_own_certificate(local: LocalUnderTest) -> None:
    spec = local.spec()
    server = answering(local, replace(spec, user_data=document(spec.instance_id, name="Ångström")))
    assert server.desktop is not None

    async with sitting_at(server.desktop, secret()) as viewer:
        await terminal_is_there(viewer)
        width, height, pixels = await viewer.picture()

    assert viewer.name == "Ångström"
    assert (width, height) == (1280, 800)
    assert len({pixels[start : start + 3] for start in range(0, len(pixels), 4)}) > 100


async def test_what_a_machine_sees_and_may_do(local: LocalUnderTest, data: Path, tmp_path: Path) -> None:
    spec = local.spec()
    mounted = document(spec.instance_id, (data, "/data/10.1234_sample"))
    server = answering(local, replace(spec, user_data=mounted))
    with socket.socket() as neighbour:
        neighbour.bind(("127.0.0.1", 0))
        neighbour.listen()
        port = neighbour.getsockname()[1]
        questions = [
            "cat /data/10.1234_sample/measured.txt",
            "touch /data/10.1234_sample/mine",
            "touch /usr/mine",
            "touch /mine",
            "rm -f /etc/visa/vnc-secret",
            "hostname",
            "id -u",
            "ls /proc | grep -c '^[0-9]'",
            f"ls {tmp_path}",
            f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}'",
            "type -t module",
            "touch ~/mine && echo kept",
            "ls /run | wc -l",
        ]

        said = await asked(local, server, "\n".join(f"{question} 2>&1 | tail -1" for question in questions))

    assert said[0] == "counts"
    for refused in said[1:5]:
        assert refused.endswith("Read-only file system")
    assert said[5] == f"visa-{spec.instance_id.hex[:8]}"
    assert said[6] == str(sandbox.uid_inside(record_of(local, server).with_name("home").stat().st_uid))
    assert int(said[7]) < 20
    assert said[8].endswith("No such file or directory")
    assert said[9].endswith("Connection refused")
    assert said[10] == "function"
    assert said[11] == "kept"
    assert said[12] == "0"
    assert not (data / "mine").exists()


def test_no_process_of_a_machine_has_a_right_of_roots(local: LocalUnderTest) -> None:
    server = answering(local, local.spec())
    until_up(local, server)
    first = first_process(local, server)
    inside = Path(f"/proc/{first}/ns/pid").readlink()

    running = [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and in_namespace(entry, inside)
    ]

    assert len(running) >= 3
    for pid in running:
        facts = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        rights = {facts[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
        assert rights == {"0" * 16}
        assert facts["NoNewPrivs"] == "1"
        # Where there are no user namespaces, bubblewrap itself stays root's, without its rights.
        assert pid == first or "0" not in facts["Uid"].split()


def in_namespace(process: Path, namespace: Path) -> bool:
    try:
        return (process / "ns" / "pid").readlink() == namespace
    except OSError:
        return False  # it has ended, or is none of ours


def test_each_machine_of_roots_platform_has_a_user_of_its_own(local: LocalUnderTest) -> None:
    first, second = local.arrived(), local.arrived()

    owners = {record_of(local, server).with_name("home").stat().st_uid for server in (first, second)}

    assert len(owners) == (2 if os.geteuid() == 0 else 1)
    assert 0 not in owners


async def test_the_home_outlives_a_stop_and_not_a_deletion(local: LocalUnderTest) -> None:
    server = answering(local, local.spec())
    await asked(local, server, "echo mine > ~/notes; mkdir -p ~/closed/inner; chmod 0 ~/closed; echo done")

    local.cloud.stop(server.id)
    local.cloud.start(server.id)
    again = local.settle(server.id, ServerStatus.ACTIVE)
    assert again is not None
    said = await asked(local, again, "cat ~/notes")

    assert said == ["mine"]
    local.cloud.delete(server.id)
    assert not record_of(local, server).parent.exists()


def test_nothing_of_a_stopped_machine_runs(local: LocalUnderTest) -> None:
    server = answering(local, local.spec())
    pid = first_process(local, server)

    local.cloud.stop(server.id)

    assert sandbox.started(pid) is None
    assert server.desktop is not None
    assert not desktop_answers(server.desktop)


def test_machines_outlive_the_process_that_made_them_and_are_found_again(local: LocalUnderTest) -> None:
    spec = local.spec()
    maker = textwrap.dedent(
        f"""
        import os, pathlib, signal, sys
        from uuid import UUID
        from instances.cloud.local import LocalCloud
        from instances.cloud.protocol import ServerSpec
        cloud = LocalCloud(pathlib.Path({str(local.place / "machines")!r}), environment="test", cores=8,
                           memory_mib=16384, gpus=1)
        cloud.create(ServerSpec(instance_id=UUID({str(spec.instance_id)!r}), image="visa-desktop",
                                flavour="visa.small", vcpus=1, memory_mib=1024, disk_gib=4, gpus=0,
                                user_data=sys.stdin.read()))
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )

    done = subprocess.run([sys.executable, "-c", maker], input=spec.user_data, text=True, check=False, timeout=20)

    assert done.returncode == -signal.SIGKILL
    (found,) = local.cloud.find(spec.instance_id)
    assert found.status is ServerStatus.ACTIVE
    assert found.desktop is not None
    assert desktop_answers(found.desktop)


def test_a_machine_whose_maker_died_before_writing_its_process_down_is_found_and_ended(local: LocalUnderTest) -> None:
    server = answering(local, local.spec())
    pid = first_process(local, server)
    record_of(local, server).write_text(json.dumps(written(local, server) | {"sandbox": None}))

    (found,) = local.cloud.find(server.instance_id)
    local.cloud.delete(server.id)

    assert found.status is ServerStatus.ACTIVE
    assert sandbox.started(pid) is None


def test_another_process_of_the_same_number_is_not_taken_for_a_machine(local: LocalUnderTest) -> None:
    server = local.arrived()
    local.cloud.stop(server.id)
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        other = sandbox.Sandbox(pid=bystander.pid, started=1, boot=sandbox.boot())
        fields = written(local, server) | {"wanted": "running", "sandbox": other.__dict__}
        record_of(local, server).write_text(json.dumps(fields))

        (found,) = local.cloud.find(server.instance_id)
        local.cloud.stop(server.id)

        assert found.status is ServerStatus.SHUTOFF
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_machine_that_ended_by_itself_is_off_and_starts_again(local: LocalUnderTest) -> None:
    server = answering(local, local.spec())
    pid = first_process(local, server)

    os.kill(pid, signal.SIGKILL)
    local.settle(server.id, ServerStatus.SHUTOFF)
    local.cloud.start(server.id)

    local.settle(server.id, ServerStatus.ACTIVE)
    assert first_process(local, server) != pid


def test_what_was_begun_and_never_accepted_is_swept_away(local: LocalUnderTest) -> None:
    left = local.place / "machines" / f"{uuid4()}.{'0' * 8}"
    local.arrived()
    left.mkdir()
    (left / "home").mkdir()

    assert len(list(local.cloud.list())) == 1
    local.arrived()

    assert not left.exists()


def test_the_last_core_is_given_once(local: LocalUnderTest) -> None:
    spec = local.spec()
    maker = textwrap.dedent(
        f"""
        import pathlib, sys, uuid
        from instances.cloud.local import LocalCloud
        from instances.cloud.protocol import CloudFull, ServerSpec
        cloud = LocalCloud(pathlib.Path({str(local.place / "machines")!r}), environment="test", cores=1,
                           memory_mib=16384, gpus=1)
        document = sys.stdin.read()
        try:
            cloud.create(ServerSpec(instance_id=uuid.uuid4(), image="visa-desktop", flavour="visa.small", vcpus=1,
                                    memory_mib=1024, disk_gib=4, gpus=0, user_data=document))
        except CloudFull:
            sys.exit(3)
        """
    )
    command = [sys.executable, "-c", maker]
    makers = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(4)]
    for process in makers:
        assert process.stdin is not None
        process.stdin.write(spec.user_data)
        process.stdin.close()

    ended = sorted(process.wait(30) for process in makers)

    assert ended == [0, 3, 3, 3]
    assert len(list(local.cloud.list())) == 1


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"vcpus": 9}, "9 cores asked, 7 of 8 free"),
        ({"memory_mib": 20_000}, "20000 MiB of memory asked, 15360 of 16384 free"),
        ({"gpus": 2}, "2 GPUs asked, 1 of 1 free"),
    ],
)
def test_a_full_host_says_what_is_left(local: LocalUnderTest, asked: dict[str, Any], sentence: str) -> None:
    local.cloud.stop(local.arrived().id)

    with pytest.raises(CloudFull) as refusal:
        local.cloud.create(replace(local.spec(), **asked))

    assert str(refusal.value) == sentence


def test_machines_of_another_installation_use_the_same_cores(local: LocalUnderTest) -> None:
    local.arrived()
    stranger = LocalCloud(local.place / "machines", environment="other", cores=1, memory_mib=16_384, gpus=1)

    with pytest.raises(CloudFull):
        stranger.create(local.spec())


def test_a_change_that_cannot_have_the_lock_is_silence_and_a_look_needs_none(local: LocalUnderTest) -> None:
    server = local.arrived()
    with (local.place / "machines" / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(CloudUnreachable, match="lock"):
            local.cloud.stop(server.id)

        assert [seen.status for seen in local.cloud.list()] == [ServerStatus.ACTIVE]


def test_a_damaged_record_is_silence_and_not_absence(local: LocalUnderTest) -> None:
    server = local.arrived()
    whole = record_of(local, server).read_text()
    record_of(local, server).write_text(whole[: len(whole) // 2])

    with pytest.raises(CloudUnreachable):
        local.cloud.find(server.instance_id)

    record_of(local, server).write_text(whole)


def test_a_sandbox_that_cannot_start_is_the_machines_fault_and_told_with_it(local: LocalUnderTest, data: Path) -> None:
    spec = local.spec()
    server = answering(local, replace(spec, user_data=document(spec.instance_id, (data, "/data/sample"))))
    local.cloud.stop(server.id)
    data.rename(data.with_name("moved"))

    local.cloud.start(server.id)

    (broken,) = local.cloud.find(server.instance_id)
    assert broken.status is ServerStatus.ERROR
    assert "did not start" in broken.fault


def test_a_port_is_never_promised_twice(local: LocalUnderTest) -> None:
    first, second = local.arrived(), local.arrived()
    local.cloud.stop(first.id)
    assert first.desktop is not None
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((first.desktop.host, first.desktop.port))
        taken.listen()

        local.cloud.start(first.id)

    again = local.settle(first.id, ServerStatus.ACTIVE)
    assert again is not None
    assert again.desktop not in {None, first.desktop, second.desktop}


REFUSED_FILES = ["/usr/bin/ls", "/etc/../usr/x", "/etc", "/etc/fonts/fonts.conf", "/etc/ssl", "/home/visa/x", "etc/x"]


def sockets_of(process: Path) -> set[str]:
    """The inodes of the sockets a process holds; one that has ended since it was listed holds none."""
    held = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for one in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                held.append(str(one.readlink()))
    return {name.removeprefix("socket:[").rstrip("]") for name in held if name.startswith("socket:[")}


def test_no_process_of_a_machine_holds_a_socket_of_the_hosts_network(local: LocalUnderTest) -> None:
    server = answering(local, local.spec())
    assert server.desktop is not None
    lists = [Path("/proc/net", kind).read_text(encoding="ascii") for kind in ("tcp", "tcp6", "udp", "udp6")]
    table = [line.split() for one in lists for line in one.splitlines()]
    on_the_host = {line[9] for line in table if line[0] != "sl"}
    (entrance,) = {line[9] for line in table if line[1].endswith(f":{server.desktop.port:04X}") and line[3] == "0A"}
    inside = Path(f"/proc/{first_process(local, server)}/ns/pid").readlink()
    processes = [one for one in Path("/proc").glob("[0-9]*") if in_namespace(one, inside)]

    held = {socket_ for process in processes for socket_ in sockets_of(process)}

    assert held
    assert entrance in on_the_host
    assert not held & on_the_host


@pytest.mark.parametrize("path", REFUSED_FILES)
def test_a_document_cannot_write_elsewhere(path: str) -> None:
    text = document(uuid4()).replace("/etc/visa/name", path)

    with pytest.raises(CloudRefused):
        read_document(text)


@pytest.mark.parametrize(
    "entry",
    [
        ["/var", "/usr/share", "none", "bind,ro", "0", "0"],
        ["/var", "/data/../etc", "none", "bind,ro", "0", "0"],
        ["/nonexistent", "/data/x", "none", "bind,ro", "0", "0"],
        ["tmp", "/data/x", "none", "bind,ro", "0", "0"],
        ["server:/export", "/data/x", "nfs", "ro", "0", "0"],
        ["/var", "/data/x"],
        "mount",
    ],
)
def test_a_document_cannot_mount_what_this_cloud_cannot_give(entry: object) -> None:
    text = document(uuid4()) + f"mounts:\n- {json.dumps(entry)}\n"

    with pytest.raises(CloudRefused):
        read_document(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hostname: visa\n",
        "#cloud-config\n- a list\n",
        "#cloud-config\nhostname: visa\n",
        "#cloud-config\nwrite_files: [{content: x}]\n",
        "#cloud-config\n{unfinished\n",
        "#cloud-config\nhostname: 'no name; reboot'\n",
    ],
)
def test_what_is_no_document_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(CloudRefused) as refusal:
        read_document(text)

    assert "unfinished" not in str(refusal.value)
    assert "reboot" not in str(refusal.value)


@pytest.mark.parametrize("password", ["secret12", "a", "eight-and-more", "!~!~!~!~"])
def test_passwords_are_kept_as_tigervnc_keeps_them(password: str) -> None:
    kept = subprocess.run(["tigervncpasswd", "-f"], input=f"{password}\n".encode(), capture_output=True, check=False)

    assert scrambled(password) == kept.stdout[:8] or len(password) < 6  # that program takes no shorter ones


def test_removing_a_home_changes_nothing_its_links_point_to() -> None:
    with tempfile.TemporaryDirectory() as place:
        shared, trap = Path(place) / "shared", Path(place) / "server" / "home" / "trap"
        shared.mkdir(mode=0o755)
        trap.mkdir(parents=True)
        (trap / "link").symlink_to(shared)
        trap.chmod(0o500)
        if os.geteuid() == 0:
            # Root is refused nothing; an ordinary user's platform is what this is about.
            for one in (Path(place), *Path(place).rglob("*")):
                os.chown(one, 65534, 65534, follow_symlinks=False)
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                _remove(Path(place) / "server")
            finally:
                os._exit(0)
        os.waitpid(child, 0)

        assert not (Path(place) / "server").exists()
        assert stat.S_IMODE(shared.stat().st_mode) == 0o755


def said_by(server: Server) -> list[tuple[str, bool, str]]:
    return [(one["step"], one["ok"], one["subject"]) for one in door_of(secret()).said.get(str(server.instance_id), [])]


def until_said(server: Server, number: int) -> list[tuple[str, bool, str]]:
    """All a machine said, once it has said so many things."""
    deadline = time.monotonic() + 30
    while len(said_by(server)) < number:
        assert time.monotonic() < deadline, said_by(server)
        time.sleep(0.05)
    return said_by(server)


def test_a_machine_fetches_its_secrets_once_and_says_how_it_is(local: LocalUnderTest, data: Path) -> None:
    spec = local.spec()

    server = answering(local, replace(spec, user_data=document(spec.instance_id, (data, "/data/sample"))))

    url = door_of(secret()).url
    assert until_said(server, 4) == [
        ("booted", True, ""),
        ("network", True, url),
        ("mounts", True, "/data/sample"),
        ("desktop", True, ""),
    ]
    assert len(door_of(secret()).claims[str(server.instance_id)]) == 1
    told = [report.step for report in from_console(local.cloud.console(server.id))]
    assert told == ["booted", "network", "mounts", "desktop"]


def test_a_machine_that_boots_again_asks_for_nothing_and_says_how_it_is_again(local: LocalUnderTest) -> None:
    server = answering(local, local.spec())
    first = until_said(server, 3)

    local.cloud.reboot(server.id)

    assert until_said(server, 6) == first * 2
    assert len(door_of(secret()).claims[str(server.instance_id)]) == 1


def test_a_machine_whose_platform_is_away_waits_and_says_so_on_its_console(local: LocalUnderTest) -> None:
    door = open_door(secret())
    spec = local.spec()
    text = document(spec.instance_id).replace(door_of(secret()).url, door.url)
    door.answering = 503

    server = local.arrived(replace(spec, user_data=text))
    deadline = time.monotonic() + 20
    while not (told := from_console(local.cloud.console(server.id))) or told[-1].ok:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert (told[-1].step, told[-1].subject) == ("network", door.url)
    assert server.desktop is not None
    assert not desktop_answers(server.desktop)
    door.answering = 200
    answering(local, spec, server=server)


def test_a_machine_whose_answer_was_lost_asks_again_with_the_same_word(local: LocalUnderTest) -> None:
    door = open_door(secret())
    spec = local.spec()
    text = document(spec.instance_id).replace(door_of(secret()).url, door.url)
    door.losing = True

    server = local.arrived(replace(spec, user_data=text))
    deadline = time.monotonic() + 20
    while not door.claims.get(str(spec.instance_id)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    door.losing = False

    answering(local, spec, server=server)
    words = door.claims[str(spec.instance_id)]
    assert len(words) >= 2
    assert len(set(words)) == 1


def test_neither_the_token_nor_the_word_is_seen_inside(local: LocalUnderTest) -> None:
    server = answering(local, local.spec())

    inside = Path(f"/proc/{first_process(local, server)}/root")

    assert not (inside / "etc" / "visa" / "guest.json").exists()
    found = subprocess.run(["grep", "-rl", TOKEN, str(inside / "etc"), str(inside / "opt")], capture_output=True)
    assert found.stdout == b""


def test_the_attendant_of_a_machine_ends_when_all_is_said_and_with_its_machine(local: LocalUnderTest) -> None:
    server = answering(local, local.spec())
    until_said(server, 3)
    until_ended(server)

    door = open_door(secret())
    spec = local.spec()
    door.answering = 503
    text = document(spec.instance_id).replace(door_of(secret()).url, door.url)
    waiting = local.arrived(replace(spec, user_data=text))
    assert attendants(waiting)
    local.cloud.delete(waiting.id)
    until_ended(waiting)


def attendants(server: Server) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"attendant .*{server.id}"], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def until_ended(server: Server) -> None:
    deadline = time.monotonic() + 20
    while attendants(server):
        assert time.monotonic() < deadline, attendants(server)
        time.sleep(0.05)
