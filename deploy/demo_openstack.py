"""Which OpenStack a demo's machines run on: the one OS_CLOUD names, else our own of deploy/openstack, brought up."""

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from deploy import software
from deploy.processes import ROOT, Missing

Step = Callable[[str], AbstractContextManager[None]]

#: what a cloud of somebody else's must be described with, besides its name
NEEDED = ("VISA_CLOUD_NETWORK", "VISA_DESKTOP_RANGES", "VISA_DATA_SOURCE", "VISA_GUEST_URL")
OPTIONAL = ("VISA_DATA_FSTYPE", "VISA_SOFTWARE_SOURCE", "VISA_SOFTWARE_FSTYPE", "VISA_SOFTWARE_TARGET")


def variables(directory: Path, step: Step) -> dict[str, str]:
    """What the platform is told of its cloud. Raises `Missing` where that cannot be known.

    Our own cloud exports `directory`/data and `directory`/software, read-only, to its guests.
    """
    named = os.environ.get("OS_CLOUD")
    if named:
        absent = [name for name in NEEDED if not os.environ.get(name)]
        if absent:
            raise Missing(f"OS_CLOUD names {named}; set {', '.join(absent)} as well (deploy/env.sample explains them).")
        known = {name: os.environ[name] for name in (*NEEDED, *OPTIONAL) if os.environ.get(name)}
        return known | {"VISA_CLOUD_KIND": "openstack", "VISA_CLOUD_NAME": named}
    if os.geteuid() != 0:
        raise Missing(
            "An OpenStack of our own is brought up by root only: run this as root, or name a cloud in OS_CLOUD."
        )
    exports = {name: directory / name for name in ("data", "software")}
    exports["data"].mkdir(parents=True, exist_ok=True)
    # Made before it is exported: it is replaced as a whole, and guests would find the old one.
    software.build(exports["software"])
    state = up(["--data", str(exports["data"]), "--software", str(exports["software"])], step)
    lines = (state / "visa.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def up(options: list[str], step: Step, *, state: Path | None = None) -> Path:
    """Bring deploy/openstack up; returns its state directory. Minutes the first time, seconds when it runs."""
    place = state or Path(os.environ.get("VISA_OPENSTACK_STATE", "/var/lib/visa-openstack"))
    log = ROOT / ".visa" / "log" / "openstack.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"VISA_OPENSTACK_STATE": str(place)}
    with step("OpenStack"), log.open("wb") as written:
        command = [str(ROOT / "deploy" / "openstack" / "up"), *options]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise Missing(f"OpenStack did not come up: {' '.join(last)} (all of it: {log.relative_to(ROOT)})")
    return place
