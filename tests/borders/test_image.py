"""The machines' image, booted by QEMU alone on one CPU and 1 GiB: what user-data asks for is there, or it is said why.

The door is a stand-in here (tests/door.py); with the whole platform and a real cloud it is in test_guest_openstack.py.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from deploy.processes import free_port
from instances import credentials
from instances.cloud.greeting import desktop_answers
from instances.cloud.protocol import Desktop
from instances.reports import Report, Step, from_console
from instances.userdata import Enrolment, Holds, Machine, MountPoint, render
from tests.door import TOKEN, Door, open_door
from tests.real_cloud import state

pytestmark = [pytest.mark.openstack, pytest.mark.guests]

#: how the guest sees the host's loopback (QEMU's user network)
HOST = "10.0.2.2"
#: a boot takes a minute where nothing else runs
PATIENCE = 600.0


@dataclass(frozen=True)
class Guest:
    """A booted image: its console, its desktop, and what it said."""

    console: Path
    desktop: Desktop
    machine: str
    door: Door

    def said(self) -> dict[tuple[str, str], Report]:
        reports = from_console(self.console.read_text(errors="replace"))
        return {(one.step, one.subject): one for one in reports}

    def heard(self) -> dict[tuple[str, str], tuple[bool, str]]:
        told = self.door.said.get(self.machine, [])
        return {(one["step"], one["subject"]): (one["ok"], one["text"]) for one in told}


def image() -> Path:
    path = state() / "images" / "visa-desktop.qcow2"
    if not path.exists():
        pytest.fail(f"there is no image at {path}: run deploy/openstack/up, which builds it")
    return path


@contextmanager
def booted(place: Path, door: Door, disk: Path, machine: Machine) -> Iterator[Guest]:
    """A guest with this user-data on a config drive, and its network behind QEMU's."""
    drive = place / "drive" / "openstack" / "latest"
    drive.mkdir(parents=True, exist_ok=True)
    (drive / "user_data").write_text(render(machine))
    (drive / "meta_data.json").write_text(f'{{"uuid": "{machine.instance_id}", "hostname": "{machine.hostname}"}}')
    iso, console, port = place / "drive.iso", place / "console.log", free_port()
    subprocess.run(
        ["genisoimage", "-quiet", "-V", "config-2", "-J", "-r", "-o", str(iso), str(place / "drive")], check=True
    )
    accelerated = Path("/dev/kvm").exists() and any(
        flag in Path("/proc/cpuinfo").read_text() for flag in (" vmx", " svm")
    )
    command = ["qemu-system-x86_64", "-machine", f"pc,accel={'kvm' if accelerated else 'tcg'}", "-m", "1024"]
    command += ["-smp", "1", "-display", "none", "-serial", f"file:{console}", "-monitor", "none", "-no-reboot"]
    command += ["-drive", f"file={disk},if=virtio,format=qcow2", "-drive", f"file={iso},media=cdrom,readonly=on"]
    command += ["-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:5901", "-device", "virtio-net-pci,netdev=net"]
    console.touch()
    with (place / "qemu.log").open("wb") as log:
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield Guest(console, Desktop(host="127.0.0.1", port=port), str(machine.instance_id), door)
    finally:
        running.terminate()
        running.wait(30)


def overlay(place: Path) -> Path:
    """A disk of its own on top of the image."""
    disk = place / "disk.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image()), str(disk), "4G"]
    subprocess.run(command, check=True)
    return disk


def machine_of(door: Door, *mounts: MountPoint, instance_id: UUID | None = None) -> Machine:
    return Machine(
        instance_id=instance_id or uuid4(),
        hostname="visa-image",
        name="A machine of the tests",
        enrolment=Enrolment(url=door.url.replace("127.0.0.1", HOST), token=TOKEN),
        mounts=mounts,
    )


@pytest.fixture
def door() -> Door:
    return open_door(credentials.generate("visa-image"))


def wait(guest: Guest, condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        told = guest.console.read_text(errors="replace")[-3000:]
        assert time.monotonic() < end, f"after {PATIENCE:g} s still not: {what}; the console ends with\n{told}"
        time.sleep(0.5)


def test_the_image_boots_says_what_is_missing_before_its_desktop_and_boots_again_without_asking(
    tmp_path: Path, door: Door
) -> None:
    # Nobody serves NFS on the host's loopback: the data cannot be there, and the desktop comes all the same.
    lost = MountPoint(source=f"{HOST}:/data/lost", target="/data/lost", fstype="nfs4")
    tree = MountPoint(source=f"{HOST}:/software", target="/cvmfs/software.demo", fstype="nfs4", holds=Holds.SOFTWARE)
    machine, disk = machine_of(door, lost, tree), overlay(tmp_path)

    with booted(tmp_path, door, disk, machine) as guest:
        wait(guest, lambda: ("desktop", "") in guest.heard(), "the desktop was reported")

        heard = guest.heard()
        assert heard["booted", ""][0]
        assert heard["network", machine.enrolment.url][0]
        assert heard["mounts", "/data/lost"] == (False, "the server did not answer")
        assert heard["software", "/cvmfs/software.demo"] == (False, "the server did not answer")
        assert heard["desktop", ""] == (True, "")
        assert list(heard)[-1] == ("desktop", "")
        assert desktop_answers(guest.desktop)
        assert {(one.step, one.ok) for one in guest.said().values()} >= {(Step.MOUNTS, False), (Step.DESKTOP, True)}
        console = guest.console.read_text(errors="replace")
        assert "Invalid cloud-config" not in console
        for secret in (TOKEN, door.secret.password, door.secret.key.splitlines()[1]):
            assert secret not in console
        asked = list(door.claims[guest.machine])
    assert len(set(asked)) == 1

    door.said.clear()
    with booted(tmp_path, door, disk, machine) as guest:
        wait(guest, lambda: ("desktop", "") in guest.heard(), "the desktop was reported after another boot")
        assert desktop_answers(guest.desktop)
    assert door.claims[guest.machine] == asked


def test_a_machine_that_cannot_reach_the_platform_says_so_on_its_console_until_it_can(
    tmp_path: Path, door: Door
) -> None:
    machine = machine_of(door)
    # Nobody listens there.
    lost = replace(machine, enrolment=replace(machine.enrolment, url=f"http://{HOST}:{free_port()}"))

    with booted(tmp_path, door, overlay(tmp_path), lost) as guest:
        wait(guest, lambda: ("network", lost.enrolment.url) in guest.said(), "the console tells of the network")

        said = guest.said()["network", lost.enrolment.url]
        assert not said.ok
        assert said.text.startswith("it does not answer")
        assert not desktop_answers(guest.desktop)


def test_what_boots_this_is_here() -> None:
    for program in ("qemu-system-x86_64", "qemu-img", "genisoimage"):
        assert shutil.which(program), f"{program} is not installed; deploy/openstack/up brings it"
