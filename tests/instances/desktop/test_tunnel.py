"""The tunnel: which machines it connects to, whom it believes, and that nothing in it grows."""

import asyncio
import socket
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from instances import credentials
from instances.desktop import tunnel as tunnels
from instances.desktop.rfb import TABLE, Role, Row, vnc_response
from instances.desktop.tunnel import (
    AddressRefused,
    Ending,
    Machine,
    MachineSilent,
    Target,
    Tunnel,
    address_of,
    open_machine,
)
from instances.userdata import DesktopSecret
from tests.instances.desktop.machines import (
    CHALLENGE,
    VERSION,
    QueueBrowser,
    Script,
    keep,
    raw_machine,
    scripted_machine,
    server_context,
    to_tls,
)

KEY = struct.pack("!BBHI", 4, 1, 0, 0x61)

# --- addresses -------------------------------------------------------------------------------------------------------

RANGES = ("10.77.0.0/20", "fd00:77::/64")


@pytest.mark.parametrize("host", ["10.77.0.1", "10.77.15.254", "fd00:77::1", "fd00:77:0:0:0:0:0:2"])
def test_an_address_inside_the_ranges_is_connected_to(host: str) -> None:
    assert str(address_of(host, 5901, RANGES))


@pytest.mark.parametrize(
    "host",
    [
        "10.77.16.1", "10.76.255.255", "127.0.0.1", "127.1", "127.0.1", "127.0.0.1.", "2130706433", "0x7f000001",
        "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.0.0.01", "0", "0.0.0.0",  # noqa: S104 - not bound to
        "localhost", "localhost.", "LOCALHOST",
        "169.254.169.254", "169.254.1.1", "2852039166", "0xA9FEA9FE", "metadata", "metadata.google.internal",
        "::1", "::", "[::1]", "::ffff:10.77.0.1", "::ffff:127.0.0.1", "::ffff:a4d:1", "::10.77.0.1",
        "0:0:0:0:0:ffff:7f00:1",
        "fe80::1", "fe80::1%eth0", "fe80::1%1", "fd00:77::1%eth0", "fd00:78::1", "ff02::1", "2002:a4d:1::", "2001::1",
        "64:ff9b::a4d:1", "fd00:ec2::254", "10.77.0.1:5901", "10.77.0.1/32", "10.77.0.1 ", " 10.77.0.1", "10.77.0.1\n",
        "10.77.0.1\0", "10.77.0", "10.77", "10.77.0.256", "10.77.0.1.1", "010.077.000.001", "10.77.0.0x1",
        "１０.77.0.1", "10。77。0。1", "user@10.77.0.1", "http://10.77.0.1", "10.77.0.1#", "%31%30.77.0.1", "",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1",
    ],
)  # fmt: skip
def test_any_other_spelling_of_an_address_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused):
        address_of(host, 5901, RANGES)


@pytest.mark.parametrize(
    ("host", "ranges"),
    [
        ("127.0.0.1", ("0.0.0.0/0",)),
        ("169.254.169.254", ("0.0.0.0/0", "169.254.0.0/16")),
        ("0.0.0.0", ("0.0.0.0/0",)),  # noqa: S104 - not bound to
        ("224.0.0.1", ("0.0.0.0/0",)),
        ("::1", ("::/0",)),
        ("fe80::1", ("::/0",)),
        ("::ffff:10.77.0.1", ("::/0",)),
        ("2002:a4d:1::", ("::/0",)),
    ],
)
def test_a_wide_range_does_not_admit_addresses_no_desktop_has(host: str, ranges: tuple[str, ...]) -> None:
    with pytest.raises(AddressRefused):
        address_of(host, 5901, ranges)


def test_this_host_is_admitted_only_where_a_range_names_it() -> None:
    assert str(address_of("127.0.0.5", 5901, ("127.0.0.0/8",))) == "127.0.0.5"


@pytest.mark.parametrize("port", [-1, 0, 22, 80, 443, 1023, 65536])
def test_a_port_no_desktop_has_is_refused(port: int) -> None:
    with pytest.raises(AddressRefused):
        address_of("10.77.0.1", port, RANGES)


# --- machines that cannot be believed --------------------------------------------------------------------------------


async def opened(target: Target, *, seconds: float = 5) -> None:
    async with open_machine(target, seconds=seconds):
        pass


async def test_a_machine_that_proves_itself_is_opened_and_ended_after() -> None:
    async with scripted_machine(keep) as machine:
        async with open_machine(machine.target()) as desktop:
            assert (desktop.screen.width, desktop.screen.height, desktop.screen.name) == (640, 480, "desk")
        async with asyncio.timeout(5):
            await machine.ended.wait()


async def test_another_certificate_is_refused_before_the_secret_is_proved() -> None:
    heard = bytearray()
    impostor = credentials.generate("visa-test")

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await to_tls(reader, writer, server_context(impostor))
        writer.write(CHALLENGE)
        heard.extend(await reader.read())

    async with raw_machine(script) as machine:
        with pytest.raises(MachineSilent, match="another certificate"):
            await opened(machine.target())

    assert vnc_response(machine.secret.password, CHALLENGE) not in heard
    assert not heard


def signed_by(authority: DesktopSecret) -> DesktopSecret:
    """A credential whose certificate the authority's key has signed."""
    signer = serialization.load_pem_private_key(authority.key.encode(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "visa-test")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(signer, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return DesktopSecret(
        password=authority.password, key=private.decode(), certificate=certificate.public_bytes(encoding).decode()
    )


async def test_a_certificate_signed_by_the_pinned_one_is_not_the_pinned_one() -> None:
    pinned = credentials.generate("visa-test")

    async with scripted_machine(keep, secret=signed_by(pinned)) as machine:
        with pytest.raises(MachineSilent, match="another certificate"):
            await opened(machine.target(secret=pinned))


async def test_a_machine_that_does_not_know_the_secret_is_refused() -> None:
    async with scripted_machine(keep) as machine:
        other = DesktopSecret(password="another1", key="", certificate=machine.secret.certificate)
        with pytest.raises(MachineSilent, match="refuses its secret"):
            await opened(machine.target(secret=other))


async def test_a_machine_without_a_certificate_to_compare_is_not_connected_to() -> None:
    async with raw_machine(keep) as machine:
        target = machine.target(secret=DesktopSecret(password="x", key="", certificate=""))
        with pytest.raises(MachineSilent, match="no certificate"):
            await opened(target)

    assert machine.connections == 0


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in VERSION + b"\xff":
        writer.write(bytes([byte]))
        await asyncio.sleep(0.15)


async def end_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def end_in_the_middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(VERSION + b"\x05\x13")
    await writer.drain()


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"R" * 65536)
        await writer.drain()


async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(VERSION)
    await reader.readexactly(12)
    writer.write(b"\x01\x13\x00\x02")
    await reader.readexactly(3)
    writer.write(b"\x00\x01" + struct.pack("!I", 261))
    await reader.readexactly(4)
    writer.write(b"\x01")
    await reader.read(1)  # the first byte of the gateway's TLS
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" * 100)
    await reader.read()


async def half_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(VERSION)
    await reader.readexactly(12)
    writer.write(b"\x01\x13\x00\x02")
    await reader.readexactly(3)
    writer.write(b"\x00\x01" + struct.pack("!I", 261))
    await reader.readexactly(4)
    writer.write(b"\x01")
    await reader.read()


@pytest.mark.parametrize("script", [say_nothing, drip, end_at_once, end_in_the_middle, shout, no_tls, half_tls])
async def test_a_machine_that_never_becomes_a_desktop_is_left_within_the_deadline(script: Script) -> None:
    async with raw_machine(script) as machine:
        begun = time.monotonic()
        with pytest.raises(MachineSilent):
            await opened(machine.target(), seconds=1)

        assert time.monotonic() - begun < 2
        async with asyncio.timeout(5):
            await machine.ended.wait()


async def test_a_port_nobody_listens_on_is_said_to_be_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    secret = credentials.generate("visa-test")
    target = Target(
        host="127.0.0.1",
        port=port,
        password=secret.password,
        certificate_pem=secret.certificate,
        ranges=("127.0.0.0/8",),
    )

    with pytest.raises(MachineSilent, match="cannot be reached"):
        await opened(target)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_machine_that_speaks_before_it_is_asked_is_heard(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(VERSION)
        await reader.read()

    async def scenario() -> None:
        async with raw_machine(speak) as machine:
            wire = tunnels._Wire()
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: wire, "127.0.0.1", machine.port)
            await asyncio.sleep(0.2)
            async with asyncio.timeout(5):
                assert await wire.read() == VERSION
            wire.abort()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


# --- the tunnel ------------------------------------------------------------------------------------------------------


async def started(
    machine: Machine, browser: QueueBrowser, role: Role = Role.CONTROL
) -> tuple[Tunnel, asyncio.Task[Ending]]:
    """A tunnel whose handshake with the browser is done."""
    tunnel = Tunnel(machine, browser, role)
    browser.greet()
    return tunnel, asyncio.create_task(tunnel.run())


async def test_pixels_come_and_keys_go() -> None:
    keys: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"pixels" * 50_000)
        while True:
            keys.put_nowait(await reader.readexactly(8))

    browser = QueueBrowser()
    async with scripted_machine(script) as machine, open_machine(machine.target()) as desktop:
        _, running = await started(desktop, browser)
        await browser.until(lambda: len(browser.stream) == 300_000)
        browser.says.put_nowait(KEY[:3])
        browser.says.put_nowait(KEY[3:])
        async with asyncio.timeout(5):
            assert await keys.get() == KEY
        browser.says.put_nowait(None)

        assert await running is Ending.BROWSER_LEFT
    assert browser.stream == b"pixels" * 50_000
    assert max(len(one) for one in browser.got) <= tunnels.BLOCK


async def test_the_wire_to_the_machine_does_not_hold_keys_back() -> None:
    async with scripted_machine(keep) as machine, open_machine(machine.target()) as desktop:
        transport = desktop._wire._transport  # there is no other way to see it
        assert transport is not None
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_viewers_keys_do_not_reach_the_machine() -> None:
    fence = struct.pack("!BxxxIB", 248, 3, 0)
    browser = QueueBrowser()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        machine.heard += await reader.readexactly(len(fence))
        writer.write(b"done")
        machine.heard += await reader.read()

    async with scripted_machine(script) as machine, open_machine(machine.target()) as desktop:
        tunnel, running = await started(desktop, browser, Role.VIEWER)
        browser.says.put_nowait(KEY + KEY + fence)
        await browser.until(lambda: browser.stream == b"done")
        tunnel.cut()
        await running

    assert machine.heard == fence


async def test_the_machines_end_is_told() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")
        await writer.drain()

    browser = QueueBrowser()
    async with scripted_machine(script) as machine, open_machine(machine.target()) as desktop:
        _, running = await started(desktop, browser)
        async with asyncio.timeout(5):
            assert await running is Ending.MACHINE_ENDED


@pytest.mark.parametrize("said", [b"\xfd\x00\x00", struct.pack("!Bxxxi", 6, -4), "hello", "p"])
async def test_a_browser_that_breaks_the_rules_is_ended(said: bytes | str) -> None:
    browser = QueueBrowser()
    async with scripted_machine(keep) as machine, open_machine(machine.target()) as desktop:
        _, running = await started(desktop, browser)
        browser.says.put_nowait(said)
        async with asyncio.timeout(5):
            assert await running is Ending.BROWSER_BROKE_RULES
            await machine.ended.wait()


async def test_a_mark_comes_back_behind_the_pictures_that_are_in_line() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 1_000_000)
        await reader.read()

    browser = QueueBrowser()
    async with scripted_machine(script) as machine, open_machine(machine.target()) as desktop:
        tunnel, running = await started(desktop, browser)
        await browser.until(lambda: len(browser.stream) > 100_000)
        browser.reading.clear()
        for mark in ("p1", "p2.5", "p3"):
            browser.says.put_nowait(mark)
        browser.says.put_nowait(KEY)
        before = len(browser.got)
        while not browser.says.empty():  # noqa: ASYNC110 - the tunnel has heard all of it
            await asyncio.sleep(0.01)
        browser.reading.set()
        await browser.until(lambda: "p3" in browser.got)
        tunnel.cut()
        await running

    marks = [one for one in browser.got if isinstance(one, str)]
    assert marks == ["p1", "p2.5", "p3"]
    # one block was in flight when the marks came, and it went first
    assert isinstance(browser.got[before], bytes)


async def test_marks_that_nobody_takes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 100_000)
        await reader.read()

    monkeypatch.setattr(tunnels, "MARKS_WAITING", 4)
    browser = QueueBrowser()
    async with scripted_machine(script) as machine, open_machine(machine.target()) as desktop:
        tunnel, running = await started(desktop, browser)
        await browser.until(lambda: len(browser.stream) > 0)
        browser.reading.clear()
        for number in range(8):
            browser.says.put_nowait(f"p{number}")
        while not browser.says.empty():  # noqa: ASYNC110 - the tunnel has heard all of it
            await asyncio.sleep(0.01)
        assert tunnel._echoes.qsize() <= 4
        assert not running.done()
        tunnel.cut()
        await running


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends as fast as it is taken, and counts."""
    block = bytes(65536)
    writer.transport.set_write_buffer_limits(high=65536)
    while not writer.transport.is_closing():
        writer.write(block)
        await writer.drain()
        await asyncio.sleep(0)  # a drain that need not wait does not let anybody else in


async def test_a_browser_that_takes_nothing_holds_one_block_and_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "STALL_SECONDS", 2.0)
    browser = QueueBrowser()
    async with scripted_machine(flood) as machine, open_machine(machine.target()) as desktop:
        _, running = await started(desktop, browser)
        await browser.until(lambda: len(browser.stream) > 10_000_000)
        browser.got.clear()
        browser.reading.clear()
        wire = desktop._wire
        await asyncio.sleep(0.5)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        await asyncio.sleep(1)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()

        assert wire._transport is not None
        assert not wire._transport.is_reading()
        assert grown < 64 * 1024
        async with asyncio.timeout(5):
            assert await running is Ending.BROWSER_STALLED
        assert browser.got == []


async def test_a_slow_browser_that_still_speaks_is_not_a_stalled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "STALL_SECONDS", 1.0)
    browser = QueueBrowser()
    async with scripted_machine(flood) as machine, open_machine(machine.target()) as desktop:
        tunnel, running = await started(desktop, browser)
        await browser.until(lambda: len(browser.stream) > 0)
        browser.reading.clear()
        for number in range(8):
            browser.says.put_nowait(f"p{number}")
            await asyncio.sleep(0.4)
        assert not running.done()
        tunnel.cut()
        assert await running is Ending.CUT


async def test_a_machine_that_takes_nothing_ends_the_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "STALL_SECONDS", 1.0)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A reader that nobody reads from fills its buffer and stops the transport; then the kernel's buffers fill.
        await asyncio.sleep(60)

    cut_text = struct.pack("!BxxxI", 6, 256 * 1024) + bytes(256 * 1024)
    monkeypatch.setattr("instances.desktop.rfb.TABLE", {6: _fast(6)})
    browser = QueueBrowser()
    async with scripted_machine(deaf) as machine, open_machine(machine.target()) as desktop:
        _, running = await started(desktop, browser)
        for _ in range(200):
            browser.says.put_nowait(cut_text)
        async with asyncio.timeout(15):
            assert await running is Ending.MACHINE_STALLED
        assert not browser.says.empty()


def _fast(kind: int) -> Row:
    """A row of the filter's table without its pace."""
    return replace(TABLE[kind], rate=1e6, burst=1e6)


@pytest.mark.parametrize("reading", [True, False], ids=["reading", "stalled"])
async def test_a_cut_ends_the_machines_side_first_and_nothing_comes_after_it(reading: bool) -> None:
    browser = QueueBrowser()
    async with scripted_machine(flood) as machine, open_machine(machine.target()) as desktop:
        tunnel, running = await started(desktop, browser)
        await browser.until(lambda: len(browser.stream) > 1_000_000)
        if not reading:
            browser.reading.clear()
            await asyncio.sleep(0.1)
        begun = time.monotonic()
        tunnel.cut()
        count = len(browser.got)

        assert desktop._wire._transport is not None
        assert desktop._wire._transport.is_closing()
        assert await running is Ending.CUT
        browser.reading.set()
        async with asyncio.timeout(1):
            await machine.ended.wait()
        assert time.monotonic() - begun < 1
        await asyncio.sleep(0.1)
        assert len(browser.got) == count
