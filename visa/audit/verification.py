"""Reads the chain from its end to its beginning and names what is not as it was sealed.

Backwards, because each row's `previous` vouches for the row before it: from an end that can be trusted (a head told to
the outside) everything it leads to can be, and a row that was altered and hashed anew is told from its neighbour.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Max, Min

from visa.audit import canonical, trail
from visa.audit.models import AuditEvent, AuditHead, AuditSeal, AuditText
from visa.audit.sealing import WINDOW, facts, unsealed

#: the reason of a look at the whole chain that found nothing; of any other, `BROKEN`
IN_ORDER, BROKEN = "in order", "broken"
#: rows read at once
BATCH = 2000


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is not as it was: its place in the chain and its row, where they are known."""

    number: int | None
    event_id: int | None
    what: str

    @property
    def words(self) -> str:
        place = f"row {self.number} of the chain" if self.number is not None else "outside the chain"
        return f"{place}{f' (event {self.event_id})' if self.event_id is not None else ''}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a verification found. `faults` are in the order of the chain; `waiting` rows are not sealed yet."""

    rows: int
    number: int
    hash: str
    waiting: int
    faults: tuple[Fault, ...]

    @property
    def first(self) -> Fault | None:
        return self.faults[0] if self.faults else None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How the trail stands: `recent` is yesterday's and today's chain, `seen` the last look at all of it."""

    recent: Verdict
    sealed_at: datetime | None
    #: for how long the oldest row has waited for its seal
    waiting: timedelta
    seen_at: datetime | None
    seen_in_order: bool


class NoSuchHeads(Exception):
    """A file of heads that cannot be read."""


def heads_in(lines: Iterable[str]) -> dict[int, str]:
    """The heads of a file, `number: hash`; lines of a log are taken too. Raises NoSuchHeads.

    A line that was not written to its end, as on a full disk, is passed over: the next tells its head again.
    """
    heads = {}
    for place, line in enumerate(lines, start=1):
        if not line.strip() or (line.startswith("{") and not line.rstrip().endswith("}")):
            continue
        try:
            said = json.loads(line)
            if "message" in said:  # a log line of ours
                said = json.loads(said["message"].removeprefix("audit head: "))
            heads[int(said["number"])] = str(said["hash"])
        except (ValueError, KeyError, TypeError) as error:
            raise NoSuchHeads(f"line {place} names no head") from error
    return heads


def verify(*, since: date | None = None, heads: Mapping[int, str] | None = None) -> Verdict:
    """Compares every row since that day (UTC) with its seal, every seal with the next, and all with the heads.

    Without `heads` those the database keeps are taken, which whoever can alter the chain can alter as well.
    """
    known = dict(AuditHead.objects.values_list("number", "hash")) if heads is None else dict(heads)
    waiting, strays = _waiting()
    bounds = AuditSeal.objects.aggregate(low=Min("number"), high=Max("number"))
    top = bounds["high"] or 0
    bottom = 1
    if since is not None:
        # one row of the day before as well: the day's first row vouches for it
        first = AuditSeal.objects.filter(day__gte=since).aggregate(low=Min("number"))["low"]
        bottom = max(1, (first if first is not None else top + 1) - 1)
    walk = _Walk(known, bottom)
    last = AuditSeal.objects.filter(number=top).first()
    if known and max(known) > top:
        walk.miss(top + 1, max(known))
    walk.expected = top
    for seals in _backwards(top, bottom):
        events = AuditEvent.objects.in_bulk([seal.event_id for seal in seals])
        texts = AuditText.objects.in_bulk([event.text_digest for event in events.values() if event.text_digest])
        for seal in seals:
            walk.take(seal, events.get(seal.event_id), texts)
    walk.end()
    faults = sorted(walk.faults, key=lambda fault: (fault.number or 0, fault.event_id or 0))
    return Verdict(
        rows=walk.rows,
        number=top,
        hash=last.hash if last else canonical.GENESIS,
        waiting=waiting,
        faults=(*faults, *strays, *(_erased_untold() if since is None else ())),
    )


class _Walk:
    """One way back through the chain: what is known of the rows above the one at hand."""

    def __init__(self, heads: Mapping[int, str], bottom: int) -> None:
        self.heads, self.bottom = heads, bottom
        self.rows, self.expected = 0, 0
        self.faults: list[Fault] = []
        #: what a row that is in order says of the one before it; empty where none can say
        self.voucher = ""
        #: the row above is in order but for its number: one was put in below it
        self.moved_up = False
        #: of the pass at hand: its moment, and its oldest row
        self.moment: datetime | None = None
        self.oldest: tuple[datetime, AuditSeal] | None = None

    def miss(self, first: int, last: int) -> None:
        """Rows that should be there are not."""
        what = "it is missing" if first == last else f"it is missing, and all to row {last}"
        self.faults.append(Fault(number=first, event_id=None, what=what))

    def take(self, seal: AuditSeal, event: AuditEvent | None, texts: Mapping[str, AuditText]) -> None:
        """The next row downwards."""
        if seal.number != self.expected:
            self.miss(seal.number + 1, self.expected)
            self.voucher = ""
        self.expected = seal.number - 1
        self.rows += 1
        self._pass(seal, event)
        what = self._wrong(seal, event, texts)
        if what:
            self.faults.append(Fault(number=seal.number, event_id=seal.event_id, what=what))
        self.voucher = "" if what else seal.previous

    def end(self) -> None:
        """The bottom is reached, or should have been."""
        if self.expected >= self.bottom and (self.rows or self.expected):
            self.miss(self.bottom, self.expected)
        elif self.bottom == 1 and self.voucher and self.voucher != canonical.GENESIS:
            self.faults.append(Fault(number=1, event_id=None, what="it names a row before it, and there is none"))

    def _wrong(self, seal: AuditSeal, event: AuditEvent | None, texts: Mapping[str, AuditText]) -> str:
        if event is None:
            self.moved_up = False
            return "its event is gone"
        above_moved_up, self.moved_up = self.moved_up, False
        try:
            is_now = self._hash(seal, event, number=seal.number)
            if is_now != seal.hash and seal.hash == self._hash(seal, event, number=seal.number - 1):
                self.moved_up = True
                return "it was moved up: a row before it was put in"
        except ValueError:
            return "it was changed: it has no canonical spelling"
        if is_now != seal.hash:
            return "it was changed: it is not what its hash was made of"
        if above_moved_up:
            return "it was put in: all after it was moved up"
        if self.voucher and is_now != self.voucher:
            return "it was changed and hashed anew: the row after it knows another hash"
        if self.heads.get(seal.number, is_now) != is_now:
            before = max((number for number in self.heads if number < seal.number), default=0)
            return (
                f"it is not the head that was told: this or a row since {before + 1} was changed, and all hashed anew"
            )
        return self._text_wrong(event, texts)

    def _hash(self, seal: AuditSeal, event: AuditEvent, *, number: int) -> str:
        return canonical.sealed(
            facts(event), number=number, day=seal.day, sealed_at=seal.sealed_at, previous=seal.previous
        )

    def _text_wrong(self, event: AuditEvent, texts: Mapping[str, AuditText]) -> str:
        if not event.text_digest:
            return ""
        text = texts.get(event.text_digest)
        if text is None:
            return "its personal text is gone, not erased"
        if text.erased_at is not None and (text.salt or text.source or text.text):
            return "its personal text is said to be erased and is there"
        if text.erased_at is None and canonical.text_digest(text.salt, text.source, text.text) != text.digest:
            return "its personal text was changed"
        return ""

    def _pass(self, seal: AuditSeal, event: AuditEvent | None) -> None:
        """A row that is older than what the pass before it could have left was put in afterwards."""
        if self.moment is not None and seal.sealed_at != self.moment:
            if seal.sealed_at > self.moment:
                self.faults.append(Fault(number=seal.number, event_id=seal.event_id, what="sealed after what follows"))
            elif self.oldest is not None and self.oldest[0] < seal.sealed_at - WINDOW:
                late = self.oldest[1]
                what = "it was put in afterwards: it says it is older than what was sealed before it"
                self.faults.append(Fault(number=late.number, event_id=late.event_id, what=what))
            self.oldest = None
        self.moment = seal.sealed_at
        if event is not None and (self.oldest is None or event.at < self.oldest[0]):
            self.oldest = (event.at, seal)


def _waiting() -> tuple[int, list[Fault]]:
    """How many rows wait for their seal, and those that turned up too late to be of their time."""
    latest = AuditSeal.objects.aggregate(at=Max("sealed_at"))["at"]
    rows = unsealed()
    if latest is None:
        return rows.count(), []
    what = "it is in no chain: it was put in afterwards, or its transaction took more than an hour"
    late: Collection[int] = rows.filter(at__lt=latest - WINDOW).order_by("id").values_list("id", flat=True)
    return (
        rows.filter(at__gte=latest - WINDOW).count(),
        [Fault(number=None, event_id=event_id, what=what) for event_id in late],
    )


def _erased_untold() -> list[Fault]:
    """Whoever may write rows may empty a personal text as well; that it was done by the command the trail tells."""
    erased = AuditText.objects.exclude(erased_at=None).count()
    rows = AuditEvent.objects.filter(kind="person", action=trail.ERASE).values_list("detail", flat=True)
    # A row that says no number was not written by the command.
    told = sum(number for detail in rows if isinstance(number := detail.get("texts"), int))
    if erased <= told:
        return []
    what = f"{erased} personal texts are erased, and the trail tells of {told}"
    return [Fault(number=None, event_id=None, what=what)]


def _backwards(top: int, bottom: int) -> Iterator[list[AuditSeal]]:
    below = top + 1
    while seals := list(AuditSeal.objects.filter(number__lt=below, number__gte=bottom).order_by("-number")[:BATCH]):
        yield seals
        below = seals[-1].number


def standing() -> Standing:
    """What `manage.py doctor` tells. Raises nothing."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (now,) = cursor.fetchone()
    oldest = unsealed().aggregate(at=Min("at"))["at"]
    last = AuditSeal.objects.order_by("-number").first()
    seen = AuditEvent.objects.filter(kind="audit", action="audit.verify").order_by("-id").first()
    return Standing(
        recent=verify(since=now.astimezone(UTC).date() - timedelta(days=1)),
        sealed_at=last.sealed_at if last else None,
        waiting=now - oldest if oldest else timedelta(0),
        seen_at=seen.at if seen else None,
        seen_in_order=seen is not None and seen.reason == IN_ORDER,
    )


def told(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the trail itself keeps it."""
    return {"rows": verdict.rows, "number": verdict.number, "faults": len(verdict.faults), "waiting": verdict.waiting}
