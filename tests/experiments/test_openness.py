"""Openness: every decided line as a table, and what must hold for every record as a property."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.openness import (
    ALWAYS,
    Facts,
    Reason,
    Ruling,
    UnreadableDate,
    Window,
    closing,
    opening,
    opens_more,
    verdict,
    window,
    zone_named,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=400)
COAR = "http://purl.org/coar/access_right/"
EU = "info:eu-repo/semantics/"
PUBLIC, NOT_PUBLIC = (("isPublic", True),), (("isPublic", False),)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


OPENINGS = [
    # a full date: 00:00 of that day in the facility's zone
    ("2028-09-06", "Europe/Paris", "2028-09-05T22:00"),
    ("2028-12-06", "Europe/Paris", "2028-12-05T23:00"),
    ("2028-09-06", "Europe/London", "2028-09-05T23:00"),
    ("2028-09-06", "", "2028-09-06T12:00"),  # the latest on Earth
    ("2028-09-06", "Nowhere/Atlantis", "2028-09-06T12:00"),
    ("2028-02-29", "UTC", "2028-02-29T00:00"),
    # an instant with offset at that instant
    ("2025-07-25T11:58:27+02:00", "", "2025-07-25T09:58:27"),
    ("2025-07-25T11:58:27Z", "Asia/Tokyo", "2025-07-25T11:58:27"),
    ("2025-07-25 11:58:27.500000+01:00", "", "2025-07-25T10:58:28"),  # ICAT's way; never too early
    ("2025-07-25T11:58+0100", "", "2025-07-25T10:58"),
    ("2025-07-25T11:58:27", "Europe/Paris", "2025-07-25T09:58:27"),
    ("2025-07-25T11:58:27", "", "2025-07-25T23:58:27"),
    # a month, a year, a range after their end
    ("2028-09", "Europe/Paris", "2028-09-30T22:00"),
    ("2028-12", "UTC", "2029-01-01T00:00"),
    ("2028", "UTC", "2029-01-01T00:00"),
    ("2028", "", "2029-01-01T12:00"),
    ("2025-01-01/2025-03-31", "UTC", "2025-04-01T00:00"),
    ("2025-01/2025-03", "UTC", "2025-04-01T00:00"),
    ("2024/2025", "UTC", "2026-01-01T00:00"),
    ("/2025", "UTC", "2026-01-01T00:00"),
    ("../2025-06-01", "UTC", "2025-06-02T00:00"),
    ("2025-01-01T00:00Z/2025-03-31T12:00Z", "", "2025-03-31T12:00"),
    # beyond what can be told
    ("0001-01-01", "UTC", "1970-01-01T00:00"),
    ("0001-01-01T00:00:00+14:00", "", "1970-01-01T00:00"),
    ("9999-12-31", "", "9999-12-31T00:00"),
    ("9999-12-31T23:59:59-12:00", "", "9999-12-31T00:00"),
    ("9999-12", "UTC", "9999-12-31T00:00"),
    ("9999", "", "9999-12-31T00:00"),
    ("9998", "", "9999-12-31T00:00"),
    ("2025/9999", "UTC", "9999-12-31T00:00"),
    (" 2028-09-06 ", "UTC", "2028-09-06T00:00"),
]

UNREADABLE = [
    "",
    " ",
    "soon",
    "2028-13",
    "2028-02-30",
    "2027-02-29",
    "28-09-06",
    "06/09/2028",
    "2028/09/06",
    "2028-9-6",
    "20280906",
    "2028-09-06T25:00",
    "2028-09-06T24:00",
    "2028-09-06T12",
    "2028-09-06T12:00+15:00",
    "2028-09-06T12:00+01:75",
    "2028-09-06 or later",
    "2028-09-06~",
    "2028-W36-3",
    "2025-01-01/",
    "2025-01-01/..",
    "/",
    "2028/2025",
    "2025/2026/2027",
    "٢٠٢٨-٠٩-٠٦",
    "-2028",
    "0000",
    "9" * 200,
    "2028-09-06\x00",
]


@pytest.mark.parametrize(("text", "zone", "opens"), OPENINGS)
def test_a_date_opens_when_it_was_decided_to(text: str, zone: str, opens: str) -> None:
    assert opening(text, zone_named(zone)) == utc(opens)


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_date_that_cannot_be_read_opens_nothing_and_ends_nothing(text: str) -> None:
    with pytest.raises(UnreadableDate):
        opening(text, None)
    with pytest.raises(UnreadableDate):
        closing(text, None)
    assert verdict(Facts(available=(text,)), NOW).reason is Reason.UNREADABLE_DATE
    assert not verdict(Facts(available=("2020-01-01", text)), NOW).open
    assert not verdict(Facts(available=("2020-01-01",), withdrawn=(text,)), NOW).open


@pytest.mark.parametrize(
    ("text", "zone", "closes"),
    [
        ("2027-03-04", "Europe/Paris", "2027-03-03T23:00"),
        ("2027-03-04", "", "2027-03-03T10:00"),  # the earliest on Earth
        ("2027", "UTC", "2027-01-01T00:00"),
        ("2027-03/2027-05", "UTC", "2027-03-01T00:00"),
    ],
)
def test_a_withdrawal_takes_effect_at_its_earliest_moment(text: str, zone: str, closes: str) -> None:
    assert closing(text, zone_named(zone)) == utc(closes)


CLOSED_UNTIL_2028 = utc("2028-09-05T22:00")

VERDICTS = [
    # nothing known is closed
    (Facts(), False, Reason.UNKNOWN),
    # dates
    (Facts(available=("2020-01-01",)), True, Reason.DATE),
    (Facts(available=("2028-09-06",)), False, Reason.EMBARGO),
    (Facts(available=("2020-01-01", "2028-09-06")), False, Reason.EMBARGO),
    (Facts(available=("2026",)), False, Reason.EMBARGO),
    (Facts(available=("2026-11",)), False, Reason.EMBARGO),
    (Facts(available=("2026-10",)), True, Reason.DATE),
    (Facts(available=("9999-12-31",)), False, Reason.EMBARGO),
    # access rights
    (Facts(rights=(COAR + "c_abf2",)), True, Reason.RIGHT),
    (Facts(rights=("https://purl.org/coar/access_right/c_abf2/",)), True, Reason.RIGHT),
    (Facts(rights=(EU + "openAccess",)), True, Reason.RIGHT),
    (Facts(rights=(COAR + "c_f1cf",)), False, Reason.EMBARGO),
    (Facts(rights=(COAR + "c_abf2", COAR + "c_f1cf")), False, Reason.EMBARGO),
    (Facts(rights=(COAR + "c_abf2", COAR + "c_16ec")), False, Reason.RESTRICTED),
    (Facts(rights=(COAR + "c_f1cf",), available=("2020-01-01",)), True, Reason.DATE),
    (Facts(rights=(EU + "embargoedAccess", "info:eu-repo/date/embargoEnd/2020-01-01")), True, Reason.DATE),
    (Facts(rights=(EU + "openAccess", "info:eu-repo/date/embargoEnd/2028-01-01")), False, Reason.EMBARGO),
    (Facts(rights=(COAR + "c_16ec",), available=("2020-01-01",)), False, Reason.RESTRICTED),
    (Facts(rights=(COAR + "c_14cb",), available=("2020-01-01",)), False, Reason.RESTRICTED),
    (Facts(rights=("Restricted Access",), available=("2020-01-01",)), False, Reason.RESTRICTED),
    (Facts(rights=("open access",)), False, Reason.UNKNOWN),  # words close, only addresses open
    (Facts(rights=("https://creativecommons.org/licenses/by/4.0/",)), False, Reason.UNKNOWN),
    (Facts(rights=("embargoed until 2020",)), False, Reason.UNKNOWN),
    # flags: trusted, real booleans, and only those that mean it
    (Facts(flags=PUBLIC, flags_trusted=True), True, Reason.FLAG),
    (Facts(flags=PUBLIC), False, Reason.UNKNOWN),
    (Facts(flags=(("isPublished", True),), flags_trusted=True), True, Reason.FLAG),
    (Facts(flags=(("publishedOn", True),), flags_trusted=True), False, Reason.UNKNOWN),
    (Facts(flags=(("isPublic", "true"),), flags_trusted=True), False, Reason.UNKNOWN),
    (Facts(flags=(("isPublic", 1),), flags_trusted=True), False, Reason.UNKNOWN),
    (Facts(flags=(("isPublic", None),), flags_trusted=True), False, Reason.UNKNOWN),
    (Facts(flags=(("isPublic", True), ("isPublished", False)), flags_trusted=True), False, Reason.NOT_PUBLISHED),
    (Facts(flags=PUBLIC, flags_trusted=True, available=("2028-09-06",)), False, Reason.EMBARGO),
    (Facts(flags=PUBLIC, flags_trusted=True, available=("2020-01-01",)), True, Reason.DATE),
    (Facts(flags=PUBLIC, flags_trusted=True, rights=(COAR + "c_f1cf",)), False, Reason.EMBARGO),
    (Facts(flags=PUBLIC, flags_trusted=True, rights=(COAR + "c_16ec",)), False, Reason.RESTRICTED),
    (Facts(flags=NOT_PUBLIC, rights=(COAR + "c_abf2",)), False, Reason.NOT_PUBLISHED),
    # a flag is a statement of its harvest
    (Facts(flags=NOT_PUBLIC, available=("2026-01-01",), harvested_at=utc("2025-06-01")), True, Reason.DATE),
    (Facts(flags=NOT_PUBLIC, available=("2026-01-01",), harvested_at=utc("2026-06-01")), False, Reason.NOT_PUBLISHED),
    (Facts(flags=NOT_PUBLIC, available=("2026-01-01",)), False, Reason.NOT_PUBLISHED),
    (Facts(flags=NOT_PUBLIC, available=("2028-01-01",), harvested_at=NOW), False, Reason.EMBARGO),
    # what ends it
    (Facts(available=("2020-01-01",), tombstone=True), False, Reason.WITHDRAWN),
    (Facts(available=("2020-01-01",), withdrawn=("2024-01-01",)), False, Reason.WITHDRAWN),
    (Facts(available=("2020-01-01",), withdrawn=("2027-01-01",)), True, Reason.DATE),
    (Facts(available=("2020-01-01",), withdrawn=("2026",)), False, Reason.WITHDRAWN),
    (Facts(available=("2020-01-01",), is_data=False), False, Reason.NOT_DATA),
    # the site's own ruling
    (Facts(ruling=Ruling.OPEN), True, Reason.SITE_OPEN),
    (Facts(ruling=Ruling.OPEN, available=("2028-09-06",), rights=(COAR + "c_16ec",)), True, Reason.SITE_OPEN),
    (Facts(ruling=Ruling.CLOSED, available=("2020-01-01",)), False, Reason.SITE_CLOSED),
    (Facts(ruling=Ruling.OPEN, tombstone=True), False, Reason.WITHDRAWN),
    (Facts(ruling=Ruling.OPEN, withdrawn=("2020",)), False, Reason.WITHDRAWN),
    (Facts(ruling=Ruling.OPEN, is_data=False), False, Reason.NOT_DATA),
]


@pytest.mark.parametrize(("facts", "is_open", "reason"), VERDICTS)
def test_the_rule_line_by_line(facts: Facts, is_open: bool, reason: Reason) -> None:
    found = verdict(facts, NOW)

    assert (found.open, found.reason) == (is_open, reason)


def test_an_embargo_names_its_day_and_opens_by_itself() -> None:
    facts = Facts(available=("2028-09-06",), timezone="Europe/Paris", rights=("https://creativecommons.org/by/4.0",))

    assert verdict(facts, NOW).opens_at == CLOSED_UNTIL_2028
    assert not verdict(facts, CLOSED_UNTIL_2028 - timedelta(microseconds=1)).open
    assert verdict(facts, CLOSED_UNTIL_2028).open


def test_what_closes_before_it_opens_promises_no_day() -> None:
    found = verdict(Facts(available=("2028-01-01",), withdrawn=("2027-01-01",)), NOW)

    assert (found.open, found.opens_at) == (False, None)


dates = st.one_of(
    st.dates().map(str),
    st.dates().map(lambda day: str(day)[:7]),
    st.dates().map(lambda day: str(day)[:4]),
    st.datetimes().map(lambda moment: moment.isoformat(timespec="seconds") + "+01:00"),
    st.tuples(st.dates(), st.dates()).map(lambda pair: f"{min(pair)}/{max(pair)}"),
    st.sampled_from(UNREADABLE),
    st.text(max_size=20),
)
rights = st.sampled_from(
    [COAR + "c_abf2", COAR + "c_f1cf", COAR + "c_16ec", COAR + "c_14cb", EU + "openAccess", "CC-BY-4.0"]
)
flags = st.tuples(
    st.sampled_from(["isPublic", "isPublished", "publishedOn"]), st.sampled_from([True, False, "true", 1, None])
)
moments = st.datetimes(
    utc("1971-01-01").replace(tzinfo=None), utc("9990-01-01").replace(tzinfo=None), timezones=st.just(UTC)
)
records = st.builds(
    Facts,
    is_data=st.sampled_from([True, True, True, False]),
    available=st.lists(dates, max_size=3).map(tuple),
    withdrawn=st.lists(dates, max_size=1).map(tuple),
    rights=st.lists(rights, max_size=2).map(tuple),
    flags=st.lists(flags, max_size=2).map(tuple),
    flags_trusted=st.booleans(),
    harvested_at=st.one_of(st.none(), moments),
    tombstone=st.sampled_from([False, False, False, True]),
    timezone=st.sampled_from(["", "Europe/Paris", "Pacific/Kiritimati", "No/Where"]),
    ruling=st.sampled_from([None, None, None, Ruling.OPEN, Ruling.CLOSED]),
)


@given(records, dates, moments)
def test_an_additional_date_never_opens_earlier(facts: Facts, date: str, now: datetime) -> None:
    more = replace(facts, available=(*facts.available, date))

    # The one way a date may open: where nothing at all was stated, as `Available` is the statement itself.
    stated = facts.available or window(facts).opens_at is not None
    if stated:
        assert not opens_more(window(facts), window(more), now)


@given(
    records, st.lists(st.dates(), min_size=1, max_size=2), st.timedeltas(timedelta(0), timedelta(days=9999)), moments
)
def test_a_later_date_never_opens_earlier(facts: Facts, days: list[object], shift: timedelta, now: datetime) -> None:
    before = replace(facts, available=tuple(str(day) for day in days), flags=())
    after = replace(before, available=tuple(str(_later(day, shift)) for day in days))

    assert not opens_more(window(before), window(after), now)


def _later(day: object, shift: timedelta) -> object:
    try:
        return day + shift  # type: ignore[operator]  # a date; past 9999 it stays
    except OverflowError:
        return day


@given(records, st.integers(0, 1), moments)
def test_a_flag_that_opens_never_opens_earlier_by_being_taken_away(facts: Facts, index: int, now: datetime) -> None:
    left = tuple(flag for place, flag in enumerate(facts.flags) if place != index or flag[1] is False)

    assert not opens_more(window(facts), window(replace(facts, flags=left)), now)


@given(records, moments)
def test_without_trust_nothing_opens_earlier(facts: Facts, now: datetime) -> None:
    trusted, untrusted = replace(facts, flags_trusted=True), replace(facts, flags_trusted=False)

    assert not opens_more(window(trusted), window(untrusted), now)


@given(records, moments)
def test_no_record_breaks_the_rule_and_the_window_agrees_with_the_verdict(facts: Facts, now: datetime) -> None:
    found, stated = window(facts), verdict(facts, now)

    assert stated.open == found.is_open(now)
    assert found.opens_at is None or found.opens_at >= ALWAYS
    if stated.open:
        assert facts.is_data
        assert not facts.tombstone
        assert facts.ruling is not Ruling.CLOSED
        assert stated.opens_at is None or stated.opens_at <= now
        assert facts.ruling or facts.available or facts.flags or facts.rights


@given(records, records, moments)
def test_opening_more_is_what_a_clock_would_see(before: Facts, after: Facts, now: datetime) -> None:
    first, second = window(before), window(after)
    edges = [now] + [edge for one in (first, second) for edge in (one.opens_at, one.closes_at) if edge and edge >= now]

    seen = any(second.is_open(edge) and not first.is_open(edge) for edge in edges)

    assert opens_more(first, second, now) == seen


def test_an_open_record_does_not_open_more_by_a_changed_past() -> None:
    first = Window(opens_at=utc("2024-01-01"), closes_at=None, reason=Reason.DATE)
    second = Window(opens_at=utc("2020-01-01"), closes_at=None, reason=Reason.DATE)

    assert not opens_more(first, second, NOW)
    assert opens_more(replace(first, opens_at=LATER), second, NOW)
