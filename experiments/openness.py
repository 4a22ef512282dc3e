"""Is this dataset open, since when or from when, and why: a verdict with its reason. Pure; `now` is an argument.

Sources state openness by dates, flags and rights URIs, often partially and sometimes wrongly. The rule fails closed:

1. What is not data, a tombstone, and what was withdrawn is closed, whatever else is said.
2. A site's own ruling decides next.
3. A right that says "restricted" or "metadata only" closes.
4. If there are dates, the latest one opens; one that cannot be read beside others makes the whole unknown. All dates of
   one record count alike, so that a further date never opens it earlier. (A catalogue that releases earlier than
   DataCite's `Available` does so by a changed record, which an import holds back until confirmed.)
5. A flag is a statement of its harvest. `false` closes, unless a date came after the harvest: it says nothing about the
   time after. `true` opens only where there is no date, from a source that is trusted to mean it, and only as a real
   boolean.
6. Without dates and flags, an access right that says "open" opens.
7. Else it is unknown, and closed. Never from licence, state, `Issued` or publication year: a real record of ESRF under
   embargo until 2028 carries CC-BY-4.0, is findable and was issued.

Dates follow W3CDTF and DataCite's ranges (RKMS-ISO8601, `start/end`). A full date opens at 00:00 of that day in the
facility's zone (no zone known: the latest on Earth, UTC-12), an instant with offset at that instant, a month, a year
and a range after their end.

Sources: DataCite Metadata Schema 4.6 (dateType, rightsList), COAR Access Rights vocabulary, OpenAIRE guidelines
(info:eu-repo access terms and embargo ends).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from enum import StrEnum
from zoneinfo import ZoneInfo

#: An opening without a known beginning. Earlier dates are told as this one.
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
#: As good as never: 9999-12-31 overflows as soon as its zone is converted.
NEVER = datetime(9999, 12, 31, tzinfo=UTC)

LATEST_ZONE = timezone(timedelta(hours=-12))
EARLIEST_ZONE = timezone(timedelta(hours=14))

#: The flags that mean openness. Others exist (`publishedOn`, `dateOfPublishing`) that software fills by itself.
FLAGS = frozenset({"isPublic", "isPublished"})

_OPEN = frozenset({"purl.org/coar/access_right/c_abf2", "info:eu-repo/semantics/openaccess"})
_EMBARGOED = frozenset({"purl.org/coar/access_right/c_f1cf", "info:eu-repo/semantics/embargoedaccess"})
# Words close as well as addresses do; only addresses open.
_CLOSED = frozenset(
    {
        "purl.org/coar/access_right/c_16ec",
        "purl.org/coar/access_right/c_14cb",
        "info:eu-repo/semantics/restrictedaccess",
        "info:eu-repo/semantics/closedaccess",
        "restricted",
        "restricted access",
        "closed",
        "closed access",
        "metadata only",
        "metadata only access",
    }
)
_EMBARGO_END = "info:eu-repo/date/embargoend/"

_DATE = re.compile(
    r"(?P<year>[0-9]{4})(?:-(?P<month>[0-9]{2})(?:-(?P<day>[0-9]{2})"
    r"(?:[T ](?P<clock>[0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:[.,][0-9]{1,9})?"
    r"\ ?(?P<zone>[Zz]|[+-][0-9]{2}:?[0-9]{2})?)?)?)?"
)


class Reason(StrEnum):
    """Why data are open or closed, in one word; `experiments.access` has the sentences."""

    DATE = "date"
    FLAG = "flag"
    RIGHT = "right"
    SITE_OPEN = "site_open"
    EMBARGO = "embargo"
    RESTRICTED = "restricted"
    WITHDRAWN = "withdrawn"
    NOT_PUBLISHED = "not_published"
    SITE_CLOSED = "site_closed"
    NOT_DATA = "not_data"
    UNREADABLE_DATE = "unreadable_date"
    UNKNOWN = "unknown"


class Ruling(StrEnum):
    """What the site itself says, with its reason beside it in the record."""

    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one record.

    `available` are opening dates as given (DataCite's `Available`, a catalogue's release date); `rights` are URIs or
    words; `flags` are (name, value as given) pairs. `timezone` is an IANA name or empty.
    """

    is_data: bool = True
    available: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    rights: tuple[str, ...] = ()
    flags: tuple[tuple[str, object], ...] = ()
    flags_trusted: bool = False
    harvested_at: datetime | None = None
    tombstone: bool = False
    timezone: str = ""
    ruling: Ruling | None = None


@dataclass(frozen=True, kw_only=True)
class Window:
    """When a record is open: from `opens_at` (None: not known ever) until `closes_at` (None: no end), and why."""

    opens_at: datetime | None
    closes_at: datetime | None
    reason: Reason

    def is_open(self, now: datetime) -> bool:
        return self.opens_at is not None and self.opens_at <= now and (self.closes_at is None or now < self.closes_at)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Open or not at one moment. `opens_at` is the day to name: since when, or from when; None where none is known."""

    open: bool
    reason: Reason
    opens_at: datetime | None


class UnreadableDate(ValueError):
    """A text that is no date we can read."""


@dataclass(frozen=True)
class _Period:
    """A day, month, year, range or instant, as two local or absolute datetimes. `opens` is when data dated so open."""

    begins: datetime
    opens: datetime


def zone_named(name: str) -> ZoneInfo | None:
    """The zone of an IANA name; None where it is empty or unknown."""
    try:
        return ZoneInfo(name) if name else None
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError, caught below
        return None
    except KeyError:
        return None


def _absolute(moment: datetime, zone: tzinfo) -> datetime:
    """`moment` in UTC, clamped to what can be told; a moment without offset is local to `zone`."""
    if moment.tzinfo is None:
        if moment.year >= NEVER.year:
            return NEVER
        if moment.year < ALWAYS.year - 1:
            return ALWAYS
        moment = moment.replace(tzinfo=zone)
    elif moment.year >= NEVER.year:
        return NEVER
    elif moment.year < ALWAYS.year - 1:
        return ALWAYS
    return min(max(moment.astimezone(UTC), ALWAYS), NEVER)


def _next_month(year: int, month: int) -> datetime:
    if month == 12:
        return datetime(min(year + 1, 9999), 1 if year < 9999 else 12, 1)  # noqa: DTZ001 - made absolute by _absolute
    return datetime(year, month + 1, 1)  # noqa: DTZ001 - as above


def _single(text: str) -> tuple[datetime, datetime, datetime]:
    """One date: (its beginning, when data dated so open, its end). Raises `UnreadableDate`."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise UnreadableDate(text)
    year, month, day, clock, offset = match.group("year", "month", "day", "clock", "zone")
    try:
        if month is None:
            begins, ends = datetime(int(year), 1, 1), _next_month(int(year), 12)  # noqa: DTZ001 - local until placed
            return begins, ends, ends
        if day is None:
            begins, ends = datetime(int(year), int(month), 1), _next_month(int(year), int(month))  # noqa: DTZ001
            return begins, ends, ends
        begins = datetime(int(year), int(month), int(day))  # noqa: DTZ001
        if clock is None:
            ends = begins + timedelta(days=1) if begins.year < NEVER.year else begins
            return begins, begins, ends
        moment = datetime.combine(begins.date(), time.fromisoformat(clock))
        if offset is not None:
            moment = moment.replace(tzinfo=_offset(offset))
    except ValueError as error:
        raise UnreadableDate(text) from error
    # A fraction is rounded up: a second later is never too early.
    if re.search(r"[.,][0-9]*[1-9]", text):
        moment = moment + timedelta(seconds=1) if moment.year < NEVER.year else moment
    return moment, moment, moment


def _offset(text: str) -> timezone:
    if text in "Zz":
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    if hours > 14 or minutes > 59:
        raise ValueError(text)
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(ahead if text[0] == "+" else -ahead)


def _period(text: str) -> _Period:
    """A date or a range. Raises `UnreadableDate`, also for a range without a known end."""
    text = text.strip()
    if len(text) > 100:
        raise UnreadableDate(text[:40])
    if "/" not in text:
        begins, opens, _ends = _single(text)
        return _Period(begins, opens)
    first, _slash, last = text.partition("/")
    _begins, _opens, ends = _single(last.strip())
    begins = _single(first.strip())[0] if first.strip() not in {"", ".."} else datetime(1, 1, 1)  # noqa: DTZ001
    if _absolute(begins, UTC) > _absolute(ends, UTC):
        raise UnreadableDate(text)
    return _Period(begins, ends)


def opening(text: str, zone: ZoneInfo | None) -> datetime:
    """When data with this date open, in UTC. Raises `UnreadableDate`."""
    return _absolute(_period(text).opens, zone or LATEST_ZONE)


def closing(text: str, zone: ZoneInfo | None) -> datetime:
    """When data withdrawn on this date close, in UTC: at the date's earliest moment. Raises `UnreadableDate`."""
    return _absolute(_period(text).begins, zone or EARLIEST_ZONE)


def _right(text: str) -> str:
    """A right as it is compared: without scheme, case and slashes at the end."""
    folded = " ".join(text[:500].split()).lower().rstrip("/")
    return folded.removeprefix("https://").removeprefix("http://").removeprefix("www.")


def _closed(reason: Reason, opens_at: datetime | None = None) -> Window:
    return Window(opens_at=opens_at, closes_at=None, reason=reason)


def _opening_window(facts: Facts, zone: ZoneInfo | None) -> Window:
    """Steps 2 to 7 of the rule: when it opens, if nothing ends it."""
    if facts.ruling is Ruling.CLOSED:
        return _closed(Reason.SITE_CLOSED)
    if facts.ruling is Ruling.OPEN:
        return Window(opens_at=ALWAYS, closes_at=None, reason=Reason.SITE_OPEN)
    rights = frozenset(_right(text) for text in facts.rights)
    if rights & _CLOSED:
        return _closed(Reason.RESTRICTED)

    dates = [
        *facts.available,
        *(right.removeprefix(_EMBARGO_END) for right in rights if right.startswith(_EMBARGO_END)),
    ]
    flags = [value for name, value in facts.flags if name in FLAGS and isinstance(value, bool)]
    try:
        opens_at = max((opening(text, zone) for text in dates), default=None)
    except UnreadableDate:
        return _closed(Reason.UNREADABLE_DATE)
    if False in flags and (opens_at is None or facts.harvested_at is None or facts.harvested_at >= opens_at):
        return _closed(Reason.NOT_PUBLISHED)
    if opens_at is not None:
        return (
            Window(opens_at=opens_at, closes_at=None, reason=Reason.DATE)
            if opens_at < NEVER
            else _closed(Reason.EMBARGO)
        )
    if rights & _EMBARGOED:
        return _closed(Reason.EMBARGO)
    if flags and facts.flags_trusted:
        return Window(opens_at=ALWAYS, closes_at=None, reason=Reason.FLAG)
    if rights & _OPEN:
        return Window(opens_at=ALWAYS, closes_at=None, reason=Reason.RIGHT)
    return _closed(Reason.UNKNOWN)


def window(facts: Facts) -> Window:
    """When this record is open, for all of time."""
    if not facts.is_data:
        return _closed(Reason.NOT_DATA)
    if facts.tombstone:
        return _closed(Reason.WITHDRAWN)
    zone = zone_named(facts.timezone)
    try:
        closes_at = min((closing(text, zone) for text in facts.withdrawn), default=None)
    except UnreadableDate:
        return _closed(Reason.UNREADABLE_DATE)
    found = _opening_window(facts, zone)
    return Window(opens_at=found.opens_at, closes_at=closes_at, reason=found.reason)


def verdict(facts: Facts, now: datetime) -> Verdict:
    """Whether the data are open at `now`, with the reason; unknown means closed."""
    found = window(facts)
    if found.is_open(now):
        return Verdict(open=True, reason=found.reason, opens_at=found.opens_at if found.opens_at != ALWAYS else None)
    if found.closes_at is not None and found.closes_at <= now:
        return Verdict(open=False, reason=Reason.WITHDRAWN, opens_at=None)
    if found.opens_at is not None:
        # Data that close before they open never do: naming the day would promise something.
        never = found.closes_at is not None and found.closes_at <= found.opens_at
        return Verdict(open=False, reason=Reason.EMBARGO, opens_at=None if never else found.opens_at)
    return Verdict(open=False, reason=found.reason, opens_at=None)


def opens_more(before: Window, after: Window, now: datetime) -> bool:
    """Whether there is a moment from `now` on at which `after` is open and `before` is not.

    This is what "opens earlier than last known" means for two states of one record.
    """
    if after.opens_at is None:
        return False
    begins = max(after.opens_at, now)
    ends = after.closes_at or datetime.max.replace(tzinfo=UTC)
    if begins >= ends:
        return False
    if before.opens_at is None or before.opens_at > begins:
        return True
    return (before.closes_at or datetime.max.replace(tzinfo=UTC)) < ends
