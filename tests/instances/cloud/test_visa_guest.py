"""The program in a machine: what it makes of what mount and a CernVM-FS client say, and of a platform that refuses."""

import json
import socket
import stat
from pathlib import Path

import pytest

from instances import credentials
from instances.cloud.machine.visa_guest import (
    Guest,
    Place,
    Platform,
    Report,
    Unreached,
    cvmfs_words,
    keep_in,
    mount_words,
    run,
)
from tests.door import TOKEN, Door, open_door

ID = "1f0e6a3c-6f0b-4d4e-9a53-0c7f3f1d2b3a"


@pytest.fixture
def door() -> Door:
    return open_door(credentials.generate("visa-guest"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A machine of directories, where nothing listens and one thing is mounted."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "mountinfo").write_text("36 35 98:0 / /data/with\\040blank ro - nfs4 host:/data ro\n")
    (tmp_path / "root" / "data" / "with blank").mkdir(parents=True)
    return Place(
        etc=tmp_path / "etc",
        state=tmp_path / "state",
        console=tmp_path / "console",
        root=tmp_path / "root",
        mountinfo=tmp_path / "mountinfo",
        desktop=("127.0.0.1", 9),
        mounts=False,
    )


def guest_of(door: Door, place: Place, **told: object) -> Guest:
    return Guest({"url": f"{door.url}/api/v1/guest/{ID}/", "token": TOKEN, **told}, place)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("mount.nfs4: access denied by server while mounting nfs:/data/a", "the server denies access"),
        (
            "mount.nfs4: mounting nfs:/data/a failed, reason given by server: No such file or directory",
            "the server has no such directory",
        ),
        ("mount.nfs4: Failed to resolve server nfs: Name or service not known", "the server's name is not known"),
        ("mount.nfs4: Connection refused", "the server did not answer"),
        ("mount.nfs4: Connection timed out", "the server did not answer"),
        ("mount.nfs4: No route to host", "the server did not answer"),
        ("mount: /mnt: unknown filesystem type 'lustre'.", "this image has no program to mount it"),
        ("mount.nfs4: Protocol error\n", "it was not mounted: mount.nfs4: Protocol error"),
        ("", "it was not mounted"),
    ],
)
def test_what_mount_says_is_said_in_words(said: str, words: str) -> None:
    assert mount_words(said) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("(s.test) failed to download repository manifest (7 - host connection problem)", "its server does not answer"),
        ("(s.test) failed to download (4 - failed to resolve host address)", "its server does not answer"),
        ("(s.test) failed to download (6 - proxy connection problem)", "its proxy does not answer"),
        ("(s.test) failed to download (8 - proxy returned HTTP error)", "its proxy does not answer"),
        ("whitelist verification failed (6): invalid whitelist signature", "its signature is not accepted"),
        ("whitelist verification failed (5): expired whitelist", "its signature is not accepted"),
        ("failed to open public key '/etc/cvmfs/keys/s.pub'", "its signature is not accepted"),
    ],
)
def test_what_the_journal_of_a_cvmfs_client_says_is_said_in_words(line: str, words: str) -> None:
    assert cvmfs_words(["(s.test) something before", line], "ls: cannot access").startswith(f"{words}: ")


def test_a_client_that_says_nothing_is_quoted_by_what_was_tried() -> None:
    assert cvmfs_words([], "ls: cannot access '/cvmfs/s'").startswith("it was not mounted: ls")


def test_secrets_are_kept_for_root_alone_and_fetched_with_one_word(door: Door, place: Place) -> None:
    assert guest_of(door, place).enrol(keep_in(place.etc), lambda _: False)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (*place.etc.iterdir(), *place.state.iterdir())}
    assert modes == {"vnc.key": 0o600, "vnc.crt": 0o644, "vnc-password": 0o600, "claim": 0o600, "report-token": 0o600}
    assert (place.etc / "vnc-password").read_text() == f"{door.secret.password}\n"
    assert door.claims[ID] == [(place.state / "claim").read_text()]


def test_a_platform_that_refuses_is_asked_again_slowly_and_the_console_says_so(door: Door, place: Place) -> None:
    guest = Guest({"url": f"{door.url}/api/v1/guest/{ID}/", "token": "a-token-of-somebody-else"}, place)
    pauses: list[float] = []

    def waits(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) < 3

    assert not guest.enrol(keep_in(place.etc), waits)
    assert min(pauses) >= 15
    assert not list(place.etc.iterdir())
    assert "it refuses this machine: This token is not valid here." in place.console.read_text()


def test_a_report_is_printed_once_and_sent_when_the_platform_hears_again(door: Door, place: Place) -> None:
    guest = guest_of(door, place)
    assert guest.enrol(keep_in(place.etc), lambda _: False)
    door.answering = 503

    for _ in range(3):
        guest.say(Report("mounts", False, "/data/a", "the server did not answer"))
    assert ID not in door.said
    door.answering = 200
    assert guest.resend()

    lines = [line for line in place.console.read_text().splitlines() if '"mounts"' in line]
    assert len(lines) == 1
    told = json.loads(lines[0].removeprefix("visa-report: "))
    assert (told["ok"], told["subject"], told["text"]) == (False, "/data/a", "the server did not answer")
    assert [one["subject"] for one in door.said[ID]] == ["/data/a"]


def test_what_is_there_and_what_is_not_is_told_apart(door: Door, place: Place) -> None:
    there, modules = place.root / "data" / "with blank", place.root / "data" / "with blank" / "modulefiles"
    told = {"data": ["/data/with blank", "/data/lost"], "software": ["/data/with blank"], "cvmfs": ["s.demo.test"]}
    guest = guest_of(door, place, **told)

    assert list(guest.look()) == [
        Report("mounts", True, "/data/with blank"),
        Report("mounts", False, "/data/lost", "nothing is mounted there"),
        Report("software", False, "/data/with blank", "there are no modules in it"),
        Report("software", False, "/cvmfs/s.demo.test", "this image has no CernVM-FS client"),
    ]

    modules.mkdir()
    (modules / "one").touch()
    assert Report("software", True, "/data/with blank") in list(guest.look())

    there.rename(there.with_name("elsewhere"))
    assert next(iter(guest.look())).text.startswith("it is mounted, but cannot be read: ")


def test_a_look_that_hangs_is_given_up() -> None:
    assert run(["sleep", "60"], 0.2) == (None, "")


def test_a_platform_that_is_not_there_or_not_trusted_is_said_in_words(door: Door) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(Unreached, match="it does not answer: Connection refused"):
        Platform(f"http://127.0.0.1:{port}/x/").post("secrets/", "t", {})
    with pytest.raises(Unreached, match="its name is not known"):
        Platform("http://nowhere.invalid/x/").post("secrets/", "t", {})
    with pytest.raises(Unreached, match="it does not answer"):
        Platform(door.url.replace("http:", "https:") + "/x/").post("secrets/", "t", {})
