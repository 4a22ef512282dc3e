"""A machine's desktop as it really is: TigerVNC's Xvnc behind X509Vnc, a certificate of its own, a known picture."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from instances import credentials
from instances.userdata import DesktopSecret

LOOPBACK = "127.0.0.1"
#: the known picture: a bitmap of 16 x 8, tiled over the screen, set bits in INK and the others in PAPER (RGB)
INK, PAPER = (0x12, 0x34, 0x56), (0xFE, 0xDC, 0xBA)
TILE = (0x0001, 0x8003, 0x0F0F, 0xAAAA, 0x5555, 0x7FFE, 0x1234, 0xC0DE)


@dataclass(frozen=True, kw_only=True)
class VncMachine:
    """A running desktop. `secret` holds its password, key and certificate; `display` is the X display's name."""

    port: int
    display: str
    width: int
    height: int
    secret: DesktopSecret = field(repr=False)
    process: "subprocess.Popen[bytes]"
    host: str = LOOPBACK

    def run(self, *command: str, **options: str) -> subprocess.CompletedProcess[bytes]:
        """Runs an X client on this desktop to its end."""
        environment = os.environ | {"DISPLAY": self.display} | options
        return subprocess.run(command, env=environment, capture_output=True, timeout=20, check=True)

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """What the known picture shows at (x, y): X bitmaps have their least significant bit to the left."""
        return INK if TILE[y % len(TILE)] >> (x % 16) & 1 else PAPER

    def picture(self) -> bytes:
        """The whole known picture, four bytes a pixel, the fourth 0."""
        tile = [b"".join(bytes((*self.pixel(x, y), 0)) for x in range(16)) for y in range(len(TILE))]
        across = -(-self.width // 16)
        return b"".join((tile[y % len(TILE)] * across)[: self.width * 4] for y in range(self.height))


@contextlib.contextmanager
def vnc_machine(
    directory: Path,
    *,
    width: int = 320,
    height: int = 200,
    secret: DesktopSecret | None = None,
    options: Sequence[str] = (),
) -> Iterator[VncMachine]:
    """Starts a desktop in `directory` (made where missing), showing the known picture, and ends it after the block."""
    directory.mkdir(parents=True, exist_ok=True)
    secret = secret or credentials.generate("visa-test")
    (directory / "key.pem").write_text(secret.key)
    (directory / "cert.pem").write_text(secret.certificate)
    obscured = subprocess.run(
        ["tigervncpasswd", "-f"], input=secret.password.encode() + b"\n", capture_output=True, check=True
    )
    (directory / "password").write_bytes(obscured.stdout)
    port = free_port()
    readable, writable = os.pipe()
    command = ["Xtigervnc", "-displayfd", str(writable), "-rfbport", str(port), "-interface", LOOPBACK]
    command += [
        "-SecurityTypes",
        "X509Vnc",
        "-X509Cert",
        "cert.pem",
        "-X509Key",
        "key.pem",
        "-PasswordFile",
        "password",
    ]
    command += [
        "-AlwaysShared",
        "-UseBlacklist=0",
        "-noreset",
        "-geometry",
        f"{width}x{height}",
        "-depth",
        "24",
        *options,
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, pass_fds=[writable], stdout=log, stderr=log)
    os.close(writable)
    try:
        with os.fdopen(readable) as ready:
            number = ready.readline().strip()
        assert number, (directory / "log").read_text()
        machine = VncMachine(
            port=port, display=f":{number}", width=width, height=height, secret=secret, process=process
        )
        wait_for_port(port)
        show_known_picture(machine, directory)
        yield machine
    finally:
        process.terminate()
        process.wait(10)


def show_known_picture(machine: VncMachine, directory: Path) -> None:
    """Tiles the screen with the known picture."""
    bits = ", ".join(f"0x{row & 0xFF:02x}, 0x{row >> 8:02x}" for row in TILE)
    bitmap = directory / "tile.xbm"
    bitmap.write_text(
        f"#define t_width 16\n#define t_height {len(TILE)}\nstatic unsigned char t_bits[] = {{\n{bits} }};\n"
    )
    ink, paper = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in (INK, PAPER))
    machine.run("xsetroot", "-bitmap", str(bitmap), "-fg", ink, "-bg", paper)


def free_port() -> int:
    """A TCP port of loopback nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, *, seconds: float = 10) -> None:
    """Returns when something listens on the port. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens on port {port}")
