#!/usr/bin/python3
"""In a machine: fetches its secrets from the platform, once; looks whether all is there; says what it found.

    visa_guest.py          run by the image's service `visa-guest`, as root, for as long as the machine runs

Needs Python 3.9 and its standard library. /etc/visa/guest.json, from the user-data, says whom to ask and what to
look at:

    {"url": "https://PLATFORM/api/v1/guest/ID/", "token": "ONCE",
     "data": ["/data/…"], "software": ["/cvmfs/…"], "cvmfs": ["software.facility.eu"]}

/etc/visa/platform-ca.pem, where there is one, is the authority to know the platform by, beside the image's own. The
secrets are kept in /etc/visa, for root alone, so that a reboot asks for nothing; the random word of this machine and
its token to report with in /var/lib/visa. Each report is sent to the platform, and printed on the serial console as one
line after "visa-report: ", which is all there is while the platform cannot be reached. What is the matter is said in
the words of `instances/reports.py`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: seconds between two looks, and between two attempts to reach the platform: the first, and the longest
LOOK, SOON, LATEST = 60.0, 1.0, 30.0
#: seconds one answer of the platform may take, and one look at a directory
PATIENCE, GLANCE = 20.0, 20.0
#: seconds a mount may take, a desktop to greet, and all looks before the desktop is started without them
MOUNTING, STARTING = 30.0, 120.0
MARK = "visa-report: "

#: what mount says, and our words for it; the first that fits
MOUNT_WORDS = (
    ("access denied|permission denied|not permitted", "the server denies access"),
    ("no such file|no such directory", "the server has no such directory"),
    ("resolve|name or service|temporary failure in name", "the server's name is not known"),
    ("unknown filesystem|bad option; for several|helper program", "this image has no program to mount it"),
    ("timed out|no route|refused|unreachable|not responding|is down", "the server did not answer"),
)
#: the same of a CernVM-FS client, in the journal; figures as its own source numbers its failures
CVMFS_WORDS = (
    (r"\(6 - |\(8 - |proxy connection problem|proxy returned", "its proxy does not answer"),
    ("signature|whitelist|public key", "its signature is not accepted"),
    (r"\(7 - |\(4 - |\(9 - |host connection|failed to resolve|host returned", "its server does not answer"),
)


class Report(NamedTuple):
    """How one step went; `subject` is what it is about, `text` what is the matter."""

    step: str
    ok: bool
    subject: str = ""
    text: str = ""


class Unreached(Exception):
    """The platform gave no answer; the sentence says why, in words."""


class Place(NamedTuple):
    """Where things are. The defaults are a machine's own; the embedded cloud looks into its sandboxes from outside."""

    etc: Path = Path("/etc/visa")
    state: Path = Path("/var/lib/visa")
    console: Path = Path("/dev/console")
    root: Path = Path("/")
    mountinfo: Path = Path("/proc/self/mountinfo")
    desktop: tuple[str, int] = ("127.0.0.1", 5901)
    #: whether what is not mounted may be tried again from here
    mounts: bool = True


class Platform:
    """The platform, as a machine sees it: two addresses that take JSON."""

    def __init__(self, url: str, authority: Path | None = None) -> None:
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path
        self._host, self._port, self._plain = parts.hostname or "", parts.port, parts.scheme == "http"
        self._authority = authority

    def post(self, address: str, token: str, body: object) -> tuple[int, dict[str, Any]]:
        """Status and answer. Raises Unreached. Follows no redirection: the token is for this address alone."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            connection = self._connection()
            try:
                connection.request("POST", self._path + address, json.dumps(body).encode(), headers)
                answer = connection.getresponse()
                text = answer.read(100_000)
            finally:
                connection.close()
        except ssl.SSLCertVerificationError as error:
            raise Unreached(f"its certificate is not trusted: {error.verify_message}") from error
        except socket.gaierror as error:
            raise Unreached("its name is not known") from error
        except (OSError, http.client.HTTPException) as error:
            no_route = isinstance(error, OSError) and error.errno in {101, 113}  # ENETUNREACH, EHOSTUNREACH
            detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreached("there is no route to it" if no_route else f"it does not answer: {detail}") from error
        try:
            value = json.loads(text or b"{}")
        except ValueError:
            value = {}
        return answer.status, value if isinstance(value, dict) else {}

    def _connection(self) -> http.client.HTTPConnection:
        if self._plain:
            return http.client.HTTPConnection(self._host, self._port, timeout=PATIENCE)
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._authority is not None and self._authority.exists():
            context.load_verify_locations(str(self._authority))
        return http.client.HTTPSConnection(self._host, self._port, timeout=PATIENCE, context=context)


class Guest:
    """One machine: what it was told, what it has said, and what of that the platform has heard."""

    def __init__(self, told: dict[str, Any], place: Place) -> None:
        self.told = told
        self.place = place
        self.platform = Platform(str(told["url"]), place.etc / "platform-ca.pem")
        self._said: dict[tuple[str, str], Report] = {}
        self._unheard: dict[tuple[str, str], Report] = {}

    # Fetching.

    def enrolled(self) -> bool:
        """Whether the secrets are here already."""
        return (self.place.state / "report-token").exists()

    def enrol(self, keep: Callable[[dict[str, str]], None], waits: Callable[[float], bool]) -> bool:
        """Fetches the secrets and hands them to `keep`. Asks until the platform answers; False where `waits` says stop.

        The word is written down before it is first said: whatever happens to the answer, this machine can ask again.
        """
        claim = self.place.state / "claim"
        if not claim.exists():
            write(claim, secrets.token_urlsafe(48), 0o600)
        word, pause = claim.read_text(encoding="ascii"), SOON
        while True:
            try:
                status, answer = self.platform.post("secrets/", str(self.told["token"]), {"claim": word})
                if status == 200:
                    keep({key: str(value) for key, value in answer.items() if key.startswith("vnc_")})
                    write(self.place.state / "report-token", str(answer["report_token"]), 0o600)
                    return True
                said = answer.get("message") or f"it answered {status}"
                self.print(Report("network", False, self.platform.name, f"it refuses this machine: {said}"))
                pause = LATEST if status in {401, 403} else pause
            except Unreached as error:
                self.print(Report("network", False, self.platform.name, str(error)))
            if not waits(pause * (0.5 + secrets.randbelow(1000) / 1000)):
                return False
            pause = min(2 * pause, LATEST)

    # Saying.

    def say(self, report: Report) -> None:
        """Prints a report where it is news, and sends it; what cannot be sent now is sent at the next `resend`."""
        if self.print(report):
            self._unheard[report.step, report.subject] = report
        self.resend()

    def print(self, report: Report) -> bool:
        """One line on the serial console; False where the same was said before."""
        key = (report.step, report.subject)
        if self._said.get(key) == report:
            return False
        self._said[key] = report
        line = MARK + json.dumps({**report._asdict(), "at": now()})
        with contextlib.suppress(OSError), self.place.console.open("ab", buffering=0) as console:
            # The console is shared with the kernel: whatever it was saying ends here.
            console.write(b"\r\n" + line.encode("ascii", "replace") + b"\r\n")
        return True

    def resend(self) -> bool:
        """Sends what the platform has not heard yet; True where it has heard everything."""
        for key, report in list(self._unheard.items()):
            try:
                token = (self.place.state / "report-token").read_text(encoding="ascii")
                body = {**report._asdict(), "subject": report.subject[:200], "text": report.text[:300], "at": now()}
                status, _answer = self.platform.post("reports/", token, body)
            except Unreached as error:
                self.print(Report("network", False, self.platform.name, str(error)))
                return False
            except OSError:
                return False
            if status >= 500 or status == 429:
                return False
            # Heard; or refused for good, and saying it again would not help.
            self._unheard.pop(key, None)
        return True

    # Looking.

    def look(self) -> Iterable[Report]:
        """How data and software are, one report each."""
        for target in self.told.get("data", []):
            yield self._mount("mounts", str(target))
        for target in self.told.get("software", []):
            report = self._mount("software", str(target))
            yield report if not report.ok else self._modules(str(target))
        for repository in self.told.get("cvmfs", []):
            yield self._repository(str(repository))

    def _mount(self, step: str, target: str) -> Report:
        if target not in self._mounted():
            words = "nothing is mounted there"
            if self.place.mounts:
                code, said = run(["mount", target], MOUNTING)
                words = "the server did not answer" if code is None else mount_words(said)
            if target not in self._mounted():
                return Report(step, False, target, words)
        code, said = run(["ls", "-A", "--", str(inside(self.place.root, target))], GLANCE)
        if code is None:
            return Report(step, False, target, "it is mounted, but does not answer")
        if code != 0:
            return Report(step, False, target, f"it is mounted, but cannot be read: {tail(said)}")
        return Report(step, True, target)

    def _mounted(self) -> set[str]:
        """Where something is mounted (proc(5), mountinfo's fifth field)."""
        lines = self.place.mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        return {re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split()[4]) for line in lines}

    def _modules(self, target: str) -> Report:
        directory = inside(self.place.root, target) / "modulefiles"
        code, _said = run(["sh", "-c", 'test -n "$(ls -A -- "$1")"', "sh", str(directory)], GLANCE)
        if code is None:
            return Report("software", False, target, "it is mounted, but does not answer")
        return Report("software", code == 0, target, "" if code == 0 else "there are no modules in it")

    def _repository(self, name: str) -> Report:
        """A CernVM-FS repository: mounted by autofs when it is first looked at, which may take its own while."""
        target = f"/cvmfs/{name}"
        if run(["sh", "-c", "command -v cvmfs_config"], GLANCE)[0] != 0:
            return Report("software", False, target, "this image has no CernVM-FS client")
        code, said = run(["ls", "--", target], MOUNTING)
        if code == 0 and target in self._mounted():
            return Report("software", True, target)
        _code, journal = run(
            ["journalctl", "--quiet", "--lines=40", "--output=cat", "--identifier=cvmfs2"], GLANCE, out=True
        )
        about = [line for line in journal.splitlines() if name in line]
        return Report("software", False, target, cvmfs_words(about, said))

    def greets(self, seconds: float) -> bool:
        """Whether the desktop greets as an RFB server does (RFC 6143 section 7.1.1) within so many seconds."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError), socket.create_connection(self.place.desktop, timeout=3) as connection:
                if connection.recv(12).startswith(b"RFB 003."):
                    return True
            if time.monotonic() > end:
                return False
            time.sleep(0.5)  # between two greetings

    def desktop(self, seconds: float) -> Report:
        """How the desktop is."""
        if self.greets(seconds):
            return Report("desktop", True)
        lines = run(["journalctl", "--quiet", "--lines=5", "--output=cat", "--unit=visa-desktop"], GLANCE, out=True)[1]
        last = tail(lines)
        return Report(
            "desktop", False, "", f"the desktop did not start: {last}" if last else "the desktop did not start"
        )


def mount_words(said: str) -> str:
    """What mount said, in words of ours where we know them."""
    return next((words for pattern, words in MOUNT_WORDS if re.search(pattern, said, re.IGNORECASE)), "") or (
        f"it was not mounted: {tail(said)}" if tail(said) else "it was not mounted"
    )


def cvmfs_words(journal: list[str], said: str) -> str:
    """Why a CernVM-FS repository is not there: the newest line of its journal that says so."""
    for line in reversed(journal):
        for pattern, words in CVMFS_WORDS:
            if re.search(pattern, line, re.IGNORECASE):
                return f"{words}: {tail(line)}"
    last = tail(said)
    return f"it was not mounted: {last}" if last else "it was not mounted"


def tail(text: str) -> str:
    """The last line of a text, as far as it fits into a report."""
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[-200:] if lines else ""


def inside(root: Path, target: str) -> Path:
    return root / target.lstrip("/")


def run(command: list[str], seconds: float, *, out: bool = False) -> tuple[int | None, str]:
    """Exit code and standard error (or output) of a command; no code where it took longer.

    A look at a mount whose server is silent cannot always be killed: then it is left to itself, never waited for.
    """
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    try:
        process = subprocess.Popen(  # noqa: S603 - a list of our own making, no shell
            command,
            stdin=nothing,
            stdout=pipe if out else nothing,
            stderr=nothing if out else pipe,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            text=True,
            errors="replace",
        )
    except OSError as error:
        return 127, str(error)
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        return None, ""
    return process.returncode, (output if out else errors) or ""


def write(path: Path, text: str, mode: int) -> None:
    """Whole or not at all, and never readable for more than `mode` says."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")  # noqa: UP017 - Python 3.9 has no other name


def uptime() -> float:
    return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])


def keep_in(etc: Path) -> Callable[[dict[str, str]], None]:
    """Writes a machine's secrets where its desktop looks for them; the password last: the desktop waits for it."""

    def keep(handed: dict[str, str]) -> None:
        write(etc / "vnc.key", handed["vnc_key"], 0o600)
        write(etc / "vnc.crt", handed["vnc_certificate"], 0o644)
        write(etc / "vnc-password", handed["vnc_password"] + "\n", 0o600)

    return keep


def main() -> int:
    place = Place()
    try:
        guest = Guest(json.loads((place.etc / "guest.json").read_text(encoding="utf-8")), place)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"/etc/visa/guest.json: {error}\n")
        return 1

    def waits(seconds: float) -> bool:
        time.sleep(seconds)
        return True

    guest.say(Report("booted", True, "", f"{uptime():.0f} s after power on"))
    if not guest.enrolled():
        guest.enrol(keep_in(place.etc), waits)
    guest.say(Report("network", True, guest.platform.name))
    # Before the desktop is there: whoever comes in is to know what is missing.
    for report in guest.look():
        guest.say(report)
    run(["systemctl", "start", "--no-block", "visa-desktop.service"], GLANCE)
    guest.say(guest.desktop(STARTING))
    while waits(LOOK if guest.resend() else LATEST):
        if guest.resend():
            guest.print(Report("network", True, guest.platform.name))
        for report in (*guest.look(), guest.desktop(5.0)):
            guest.say(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
