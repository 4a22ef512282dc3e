"""What stands in the cloud without a row that explains it, and what may be done about it. Pure.

Nothing is deleted because a list and a table differ once. A stray must be old by the cloud's clock and by ours, must be
seen again later, and then brakes are asked: few at once, none where lists shrank, none while a hold stands. `now` and
all times are the database's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from visa.errors import gettext_noop as _


class Kind(StrEnum):
    """What a cloud holds for us, in the order in which it is let go."""

    SERVER = "server"
    PORT = "port"
    VOLUME = "volume"


class Verdict(StrEnum):
    """What is thought of a stray."""

    SIGHTED = "sighted"  #: too young to be judged
    QUARANTINED = "quarantined"  #: old enough; deleted where it is seen again after a while
    HELD = "held"  #: would be deleted, and a person has to say so
    SWEPT = "swept"  #: its deletion was ordered
    EXPLAINED = "explained"  #: it has its row, or went by itself


class Mismatch(StrEnum):
    """Why a thing is a stray."""

    UNKNOWN = "unknown"  #: no row ever had this instance id
    DELETED = "deleted"  #: its machine's deletion was complete
    SURPLUS = "surplus"  #: its machine has another one, which is there
    RETURNED = "returned"  #: its machine was taken for gone before its row was cleared away
    USED = "used"  #: as those above, and something that is not ours uses it


#: what each means, in words
MISMATCHES: Mapping[Mismatch, str] = {
    Mismatch.UNKNOWN: _("No machine of this database ever had it."),
    Mismatch.DELETED: _("Its machine was deleted here."),
    Mismatch.SURPLUS: _("Its machine has another one, which is there."),
    Mismatch.RETURNED: _(
        "Its machine was taken for gone and cleared away here, and it is there: somebody's work may be on it."
    ),
    Mismatch.USED: _("Nothing here explains it, and a server that is not ours uses it."),
}


class Brake(StrEnum):
    """What keeps a sweep from deleting anything."""

    REPORT = "report"
    HOLD = "hold"
    LIST_SHRANK = "list_shrank"
    TABLE_SHRANK = "table_shrank"


BRAKES: Mapping[Brake, str] = {
    Brake.REPORT: _("This site only reports (VISA_SWEEP=report)."),
    Brake.HOLD: _("Sweeps are held until an administrator releases them."),
    Brake.LIST_SHRANK: _("The cloud showed less than half of what it showed a while ago."),
    Brake.TABLE_SHRANK: _("There were less than half as many machines here as a while ago."),
}


class Doubt(StrEnum):
    """Why it is not certain that this database is the one the cloud's things belong to."""

    PUT_BACK = "put_back"
    STRANGERS = "strangers"
    OTHER_DATABASE = "other_database"
    ROWS_LOST = "rows_lost"
    FIRST_LOOK = "first_look"
    VANISHED = "vanished"


DOUBTS: Mapping[Doubt, str] = {
    Doubt.PUT_BACK: _("The cloud has machines that are newer than this database: it seems to be put back from a copy."),
    Doubt.STRANGERS: _(
        "The cloud has machines that another database accepted under our tag: is VISA_CLOUD_ENVIRONMENT in use twice?"
    ),
    Doubt.OTHER_DATABASE: _("This is not the database server, or not its history, that the last sweep knew."),
    Doubt.ROWS_LOST: _("Machines that this database once accepted have no row any more."),
    Doubt.FIRST_LOOK: _("This database looks for the first time, and the cloud has things it never knew."),
    Doubt.VANISHED: _(
        "More than half of the machines are missing from the cloud at once: is it the right project of the right cloud,"
        " and the right VISA_CLOUD_ENVIRONMENT? Nothing is called gone until somebody says so."
    ),
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How patient and how careful the sweeper is. See `instances.lifecycle.Pace` for the times."""

    age: timedelta
    apart: timedelta
    #: of one kind, at most this share goes at once, or this many where that is more
    share: float = 0.05
    at_least: int = 1
    #: less than this share of what was there within `age + apart` stops everything; of fewer than `telling`, nothing
    #: can be told
    shrink: float = 0.5
    telling: int = 4


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One server, port or volume as the cloud lists it. `used_by` is the server that uses a port or a volume."""

    kind: Kind
    id: str
    name: str
    instance_id: UUID
    made_at: datetime
    used_by: str = ""
    serial: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a machine's row says it has. `live` is false once its deletion was complete; `gone`: its server was missed
    before anybody wished its deletion.
    """

    live: bool
    gone: bool = False
    server_id: str | None = None
    port_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many there were at one sweep: machines that may have something (`rows`), machines ever accepted, things."""

    rows: int
    accepted: int
    things: Mapping[Kind, int]


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What is remembered of a stray."""

    first_seen_at: datetime
    quarantined_at: datetime | None
    verdict: Verdict
    times: int


@dataclass(frozen=True, kw_only=True)
class Stray:
    """A thing without an explanation, with its verdict. `order` says that its deletion is to be ordered now."""

    thing: Thing
    mismatch: Mismatch
    sight: Sight
    order: bool = False

    @property
    def why(self) -> str:
        return MISMATCHES[self.mismatch]


@dataclass(frozen=True, kw_only=True)
class Past:
    """What earlier sweeps left: strays by (kind, id), counts of the sweeps that brakes look back to, the last count of
    machines ever accepted, and when somebody was last told of a doubt, or released one.

    `identity` is the database's as it was noted, None where this database has never swept.
    """

    sights: Mapping[tuple[Kind, str], Sight]
    counts: Sequence[Counts]
    accepted: int
    told_at: datetime | None
    held: bool
    identity: str | None


@dataclass(frozen=True, kw_only=True)
class Books:
    """The cloud's things, and the rows as they were read after them. `newest` is the newest serial ever given."""

    at: datetime
    things: Sequence[Thing]
    rows: Mapping[UUID, Row]
    accepted: int
    newest: int
    identity: str

    @property
    def counts(self) -> Counts:
        return Counts(
            rows=sum(row.live for row in self.rows.values()),
            accepted=self.accepted,
            things={kind: sum(thing.kind is kind for thing in self.things) for kind in Kind},
        )


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What a sweep has to say and to do: the strays, new doubts with their numbers, and the brake, where one is on."""

    strays: tuple[Stray, ...]
    doubts: Mapping[Doubt, str]
    brake: Brake | None

    @property
    def orders(self) -> tuple[Stray, ...]:
        return tuple(stray for stray in self.strays if stray.order)


def assess(books: Books, past: Past, rules: Rules, *, deleting: bool) -> Assessment:
    """What is stray and what may be deleted now. `deleting`: this sweep may delete at all."""
    strays = [
        judge(thing, mismatch, past.sights.get((thing.kind, thing.id)), books.at, rules)
        for thing, mismatch in mismatches(books)
    ]
    doubts = doubts_of(books, past, strays)
    brake = brake_of(books.counts, past, rules, doubted=bool(doubts), deleting=deleting)
    if brake is not None:
        due = {Verdict.QUARANTINED}
        strays = [
            replace(one, sight=replace(one.sight, verdict=Verdict.HELD)) if one.sight.verdict in due else one
            for one in strays
        ]
        return Assessment(strays=tuple(strays), doubts=doubts, brake=brake)
    return Assessment(strays=tuple(chosen(strays, books, past, rules)), doubts=doubts, brake=None)


def mismatches(books: Books) -> Iterator[tuple[Thing, Mismatch]]:
    """The things that no row explains, or may come to explain, each with the reason."""
    there = {one.id for one in books.things}
    servers = {one.id for one in books.things if one.kind is Kind.SERVER}
    for thing in books.things:
        mismatch = _mismatch(thing, books.rows.get(thing.instance_id), servers, there)
        if mismatch is not None:
            yield thing, mismatch


def _mismatch(thing: Thing, row: Row | None, servers: set[str], there: set[str]) -> Mismatch | None:
    if thing.kind is not Kind.SERVER and thing.used_by in servers:
        return None  # it goes with its server
    if row is not None and row.live:
        named = {Kind.SERVER: row.server_id, Kind.PORT: row.port_id, Kind.VOLUME: None}[thing.kind]
        # A row that names nothing, or something that is not there, may still come to this one.
        if named == thing.id or named not in there:
            return None
        return Mismatch.USED if thing.used_by else Mismatch.SURPLUS
    if thing.used_by:
        return Mismatch.USED
    if row is not None and row.gone and thing.kind is not Kind.PORT:
        return Mismatch.RETURNED
    return Mismatch.UNKNOWN if row is None else Mismatch.DELETED


def judge(thing: Thing, mismatch: Mismatch, earlier: Sight | None, now: datetime, rules: Rules) -> Stray:
    """The verdict on one stray before any brake: `order` is not decided here."""
    if earlier is None or earlier.verdict is Verdict.EXPLAINED:
        earlier = Sight(first_seen_at=now, quarantined_at=None, verdict=Verdict.SIGHTED, times=0)
    sight = replace(earlier, times=earlier.times + 1)
    if sight.verdict is Verdict.SWEPT:
        return Stray(thing=thing, mismatch=mismatch, sight=sight)
    # By the cloud's clock and by ours: neither alone is believed.
    old = now - thing.made_at >= rules.age and now - sight.first_seen_at >= rules.age
    if not old:
        sight = replace(sight, verdict=Verdict.SIGHTED)
    elif mismatch in {Mismatch.USED, Mismatch.RETURNED}:
        sight = replace(sight, verdict=Verdict.HELD)
    else:
        sight = replace(sight, verdict=Verdict.QUARANTINED, quarantined_at=sight.quarantined_at or now)
    return Stray(thing=thing, mismatch=mismatch, sight=sight)


def doubts_of(books: Books, past: Past, strays: Iterable[Stray]) -> dict[Doubt, str]:
    """Signs that the rows are not those the cloud's things were made for, with the numbers that tell it.

    A server that carries a serial was accepted by a database that then had a row for it, and rows are never deleted:
    one without a row here was accepted elsewhere, or here before the database was put back. What somebody was
    told of, or released, is not doubted again.
    """
    doubts: dict[Doubt, str] = {}
    unknown = [one for one in strays if one.mismatch is Mismatch.UNKNOWN]
    fresh = [
        one.thing
        for one in unknown
        if one.thing.serial and (past.told_at is None or one.sight.first_seen_at > past.told_at)
    ]
    newer = [thing for thing in fresh if thing.serial > books.newest]
    if newer:
        most = max(newer, key=lambda thing: thing.serial)
        doubts[Doubt.PUT_BACK] = (
            f"{len(newer)} servers; {most.name} has serial {most.serial}, newest here {books.newest}"
        )
    elif fresh:
        doubts[Doubt.STRANGERS] = f"{len(fresh)} servers, such as {fresh[0].name} with serial {fresh[0].serial}"
    if past.identity is not None and past.identity != books.identity:
        doubts[Doubt.OTHER_DATABASE] = f"was {past.identity}, is {books.identity}"
    if books.accepted < past.accepted:
        doubts[Doubt.ROWS_LOST] = f"{past.accepted} accepted until the last sweep, {books.accepted} rows now"
    if past.identity is None and unknown and not doubts:
        doubts[Doubt.FIRST_LOOK] = f"{len(unknown)} things, such as {unknown[0].thing.kind} {unknown[0].thing.name}"
    return doubts


def brake_of(now: Counts, past: Past, rules: Rules, *, doubted: bool, deleting: bool) -> Brake | None:
    """What keeps this sweep from deleting anything."""
    if past.held or doubted:
        return Brake.HOLD
    if any(shrank(now.rows, one.rows, rules) for one in past.counts):
        return Brake.TABLE_SHRANK
    if any(shrank(now.things[kind], one.things[kind], rules) for one in past.counts for kind in Kind):
        return Brake.LIST_SHRANK
    return None if deleting else Brake.REPORT


def shrank(now: int, before: int, rules: Rules) -> bool:
    """Whether so much is missing at once that the count is doubted rather than believed."""
    return before >= rules.telling and now < before * rules.shrink


def chosen(strays: Sequence[Stray], books: Books, past: Past, rules: Rules) -> list[Stray]:
    """The strays, with an order for those that go now: seen again after the quarantine, longest waiting first.

    What was ordered before and is still there is ordered again, and takes nobody's place.
    """
    counts, room, go = books.counts, {}, set()
    for kind in Kind:
        room[kind] = max(rules.at_least, int(counts.things[kind] * rules.share))
    for stray in sorted(strays, key=lambda one: (one.sight.quarantined_at or books.at, one.thing.id)):
        kind, sight = stray.thing.kind, stray.sight
        if sight.verdict is Verdict.SWEPT:
            go.add(stray.thing.id)
        elif sight.verdict is Verdict.QUARANTINED and room[kind] and _seen_again(stray, books.at, rules):
            room[kind] -= 1
            go.add(stray.thing.id)
    return [
        replace(one, order=True, sight=replace(one.sight, verdict=Verdict.SWEPT)) if one.thing.id in go else one
        for one in strays
    ]


def _seen_again(stray: Stray, now: datetime, rules: Rules) -> bool:
    return stray.sight.quarantined_at is not None and now - stray.sight.quarantined_at >= rules.apart
