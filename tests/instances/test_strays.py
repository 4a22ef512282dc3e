"""What counts as a stray and when it may go: every rule of the sweeper as a table, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as some

from instances import strays
from instances.strays import (
    Books,
    Brake,
    Counts,
    Doubt,
    Kind,
    Mismatch,
    Past,
    Row,
    Rules,
    Sight,
    Thing,
    Verdict,
)

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
RULES = Rules(age=timedelta(minutes=10), apart=timedelta(minutes=5))
LONG_AGO = NOW - timedelta(hours=2)
DELETED, FRESH = Row(live=False), Row(live=True)


def thing(kind: Kind = Kind.SERVER, *, name: str = "one", of: UUID | None = None, **more: object) -> Thing:
    """Something old in the cloud."""
    made = {"made_at": LONG_AGO, **more}
    return Thing(kind=kind, id=f"{kind}-{name}", name=name, instance_id=of or uuid4(), **made)  # type: ignore[arg-type]


def books(*things: Thing, rows: dict[UUID, Row] | None = None, **more: object) -> Books:
    usual: dict[str, object] = {"at": NOW, "accepted": 100, "newest": 500, "identity": "same", **more}
    return Books(things=things, rows=rows or {}, **usual)  # type: ignore[arg-type]


def past(**more: object) -> Past:
    usual: dict[str, object] = {
        "sights": {},
        "counts": (),
        "accepted": 100,
        "told_at": None,
        "held": False,
        "identity": "same",
    }
    return Past(**{**usual, **more})  # type: ignore[arg-type]


def seen(minutes: float, *, quarantined: float | None = None, verdict: Verdict = Verdict.SIGHTED) -> Sight:
    """Seen first so many minutes ago, and in quarantine since then."""
    since = None if quarantined is None else NOW - timedelta(minutes=quarantined)
    return Sight(first_seen_at=NOW - timedelta(minutes=minutes), quarantined_at=since, verdict=verdict, times=3)


def due(*, verdict: Verdict = Verdict.QUARANTINED) -> Sight:
    return seen(20, quarantined=6, verdict=verdict)


def remembered(*things: Thing, sight: Sight | None = None) -> dict[tuple[Kind, str], Sight]:
    return {(one.kind, one.id): sight or due() for one in things}


A = UUID(int=1)


@pytest.mark.parametrize(
    ("case", "row", "others", "expected"),
    [
        (thing(of=A), None, (), Mismatch.UNKNOWN),
        (thing(of=A), DELETED, (), Mismatch.DELETED),
        # somebody cleared away what seemed to be gone
        (thing(of=A), replace(DELETED, gone=True), (), Mismatch.RETURNED),
        (thing(Kind.VOLUME, of=A), replace(DELETED, gone=True), (), Mismatch.RETURNED),
        (thing(Kind.PORT, of=A), replace(DELETED, gone=True), (), Mismatch.DELETED),
        (thing(of=A), FRESH, (), None),
        (thing(of=A), replace(FRESH, server_id="server-one"), (), None),
        # the named one is not there: this may be the one that comes after it
        (thing(of=A), replace(FRESH, server_id="server-other"), (), None),
        (thing(of=A), replace(FRESH, server_id="server-other"), (thing(name="other", of=A),), Mismatch.SURPLUS),
        (thing(Kind.PORT, of=A), None, (), Mismatch.UNKNOWN),
        (thing(Kind.PORT, of=A), DELETED, (), Mismatch.DELETED),
        (thing(Kind.PORT, of=A), FRESH, (), None),
        (thing(Kind.PORT, of=A), replace(FRESH, port_id="port-one"), (), None),
        (thing(Kind.PORT, of=A), replace(FRESH, port_id="port-other"), (), None),
        (
            thing(Kind.PORT, of=A),
            replace(FRESH, port_id="port-other"),
            (thing(Kind.PORT, name="other", of=A),),
            Mismatch.SURPLUS,
        ),
        # in use by a server of ours, whatever that one is itself
        (thing(Kind.PORT, of=A, used_by="server-x"), None, (thing(name="x"),), None),
        (thing(Kind.PORT, of=A, used_by="server-x"), DELETED, (), Mismatch.USED),
        (
            thing(Kind.PORT, of=A, used_by="server-x"),
            replace(FRESH, port_id="port-other"),
            (thing(Kind.PORT, name="other", of=A),),
            Mismatch.USED,
        ),
        (thing(Kind.VOLUME, of=A), None, (), Mismatch.UNKNOWN),
        (thing(Kind.VOLUME, of=A), DELETED, (), Mismatch.DELETED),
        (thing(Kind.VOLUME, of=A), FRESH, (), None),
        (thing(Kind.VOLUME, of=A, used_by="server-x"), None, (thing(name="x"),), None),
        (thing(Kind.VOLUME, of=A, used_by="server-x"), None, (), Mismatch.USED),
    ],
)
def test_what_no_row_explains_is_a_stray(
    case: Thing, row: Row | None, others: tuple[Thing, ...], expected: Mismatch | None
) -> None:
    rows = {} if row is None else {A: row}

    found = {one.id: why for one, why in strays.mismatches(books(case, *others, rows=rows))}

    assert found.get(case.id) == expected


@pytest.mark.parametrize(
    ("made", "sight", "verdict", "ordered"),
    [
        (120, None, Verdict.SIGHTED, False),
        (120, seen(9.9), Verdict.SIGHTED, False),
        (9.9, seen(60), Verdict.SIGHTED, False),
        # old by both clocks: judged, and not deleted by the sweep that judges
        (10, seen(10), Verdict.QUARANTINED, False),
        (600, seen(600), Verdict.QUARANTINED, False),
        (60, seen(14.9, quarantined=4.9, verdict=Verdict.QUARANTINED), Verdict.QUARANTINED, False),
        (60, seen(15, quarantined=5, verdict=Verdict.QUARANTINED), Verdict.SWEPT, True),
        # a hold that was released: the quarantine is over
        (60, seen(60, quarantined=50, verdict=Verdict.HELD), Verdict.SWEPT, True),
        # it went, and came again: a new sight
        (60, seen(60, quarantined=50, verdict=Verdict.EXPLAINED), Verdict.SIGHTED, False),
        # ordered before, and still there
        (60, seen(60, quarantined=50, verdict=Verdict.SWEPT), Verdict.SWEPT, True),
    ],
)
def test_a_stray_goes_only_after_two_sights_apart(
    made: float, sight: Sight | None, verdict: Verdict, ordered: bool
) -> None:
    stray = thing(made_at=NOW - timedelta(minutes=made))
    before = past(sights=remembered(stray, sight=sight) if sight else {})

    (judged,) = strays.assess(books(stray), before, RULES, deleting=True).strays

    assert (judged.sight.verdict, judged.order) == (verdict, ordered)


def test_what_a_stranger_uses_waits_for_a_person() -> None:
    port = thing(Kind.PORT, used_by="server-of-nobody")

    (judged,) = strays.assess(books(port), past(sights=remembered(port)), RULES, deleting=True).strays

    assert (judged.sight.verdict, judged.order) == (Verdict.HELD, False)


@given(strays_there=some.integers(0, 60), others=some.integers(0, 400), kind=some.sampled_from(list(Kind)))
def test_no_sweep_deletes_more_than_one_in_twenty_or_one(strays_there: int, others: int, kind: Kind) -> None:
    lost = [thing(kind, name=f"lost-{n}") for n in range(strays_there)]
    kept = [thing(kind, name=f"kept-{n}", of=UUID(int=n + 1)) for n in range(others)]
    rows = {one.instance_id: FRESH for one in kept}

    found = strays.assess(books(*lost, *kept, rows=rows), past(sights=remembered(*lost)), RULES, deleting=True)

    most = max(1, (strays_there + others) // 20)
    assert len(found.orders) == min(strays_there, most)
    assert {one.thing.id for one in found.orders} <= {one.id for one in lost}


def test_those_that_wait_longest_go_first_and_what_hangs_takes_nobodys_place() -> None:
    hanging, late, early = thing(name="hanging"), thing(name="a-late"), thing(name="b-early")
    sights = {
        **remembered(hanging, sight=seen(90, quarantined=80, verdict=Verdict.SWEPT)),
        **remembered(late, sight=seen(20, quarantined=6, verdict=Verdict.QUARANTINED)),
        **remembered(early, sight=seen(20, quarantined=7, verdict=Verdict.QUARANTINED)),
    }

    found = strays.assess(books(hanging, late, early), past(sights=sights), RULES, deleting=True)

    assert {one.thing.name for one in found.orders} == {"hanging", "b-early"}


def counts(rows: int = 10, servers: int = 10, ports: int = 10) -> Counts:
    return Counts(rows=rows, accepted=100, things={Kind.SERVER: servers, Kind.PORT: ports, Kind.VOLUME: 0})


@pytest.mark.parametrize(
    ("before", "now", "more", "brake"),
    [
        (counts(), counts(), {}, None),
        (counts(), counts(rows=5), {}, None),
        (counts(), counts(rows=4), {}, Brake.TABLE_SHRANK),
        (counts(), counts(servers=4), {}, Brake.LIST_SHRANK),
        (counts(), counts(ports=4), {}, Brake.LIST_SHRANK),
        # so few tell nothing
        (counts(rows=3, servers=3, ports=3), counts(rows=0, servers=0, ports=0), {}, None),
        (counts(), counts(), {"deleting": False}, Brake.REPORT),
        (counts(), counts(), {"doubted": True}, Brake.HOLD),
        (counts(), counts(rows=1), {"doubted": True}, Brake.HOLD),
    ],
)
def test_each_brake(before: Counts, now: Counts, more: dict[str, bool], brake: Brake | None) -> None:
    options = {"doubted": False, "deleting": True, **more}

    assert strays.brake_of(now, past(counts=(counts(), before) if brake else (before,)), RULES, **options) is brake


@pytest.mark.parametrize("options", [{"held": True}, {"counts": (counts(servers=90),)}])
def test_under_a_brake_nothing_goes_and_what_was_due_is_held(options: dict[str, object]) -> None:
    gone, young, hanging = thing(name="gone"), thing(name="young"), thing(name="hanging")
    sights = {
        **remembered(gone),
        **remembered(young, sight=seen(1)),
        **remembered(hanging, sight=due(verdict=Verdict.SWEPT)),
    }

    found = strays.assess(books(gone, young, hanging), past(sights=sights, **options), RULES, deleting=True)

    assert not found.orders
    verdicts = {one.thing.name: one.sight.verdict for one in found.strays}
    assert verdicts == {"gone": Verdict.HELD, "young": Verdict.SIGHTED, "hanging": Verdict.SWEPT}


@pytest.mark.parametrize(
    ("looked", "before", "doubt"),
    [
        (books(thing(serial=501)), past(), Doubt.PUT_BACK),
        (books(thing(serial=500)), past(), Doubt.STRANGERS),
        (books(thing(serial=0)), past(), None),
        # first seen after somebody was told of others
        (books(thing(serial=501)), past(told_at=NOW - timedelta(minutes=1)), Doubt.PUT_BACK),
        (books(), past(identity="another"), Doubt.OTHER_DATABASE),
        (books(accepted=99), past(), Doubt.ROWS_LOST),
        (books(accepted=101), past(), None),
        (books(thing(serial=0)), past(identity=None), Doubt.FIRST_LOOK),
        (books(thing(Kind.PORT)), past(identity=None), Doubt.FIRST_LOOK),
        (books(), past(identity=None), None),
        (books(thing(of=A), rows={A: DELETED}), past(identity=None), None),
        (books(thing(of=A, serial=7), rows={A: DELETED}), past(), None),
    ],
)
def test_each_sign_that_this_is_another_database(looked: Books, before: Past, doubt: Doubt | None) -> None:
    found = strays.assess(looked, before, RULES, deleting=True)

    assert list(found.doubts) == ([doubt] if doubt else [])
    assert found.brake is (Brake.HOLD if doubt else None)
    assert all(found.doubts.values())


def test_what_somebody_was_told_of_is_not_doubted_again() -> None:
    newer = thing(serial=900)
    before = past(sights=remembered(newer), told_at=NOW - timedelta(minutes=1))

    found = strays.assess(books(newer), before, RULES, deleting=True)

    assert not found.doubts
    assert [one.thing.id for one in found.orders] == [newer.id]


def test_every_word_has_its_sentence() -> None:
    assert set(strays.MISMATCHES) == set(Mismatch)
    assert set(strays.BRAKES) == set(Brake)
    assert set(strays.DOUBTS) == set(Doubt)
