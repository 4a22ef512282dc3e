"""The demo's ground: what it says when something is in the way, what each process is told, what outlives whom."""

import contextlib
import json
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import processes
from deploy.demo_check import Forms
from deploy.demo_platform import DemoPlatform
from deploy.processes import ROOT, NotReady
from visa import environment


def gone(pid: int, *, seconds: float = 10) -> bool:
    """Whether a process ends in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_port_in_use_is_told_in_one_sentence_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(NotReady) as refusal:
            DemoPlatform(tmp_path / "demo", port=port).up()

    assert str(refusal.value).startswith(f"Port {port} is in use; choose another with --port")
    assert not (tmp_path / "demo").exists()


def test_two_demos_do_not_share_one_directory(tmp_path: Path) -> None:
    first, second = (DemoPlatform(tmp_path, port=processes.free_port()) for _ in range(2))
    first.hold()

    with pytest.raises(NotReady, match="is running in"):
        second.hold()

    first.down()
    second.hold()
    second.down()


@pytest.mark.parametrize("words", ["80", "65536", "high"])
def test_wrong_words_end_with_a_sentence(words: str) -> None:
    command = [sys.executable, "-m", "deploy.demo_run", "--port", words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("a port is a number from 1024 to 65535")


@pytest.mark.parametrize(("words", "code"), [("--help", 0), ("--prot", 2)])
@pytest.mark.parametrize("program", ["demo", "test"])
def test_words_are_read_before_anything_is_set_up(tmp_path: Path, program: str, words: str, code: int) -> None:
    leave = shutil.ignore_patterns("node_modules", "__pycache__")
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=leave)
    done = subprocess.run([tmp_path / "deploy" / program, words], capture_output=True, text=True, check=False)

    assert (done.returncode, f"usage: deploy/{program}" in done.stdout + done.stderr) == (code, True)
    assert not (tmp_path / ".visa").exists()


def test_a_process_that_ends_at_once_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = processes.start("The example", ["sh", "-c", "echo the reason >&2; exit 3"], log=tmp_path / "log")

    with pytest.raises(NotReady) as refusal:
        processes.wait_until(lambda: False, process)

    assert str(refusal.value).startswith("The example ended with 3")
    assert str(refusal.value).endswith("the reason")


def test_servers_end_with_the_process_that_started_them_even_when_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from deploy.processes import start_redis;"
        "place = Path(sys.argv[1]); print(start_redis(place / 'redis', log=place / 'log').pid, flush=True);"
        "time.sleep(600)"
    )
    tmp_path.chmod(0o711)
    command = [sys.executable, "-c", program, str(tmp_path)]
    starter = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    redis = int(starter.stdout.readline())

    starter.kill()
    starter.wait()

    assert gone(redis)
    starter.stdout.close()


def test_a_directory_whose_name_is_too_long_for_a_socket_does_not_matter(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    for place in (tmp_path, *tmp_path.rglob("*")):
        place.chmod(0o711)

    with processes.start_redis(deep / "redis", log=tmp_path / "log") as redis:
        address = redis.facts["url"].removeprefix("unix://")

        assert len(address) < 108
        assert Path(address).is_socket()


def test_each_process_is_told_what_it_needs_and_no_more(platform: DemoPlatform) -> None:
    told = {process: platform.variables(process) for process in environment.Process}
    read = {process: environment.read(variables) for process, variables in told.items()}

    assert read[environment.Process.WEB].cloud is None
    assert not [name for name in told[environment.Process.WEB] if name.startswith(("VISA_CLOUD_", "OS_"))]
    for process in (environment.Process.WORKER, environment.Process.RECONCILER):
        assert not read[process].signing_key
        assert not read[process].providers
        assert platform.keys.client_secret not in told[process].values()


def test_secrets_stand_in_files_of_their_owner_alone(platform: DemoPlatform) -> None:
    for name in ("keys.json", "identity/config.json"):
        assert stat.S_IMODE((platform.directory / name).stat().st_mode) == 0o600

    assert json.loads((platform.directory / "keys.json").read_text())["signing_key"] not in " ".join(
        path.read_text(errors="replace") for path in (platform.directory / "log").iterdir()
    )


def test_nothing_listens_but_the_site_and_its_provider(platform: DemoPlatform) -> None:
    """PostgreSQL, Redis and the workers are reached by files alone."""
    ours = {process.pid for process in platform.running.values()}
    inodes = set()
    for entry in (entry for pid in ours for entry in Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed, which no listener is
            inodes.add(str(entry.readlink()))
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listening.add(fields[1])

    loopback = "0100007F"
    assert listening == {f"{loopback}:{port:04X}" for port in (platform.port, platform.keys.identity_port)}


def test_forms_of_a_page_are_read_as_a_browser_would_send_them() -> None:
    page = """<form action="/search"><input name="q" value=""></form>
      <form method="POST" action="/launch/x"><input type="hidden" name="key" value="k">
      <input type="radio" name="flavour" value="small"><input type="radio" name="flavour" value="gpu" checked>
      <select name="image"><option value="a">A<option value="b" selected>B</select>
      <button name="go" value="1">Launch</button></form>"""

    search, launch = Forms(page).found

    assert (search.method, launch.method) == ("get", "post")
    assert launch.fields == {"key": "k", "flavour": "gpu", "image": "b"}
    assert launch.buttons == [("go", "1")]
