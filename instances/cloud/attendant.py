"""Outside of one sandbox of the embedded cloud: does for it what `machine/visa_guest.py` does in a machine. A program:

    python -m instances.cloud.attendant FOLDER

A sandbox has no network, so its attendant fetches its secrets over loopback, by the same door as any machine, and puts
them where the sandbox waits for them. Then it looks into the sandbox, says what it found, and ends; before that it ends
with its sandbox. Nobody has to look after it: whatever it needs stands in the machine's folder.
"""

import json
import sys
import time
from pathlib import Path

from instances.cloud import sandbox
from instances.cloud.local import give, record_of, scrambled, write_file
from instances.cloud.machine import visa_guest
from instances.cloud.machine.visa_guest import Guest, Place, Report

#: seconds a desktop here may take until it greets
STARTING = 30.0


def attend(folder: Path) -> None:
    """Attends to the machine in this folder until all is well and said, or its sandbox has ended."""
    record = record_of(folder)
    running = record.sandbox or sandbox.sandbox_of(folder, record.id)
    if running is None or not (folder / "guest.json").exists():
        return  # it has ended, or was made when its secrets still came with it
    process = Path(f"/proc/{running.pid}")
    guest = Guest(
        json.loads((folder / "guest.json").read_text(encoding="utf-8")),
        Place(
            etc=folder,
            state=folder / "state",
            console=folder / "console.log",
            root=process / "root",
            mountinfo=process / "mountinfo",
            desktop=("127.0.0.1", record.port),
            mounts=False,
        ),
    )

    def waits(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while sandbox.alive(running):
            if time.monotonic() > end:
                return True
            time.sleep(0.1)
        return False

    def keep(handed: dict[str, str]) -> None:
        files = {
            "vnc.key": handed["vnc_key"].encode(),
            "vnc.crt": handed["vnc_certificate"].encode(),
            # Last: the desktop waits for it.
            "vnc-secret": scrambled(handed["vnc_password"]),
        }
        for name, data in files.items():
            path = folder / "etc" / "visa" / name
            write_file(path, data, 0o400)
            give(path, record.uid)

    guest.say(Report("booted", True))
    if not guest.enrolled() and not guest.enrol(keep, waits):
        return
    guest.say(Report("network", True, guest.platform.name))
    while sandbox.alive(running):
        said = [*guest.look(), guest.desktop(STARTING)]
        for report in said:
            guest.say(report)
        if guest.resend() and all(report.ok for report in said):
            return
        waits(visa_guest.LATEST)


if __name__ == "__main__":
    attend(Path(sys.argv[1]))
