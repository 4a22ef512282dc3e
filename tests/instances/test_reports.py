"""What a machine says, as values: read where it is well formed, passed over where it is not, never more than a line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instances.models import GuestReport
from instances.reports import (
    CONSOLE_LINES,
    MARK,
    SUBJECT,
    TEXT,
    WORDS,
    Report,
    Step,
    Unreadable,
    excerpt,
    from_console,
    known_words,
    one_line,
    report_from,
)


def line(**said: object) -> str:
    return MARK + json.dumps(said)


def test_the_console_tells_the_last_word_for_each_thing_since_the_last_boot() -> None:
    console = "\n".join(
        [
            "[    0.000000] Linux version 6.1.0",
            line(step="booted", ok=True),
            line(step="mounts", ok=False, subject="/data/old", text="the server did not answer"),
            "[  OK  ] Reached target Reboot.",
            line(step="booted", ok=True),
            "[   12.3] a kernel's word before " + line(step="network", ok=False, subject="https://visa", text="x"),
            line(step="mounts", ok=False, subject="/data/a", text="the server denies access"),
            line(step="mounts", ok=True, subject="/data/a"),
        ]
    )

    assert from_console(console) == (
        Report(step=Step.BOOTED, ok=True),
        Report(step=Step.NETWORK, ok=False, subject="https://visa", text="x"),
        Report(step=Step.MOUNTS, ok=True, subject="/data/a"),
    )


@pytest.mark.parametrize(
    "garbled",
    [
        MARK,
        MARK + "{",
        MARK + '{"step": "mounts", "ok": fal[   12.345] random: crng init done',
        MARK + "[" * 5000,
        MARK + json.dumps({"step": "mounts", "ok": False, "text": "x" * 5000}),
        MARK + '{"step": "dancing", "ok": true}',
        MARK + '{"step": ["booted"], "ok": true}',
        MARK + '{"step": "booted", "ok": 1}',
        MARK + '{"step": "booted", "ok": true, "text": 7}',
    ],
)
def test_a_garbled_line_is_passed_over(garbled: str) -> None:
    good = line(step="network", ok=True)

    assert from_console(f"{garbled}\n{good}\n{garbled}") == (Report(step=Step.NETWORK, ok=True),)


@given(st.text())
def test_no_console_is_too_strange(text: str) -> None:
    for report in (*from_console(text), *from_console(MARK + text)):
        assert report.step in Step

    assert all(one.isprintable() for one in excerpt(text).split("\n"))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(ANYTHING)
def test_what_is_no_report_is_unreadable_and_nothing_worse(value: object) -> None:
    with pytest.raises(Unreadable):
        report_from(value)


@given(st.text(), st.text())
def test_a_report_is_one_line_of_bounded_length(subject: str, text: str) -> None:
    report = report_from({"step": "mounts", "ok": False, "subject": subject, "text": text})

    assert len(report.subject) <= SUBJECT
    assert len(report.text) <= TEXT
    assert (report.subject + report.text).isprintable()


def test_an_excerpt_is_the_end_in_printable_lines() -> None:
    shown = excerpt("".join(f"line {number}\x1b[0m\r\n" for number in range(500)))

    assert len(shown.split("\n")) == CONSOLE_LINES
    assert shown.endswith("line 499 [0m")


def test_words_of_ours_are_known_apart_from_what_follows_them() -> None:
    assert known_words("the server denies access") == ("the server denies access", "")
    assert known_words("it was not mounted: unknown error 71") == ("it was not mounted", "unknown error 71")
    assert known_words("Gremlins: many") == ("", "Gremlins: many")
    assert known_words("") == ("", "")


def test_the_steps_are_those_that_are_kept() -> None:
    assert {one.value for one in Step} == set(GuestReport.Step.values)
    assert all(one_line(words, TEXT) == words for words in WORDS)
