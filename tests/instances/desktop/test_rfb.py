"""RFB without sockets: hostile machines, hostile browsers, and the table of what a browser may say."""

import itertools
import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instances.desktop.rfb import (
    BrowserHandshake,
    ClientFilter,
    MachineHandshake,
    Marks,
    Policy,
    RfbFault,
    Role,
    Screen,
    vnc_response,
)

VERSION = b"RFB 003.008\n"
PIXEL_FORMAT = struct.pack("!BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
CHALLENGE = bytes(range(16))
AGREED = VERSION + b"\x02\x02\x13" + b"\x00\x02" + b"\x00" + b"\x01" + struct.pack("!I", 261) + b"\x01"


def server_init(width: int = 640, height: int = 480, name: bytes = b"desk", pixels: bytes = PIXEL_FORMAT) -> bytes:
    return struct.pack("!HH16sI", width, height, pixels, len(name)) + name


# --- the machine's side --------------------------------------------------------------------------------------------


def greeted() -> MachineHandshake:
    """A handshake that has come to TLS."""
    talk = MachineHandshake("secret12")
    talk.receive(AGREED)
    assert talk.wants_tls
    talk.secured()
    return talk


def test_the_vnc_answer_is_des_with_reversed_bits() -> None:
    # openssl enc -des-ecb -K <each byte of "password" reversed> over the challenge
    assert vnc_response("password", bytes(16)).hex() == "ff97502e9422f089" * 2
    assert vnc_response("password and more", bytes(16)) == vnc_response("password", bytes(16))
    assert vnc_response("short", bytes(16)) != vnc_response("", bytes(16))


@given(cuts=st.lists(st.integers(1, 20), min_size=1))
def test_the_handshake_with_the_machine_is_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    talk = MachineHandshake("secret12")
    sizes = itertools.cycle(cuts)

    said = b"".join(talk.receive(chunk) for chunk in pieces(AGREED, sizes))
    assert talk.wants_tls
    talk.secured()
    tail = CHALLENGE + bytes(4) + server_init(name="Büro".encode()) + b"pixels"
    answered = b"".join(talk.receive(chunk) for chunk in pieces(tail, sizes))

    assert said == VERSION + b"\x13" + b"\x00\x02" + struct.pack("!I", 261)
    assert answered == vnc_response("secret12", CHALLENGE) + b"\x01"
    assert talk.done
    assert talk.screen == Screen(width=640, height=480, pixel_format=PIXEL_FORMAT, name="Büro")
    assert bytes(talk.rest) == b"pixels"


def pieces(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        size = next(sizes)
        yield data[start : start + size]
        start += size


HOSTILE_BEFORE_TLS = {
    "an old version": b"RFB 003.003\n",
    "a version that never ends": b"R" * 1_000_000,
    "another protocol": b"SSH-2.0-OpenSSH_9\r\n",
    "a refusal": VERSION + b"\x00" + struct.pack("!I", 4) + b"busy",
    "a refusal of four gigabytes": VERSION + b"\x00" + struct.pack("!I", 2**32 - 1),
    "a refusal of 257 bytes": VERSION + b"\x00" + struct.pack("!I", 257),
    "255 security types": VERSION + b"\xff" + b"\x13" * 255,
    "no encryption at all": VERSION + b"\x02\x01\x02",
    "a password without encryption": VERSION + b"\x01\x02",
    "VeNCrypt 0.1": VERSION + b"\x01\x13" + b"\x00\x01",
    "VeNCrypt 1.2": VERSION + b"\x01\x13" + b"\x01\x02",
    "a VeNCrypt refusal": VERSION + b"\x01\x13" + b"\x00\x02" + b"\xff",
    "no VeNCrypt type": VERSION + b"\x01\x13" + b"\x00\x02\x00\x00",
    "200 VeNCrypt types": VERSION + b"\x01\x13" + b"\x00\x02\x00\xc8",
    "anonymous encryption only": VERSION + b"\x01\x13" + b"\x00\x02\x00\x01" + struct.pack("!I", 258),
    "X509 without a secret": VERSION + b"\x01\x13" + b"\x00\x02\x00\x01" + struct.pack("!I", 260),
    "a refusal of X509Vnc": AGREED[:-1] + b"\x00",
}
HOSTILE_AFTER_TLS = {
    "a wrong secret": CHALLENGE + struct.pack("!II", 1, 5) + b"wrong",
    "too many tries": CHALLENGE + struct.pack("!II", 2, 3) + b"bye",
    "an endless reason": CHALLENGE + struct.pack("!II", 1, 2**31),
    "an unknown result": CHALLENGE + struct.pack("!II", 77, 0),
    "a huge screen": CHALLENGE + bytes(4) + server_init(65535, 65535),
    "a screen just too wide": CHALLENGE + bytes(4) + server_init(8193, 1),
    "no screen": CHALLENGE + bytes(4) + server_init(0, 480),
    "a name of four gigabytes": CHALLENGE + bytes(4) + struct.pack("!HH16sI", 1, 1, PIXEL_FORMAT, 2**32 - 1),
    "a name of 257 bytes": CHALLENGE + bytes(4) + server_init(name=b"n" * 257),
    "a name that is not text": CHALLENGE + bytes(4) + server_init(name=b"\xff\xfe"),
    "a strange pixel format": CHALLENGE + bytes(4) + server_init(pixels=b"\x40" + PIXEL_FORMAT[1:]),
}


def hear(talk: MachineHandshake, said: bytes, *, size: int, answered: bytearray) -> None:
    for chunk in pieces(said, itertools.repeat(size)):
        answered += talk.receive(chunk)


@pytest.mark.parametrize("said", HOSTILE_BEFORE_TLS.values(), ids=HOSTILE_BEFORE_TLS)
@pytest.mark.parametrize("size", [1, 7, 2**20])
def test_a_hostile_machine_is_refused_before_it_sees_a_secret(said: bytes, size: int) -> None:
    talk = MachineHandshake("secret12")
    answered = bytearray()

    with pytest.raises(RfbFault) as fault:
        hear(talk, said, size=size, answered=answered)

    assert vnc_response("secret12", CHALLENGE) not in answered
    assert "busy" not in str(fault.value)


def test_words_before_tls_are_not_taken_for_words_inside_it() -> None:
    with pytest.raises(RfbFault):
        MachineHandshake("secret12").receive(AGREED + CHALLENGE)


@pytest.mark.parametrize("said", HOSTILE_AFTER_TLS.values(), ids=HOSTILE_AFTER_TLS)
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_hostile_machine_behind_tls_is_refused(said: bytes, size: int) -> None:
    talk = greeted()

    with pytest.raises(RfbFault) as fault:
        hear(talk, said, size=size, answered=bytearray())

    assert not talk.done
    assert "wrong" not in str(fault.value)
    assert "bye" not in str(fault.value)


@settings(max_examples=400)
@given(data=st.binary(max_size=400), prefix=st.sampled_from([b"", VERSION, AGREED[:20], AGREED[:-1]]))
def test_noise_from_a_machine_ends_in_the_one_declared_fault_or_waits_for_more(data: bytes, prefix: bytes) -> None:
    talk = MachineHandshake("secret12")
    try:
        talk.receive(prefix + data)
    except RfbFault:
        return
    assert talk.screen is None
    assert len(talk.rest) <= 256


@settings(max_examples=400)
@given(data=st.binary(max_size=400))
def test_noise_from_a_machine_behind_tls_ends_in_the_one_declared_fault_or_waits_for_more(data: bytes) -> None:
    talk = greeted()
    try:
        talk.receive(CHALLENGE + bytes(4) + data)
    except RfbFault:
        return
    assert talk.done or len(talk.rest) <= 256


# --- the browser's handshake ---------------------------------------------------------------------------------------

SCREEN = Screen(width=640, height=480, pixel_format=PIXEL_FORMAT, name="desk")


@given(cuts=st.lists(st.integers(1, 20), min_size=1))
def test_the_browser_is_offered_none_and_gets_the_machines_screen(cuts: list[int]) -> None:
    talk = BrowserHandshake(SCREEN)
    said = talk.pending()

    chunks = pieces(VERSION + b"\x01" + b"\x00" + b"first message", itertools.cycle(cuts))
    said += b"".join(talk.receive(chunk) for chunk in chunks)

    assert said == VERSION + b"\x01\x01" + bytes(4) + server_init()
    assert bytes(talk.rest) == b"first message"


@pytest.mark.parametrize(
    "said", [b"RFB 003.003\n", b"RFB 003.889\n", VERSION + b"\x02", VERSION + b"\x13", b"GET / HTTP/1"]
)
def test_a_browser_that_does_not_keep_to_the_handshake_is_refused(said: bytes) -> None:
    talk = BrowserHandshake(SCREEN)

    with pytest.raises(RfbFault):
        talk.receive(said)


# --- what a browser may say ------------------------------------------------------------------------------------------

ENCODINGS_OF_NOVNC = [
    1,
    50,
    7,
    -260,
    16,
    21,
    5,
    2,
    6,
    0,
    -26,
    -254,
    -223,
    -224,
    -258,
    -261,
    -308,
    -309,
    -312,
    -313,
    -307,
]
ENCODINGS_OF_NOVNC += [0xC0A1E5CE - 2**32, -316, 0x574D5664, -239]


def encodings(*numbers: int) -> bytes:
    return struct.pack(f"!BxH{len(numbers)}i", 2, len(numbers), *numbers)


def resize(width: int = 800, height: int = 600) -> bytes:
    return struct.pack("!BxHHBx", 251, width, height, 1) + struct.pack("!IHHHHI", 0, 0, 0, width, height, 0)


#: one proper message of each type that has a row in the threat model's table
PROPER = {
    0: struct.pack("!Bxxx16s", 0, PIXEL_FORMAT),
    2: encodings(7, 0),
    3: struct.pack("!BBHHHH", 3, 1, 0, 0, 640, 480),
    4: struct.pack("!BBHI", 4, 1, 0, 0x61),
    5: struct.pack("!BBHH", 5, 1, 10, 20),
    6: struct.pack("!BxxxI", 6, 5) + b"hello",
    150: struct.pack("!BBHHHH", 150, 1, 0, 0, 640, 480),
    248: struct.pack("!BxxxIB", 248, 3, 4) + b"abcd",
    251: resize(),
    255: struct.pack("!BBHII", 255, 0, 1, 0x61, 30),
}
#: what a viewer may send; all others of `PROPER` are dropped for it
WATCHING = {0, 2, 3, 150, 248}


def passed(talk: ClientFilter, data: bytes, *, now: float = 0) -> bytes:
    """Everything that passes of these bytes, however long the filter makes them wait."""
    talk.feed(data)
    out = bytearray()
    while True:
        chunk, wait = talk.take(now)
        out += chunk
        if not wait:
            return bytes(out)
        now += wait


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", range(256))
def test_every_type_of_message_has_its_fate(kind: int, role: Role) -> None:
    talk = ClientFilter(role)
    resizable = passed(talk, encodings(-308))
    message = PROPER.get(kind)

    if message is None:
        with pytest.raises(RfbFault):
            passed(talk, bytes([kind]) + bytes(64))
    elif role is Role.VIEWER and kind not in WATCHING:
        assert passed(talk, message) == b""
    else:
        assert passed(talk, message) == message
    assert resizable == encodings(-308)


@pytest.mark.parametrize("sub", range(1, 256))
def test_of_qemus_messages_only_keys_are_known(sub: int) -> None:
    with pytest.raises(RfbFault):
        passed(ClientFilter(Role.CONTROL), bytes([255, sub]) + bytes(20))


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("!BxH", 2, 65) + bytes(260),
        struct.pack("!Bxxxi", 6, -8) + bytes(8),
        struct.pack("!BxxxI", 6, 256 * 1024 + 1),
        struct.pack("!BxxxI", 6, 2**31),
        struct.pack("!BxxxIB", 248, 0, 65),
        struct.pack("!BxHHBx", 251, 800, 600, 17),
    ],
    ids=["65 encodings", "extended clipboard", "long clipboard", "negative clipboard", "long fence", "17 screens"],
)
@pytest.mark.parametrize("role", list(Role))
def test_a_length_over_its_limit_ends_the_connection_before_it_is_read(message: bytes, role: Role) -> None:
    with pytest.raises(RfbFault):
        passed(ClientFilter(role), message)


def test_a_clipboard_of_the_largest_size_passes_whole() -> None:
    message = struct.pack("!BxxxI", 6, 256 * 1024) + b"x" * 256 * 1024

    assert passed(ClientFilter(Role.CONTROL), message) == message


def test_novncs_encodings_keep_their_order_and_lose_what_is_not_allowed() -> None:
    kept = [one for one in ENCODINGS_OF_NOVNC if one not in {-309, -316, 0xC0A1E5CE - 2**32}]

    assert passed(ClientFilter(Role.CONTROL), encodings(*ENCODINGS_OF_NOVNC)) == encodings(*kept)
    watched = [one for one in kept if one != -258]
    assert passed(ClientFilter(Role.VIEWER), encodings(*ENCODINGS_OF_NOVNC)) == encodings(*watched)


@pytest.mark.parametrize(
    "number", [17, -1000, -2048, -305, -309, -316, -259, 0x48323634, -33, -22, -246, -257, -411, -513]
)
def test_other_encodings_are_taken_out(number: int) -> None:
    assert passed(ClientFilter(Role.CONTROL), encodings(number, 0)) == encodings(0)


def test_a_site_may_take_out_h264_clipboard_and_resizing() -> None:
    talk = ClientFilter(Role.CONTROL, Policy(clipboard=False, resize=False, h264=False))

    assert passed(talk, encodings(50, -308, 7)) == encodings(-308, 7)
    assert passed(talk, PROPER[6] + resize()) == b""


def test_a_resize_needs_that_the_last_encodings_held_it() -> None:
    talk = ClientFilter(Role.CONTROL)

    assert passed(talk, resize()) == b""
    assert passed(talk, encodings(7, -308) + resize(), now=1) == encodings(7, -308) + resize()
    assert passed(talk, encodings(7) + resize(), now=9) == encodings(7)


@pytest.mark.parametrize(("width", "height"), [(0, 600), (800, 0), (8193, 600), (800, 65535)])
def test_a_resize_to_no_possible_screen_is_dropped(width: int, height: int) -> None:
    assert passed(ClientFilter(Role.CONTROL), encodings(-308) + resize(width, height)) == encodings(-308)


def test_what_lies_outside_the_largest_screen_is_brought_inside() -> None:
    pointer = struct.pack("!BBHH", 5, 0, 65535, 9000)
    request = struct.pack("!BBHHHH", 3, 0, 8000, 9000, 65535, 65535)

    out = passed(ClientFilter(Role.CONTROL), pointer + request)

    assert out == struct.pack("!BBHH", 5, 0, 8191, 8191) + struct.pack("!BBHHHH", 3, 0, 8000, 8192, 192, 0)


@pytest.mark.parametrize(
    ("kind", "rate"), [(2, 4), (3, 60), (4, 200), (5, 250), (248, 120), (251, 2), (255, 200)], ids=str
)
def test_a_message_above_its_rate_waits_and_is_not_lost(kind: int, rate: int) -> None:
    talk = ClientFilter(Role.CONTROL)
    start = 0.0
    if kind == 251:
        passed(talk, encodings(-308))
    count = 4 * rate
    talk.feed(PROPER[kind] * count)

    times: list[float] = []
    now = start
    while len(times) < count:
        out, wait = talk.take(now)
        times += [now] * (len(out) // len(PROPER[kind]))
        now += wait

    # from the second second on, no second holds more than the rate
    late = [one for one in times if one >= 1]
    assert all(sum(begin <= one < begin + 1 for one in late) <= rate + 1 for begin in late)
    assert times[-1] <= count / rate + 1


MESSAGES = st.sampled_from([PROPER[kind] for kind in sorted(PROPER)] + [encodings(*ENCODINGS_OF_NOVNC)])


@given(
    messages=st.lists(MESSAGES, max_size=30), cuts=st.lists(st.integers(1, 40), min_size=1), role=st.sampled_from(Role)
)
def test_the_filter_is_the_same_however_the_bytes_are_cut(messages: list[bytes], cuts: list[int], role: Role) -> None:
    data = b"".join(messages)
    whole = passed(ClientFilter(role), data)

    talk = ClientFilter(role)
    cut = b"".join(passed(talk, chunk, now=float(at)) for at, chunk in enumerate(pieces(data, itertools.cycle(cuts))))

    assert cut == whole


@given(steps=st.lists(st.one_of(MESSAGES, st.sampled_from(Role)), max_size=60))
def test_no_input_passes_after_the_role_was_lowered(steps: list[bytes | Role]) -> None:
    talk = ClientFilter(Role.CONTROL)
    for at, step in enumerate(steps):
        if isinstance(step, Role):
            talk.role = step
            continue
        out = passed(talk, step, now=float(at * 10))
        if talk.role is Role.VIEWER:
            assert all(kind in WATCHING for kind in kinds_in(out))


def kinds_in(data: bytes) -> Iterator[int]:
    """The types of a stream of messages, read by the lengths of the specification alone."""
    start = 0
    while start < len(data):
        kind = data[start]
        yield kind
        match kind:
            case 2:
                size = 4 + 4 * struct.unpack_from("!H", data, start + 2)[0]
            case 6:
                size = 8 + struct.unpack_from("!I", data, start + 4)[0]
            case 248:
                size = 9 + data[start + 8]
            case 251:
                size = 8 + 16 * data[start + 6]
            case _:
                size = {0: 20, 3: 10, 4: 8, 5: 6, 150: 10, 255: 12}[kind]
        start += size
    assert start == len(data), "a message was cut"


@pytest.mark.parametrize("role", list(Role))
def test_of_a_million_random_bytes_only_whole_allowed_messages_pass(role: Role) -> None:
    dice = random.Random(20261121)  # noqa: S311 - a fuzz that can be repeated
    allowed = WATCHING if role is Role.VIEWER else set(PROPER)
    tried = 0
    while tried < 1_000_000:
        noise = dice.randbytes(dice.randrange(1, 200))
        data = b"".join(
            dice.choice([PROPER[dice.choice(sorted(PROPER))], bytes([dice.choice(sorted(PROPER))]) + noise])
            for _ in range(dice.randrange(1, 8))
        )
        tried += len(data)
        talk = ClientFilter(role)
        out, now = bytearray(), 0.0
        try:
            talk.feed(data)
            while True:
                chunk, wait = talk.take(now)
                out += chunk
                now += wait
                if not wait:
                    break
        except RfbFault:
            pass
        assert set(kinds_in(bytes(out))) <= allowed


# --- quality marks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["p1", "p123.5", "p0", f"p{'9' * 20}", "p1234567890.1234567890"])
def test_marks_are_known(text: str) -> None:
    Marks().check(text, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p",
        "p.",
        "p.5",
        "p5.",
        "p1.2.3",
        "q1",
        "p-1",
        "p1e5",
        f"p{'9' * 21}",
        "p1 ",
        "p1\n",
        "P1",
        "p١",
        "p1" * 9999,
    ],
)
def test_any_other_text_ends_the_connection(text: str) -> None:
    with pytest.raises(RfbFault):
        Marks().check(text, 0)


def test_more_than_eight_marks_at_once_end_the_connection() -> None:
    marks = Marks()
    for _ in range(8):
        marks.check("p1", 0)

    with pytest.raises(RfbFault):
        marks.check("p1", 0.01)
