"""What pages say in numbers, and the colours they say it in. No database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instances.views import shown, style
from quotas.allowances import Standing
from quotas.arithmetic import Resources


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (38, "38 s"),
        (60, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3600, "1 h 0 min"),
        (7290, "2 h 1 min"),
        (-3, "0 s"),
    ],
)
def test_lengths_of_time(seconds: int, words: str) -> None:
    assert shown.spoken(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (4096, "4.1 kB"),
        (999_600, "1.0 MB"),
        (911_000_000_000, "911 GB"),
        (25 * 10**12, "25 TB"),
        (10**19, "10000 PB"),
    ],
)
def test_amounts_of_data(count: int, words: str) -> None:
    assert shown.size(count) == words


@pytest.mark.parametrize(
    ("mib", "words"), [(0, "0 GiB"), (512, "512 MiB"), (1024, "1 GiB"), (1536, "1.5 GiB"), (32768, "32 GiB")]
)
def test_amounts_of_memory(mib: int, words: str) -> None:
    assert shown.memory(mib) == words


def test_bars_say_now_after_and_what_is_too_much() -> None:
    now = Standing(limit=Resources(machines=2, cores=16), used=Resources(machines=1, cores=4))

    machines, cores = shown.bars(now, now.after(Resources(machines=1, cores=16)))

    assert (machines.now_words, machines.now_percent, machines.then_percent, machines.over) == (
        "1 of 2 in use",
        50,
        100,
        False,
    )
    assert (cores.now_percent, cores.then_percent, cores.over) == (25, 100, True)
    assert cores.then_words == "4 cores too many"


def test_what_is_not_allowed_and_not_used_has_no_bar() -> None:
    assert shown.bars(Standing(limit=Resources(), used=Resources())) == ()
    asked = Standing(limit=Resources(), used=Resources(gpus=1))
    assert [bar.now_percent for bar in shown.bars(asked)] == [100]


@given(st.integers(0, 0xFFFFFF))
def test_any_accent_can_be_read_in_both_schemes(number: int) -> None:
    accent = f"#{number:06x}"

    for scheme in (style.LIGHT, style.DARK):
        colour = style.readable(accent, scheme)
        for ground in scheme.surfaces:
            assert style.contrast(style.channels(colour), style.channels(ground)) >= 4.5
        assert style.contrast(style.channels(colour), style.channels(style.on(colour))) >= 4.5


def test_an_accent_that_can_be_read_is_left_alone() -> None:
    assert style.readable("#0a5c8a", style.LIGHT) == "#0a5c8a"


def test_contrast_is_that_of_the_guideline() -> None:
    assert round(style.contrast((0, 0, 0), (255, 255, 255)), 2) == 21
    assert round(style.contrast((119, 119, 119), (255, 255, 255)), 2) == 4.48
