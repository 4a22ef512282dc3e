"""What is sealed stays as it was, or is found out: a hundred ways of tampering with it, each of them named."""

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from visa.audit import canonical, origins, sealing, tasks, trail, verification
from visa.audit.models import AuditEvent, AuditHead, AuditSeal, AuditText

ROWS = 40


def tell(count: int, *, kind: str = "instance") -> None:
    for number in range(count):
        with origins.within(correlation=f"request-{number}", source="192.0.2.7"):
            trail.record("instance.wanted.running", kind=kind, object_id=number, actor="ada", detail={"cores": number})


@pytest.fixture
def chain(db: None) -> dict[int, str]:
    """Forty rows sealed in four passes over three days, and the heads that were told of it."""
    heads = {}
    for days_ago in (3, 2, 2, 1):
        tell(ROWS // 4)
        sealing.seal()
        last = AuditSeal.objects.latest("number")
        with superuser():
            _move(last, timedelta(days=days_ago))
        last.refresh_from_db()
        heads[last.number] = last.hash
    return heads


@contextmanager
def superuser() -> Iterator[None]:
    """The database's own administrator, whom no trigger and no foreign key stops."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET session_replication_role = replica")
        try:
            yield
        finally:
            cursor.execute("SET session_replication_role = origin")


def _move(last: AuditSeal, ago: timedelta) -> None:
    """Makes the pass that ended with this seal one of a day long gone: rows, places and hashes."""
    seals = list(AuditSeal.objects.filter(sealed_at=last.sealed_at).order_by("number").select_related("event"))
    at = last.sealed_at - ago
    previous = seals[0].previous
    for seal in seals:
        AuditEvent.objects.filter(id=seal.event_id).update(at=at)
        seal.event.at = at
        seal.day, seal.sealed_at, seal.previous = at.date(), at, previous
        seal.hash = _hash(seal)
        seal.save()
        previous = seal.hash


def _hash(seal: AuditSeal) -> str:
    event = AuditEvent.objects.get(id=seal.event_id)
    return canonical.sealed(
        sealing.facts(event), number=seal.number, day=seal.day, sealed_at=seal.sealed_at, previous=seal.previous
    )


# --- a hundred alterations --------------------------------------------------------------------------------------------


def _changed(rng: random.Random) -> int:
    """A word of one row becomes another."""
    seal = AuditSeal.objects.get(number=rng.randint(1, ROWS))
    column, value = rng.choice(
        [
            ("actor", "mallory"),
            ("on_behalf_of", "eve"),
            ("action", "instance.wanted.deleted"),
            ("kind", "flavour"),
            ("object_id", "elsewhere"),
            ("reason", "because"),
            ("correlation", "another"),
            ("text_digest", ""),
            ("detail", {"cores": 4096}),
            ("at", timezone.now() + timedelta(hours=3)),
        ]
    )
    AuditEvent.objects.filter(id=seal.event_id).update(**{column: value})
    return seal.number


def _rehashed(rng: random.Random) -> int:
    """One row is changed, and its own hash made to fit."""
    number = _changed(rng)
    seal = AuditSeal.objects.get(number=number)
    AuditSeal.objects.filter(number=number).update(hash=_hash(seal))
    return number


def _unlinked(rng: random.Random) -> int:
    """A row forgets which hash it follows, or when it was sealed."""
    number = rng.randint(2, ROWS)
    changes: list[dict[str, Any]] = [{"previous": "f" * 64}, {"hash": "f" * 64}, {"sealed_at": timezone.now()}]
    change = rng.choice(changes)
    AuditSeal.objects.filter(number=number).update(**change)
    return number


def _deleted(rng: random.Random) -> int:
    """A row goes, with its place or without."""
    seal = AuditSeal.objects.get(number=rng.randint(1, ROWS))
    AuditEvent.objects.filter(id=seal.event_id).delete()
    if rng.random() < 0.5:
        AuditSeal.objects.filter(number=seal.number).delete()
    return seal.number


def _inserted(rng: random.Random) -> int:
    """A row that never was takes a place in the middle, and all after it move up; only its own hash is made to fit."""
    number = rng.randint(1, ROWS)
    after = AuditSeal.objects.get(number=number)
    for seal in AuditSeal.objects.filter(number__gte=number).order_by("-number"):
        AuditSeal.objects.filter(number=seal.number).update(number=seal.number + 1)
    event = AuditEvent.objects.create(action="grant.issue", kind="grant", object_id="x", at=after.sealed_at)
    new = AuditSeal(
        number=number, event=event, day=after.day, sealed_at=after.sealed_at, previous=after.previous, hash=""
    )
    new.hash = _hash(new)
    new.save(force_insert=True)
    return number


def _swapped(rng: random.Random) -> int:
    """Two rows change their places."""
    first, second = sorted(rng.sample(range(1, ROWS + 1), 2))
    one, other = AuditSeal.objects.get(number=first), AuditSeal.objects.get(number=second)
    AuditSeal.objects.filter(number=first).update(event_id=-1)
    AuditSeal.objects.filter(number=second).update(event_id=one.event_id)
    AuditSeal.objects.filter(number=first).update(event_id=other.event_id)
    return first


ALTERATIONS = [_changed, _rehashed, _unlinked, _deleted, _inserted, _swapped]


@pytest.mark.parametrize("seed", range(100))
def test_each_of_a_hundred_alterations_is_found_and_the_right_row_named(chain: dict[int, str], seed: int) -> None:
    assert verification.verify(heads=chain).faults == ()
    alter: Callable[[random.Random], int] = ALTERATIONS[seed % len(ALTERATIONS)]

    with superuser():
        number = alter(random.Random(seed))  # noqa: S311 - a choice that can be repeated

    first = verification.verify(heads=chain).first
    assert first is not None, f"{alter.__name__} of row {number} was not seen"
    assert first.number == number, first.words


def test_a_chain_made_anew_from_some_row_on_does_not_lead_to_the_heads_that_were_told(chain: dict[int, str]) -> None:
    with superuser():
        AuditEvent.objects.filter(seal__number=15).update(actor="mallory")
        previous = AuditSeal.objects.get(number=14).hash
        for seal in AuditSeal.objects.filter(number__gte=15).order_by("number"):
            seal.previous = previous
            seal.hash = previous = _hash(seal)
            seal.save()

    assert verification.verify(heads={}).faults == ()
    first = verification.verify(heads=chain).first
    assert first is not None
    assert (first.number, "since 11" in first.what) == (20, True)


def test_an_end_that_was_cut_off_is_missed_where_a_head_was_told(chain: dict[int, str]) -> None:
    with superuser():
        AuditSeal.objects.filter(number__gt=35).delete()

    first = verification.verify(heads=chain).first

    assert first is not None
    assert (first.number, first.what) == (36, "it is missing, and all to row 40")


def test_a_whole_day_cannot_go_missing(chain: dict[int, str]) -> None:
    day = AuditSeal.objects.get(number=15).day
    with superuser():
        AuditSeal.objects.filter(day=day).delete()

    first = verification.verify(heads={}).first

    assert first is not None
    assert (first.number, first.what) == (11, "it is missing, and all to row 30")


def test_a_row_slipped_in_with_an_old_date_is_in_no_chain(chain: dict[int, str]) -> None:
    with superuser():
        event = AuditEvent.objects.create(
            action="x", kind="y", object_id="z", at=AuditSeal.objects.get(number=40).sealed_at - timedelta(days=1)
        )

    sealing.seal()

    assert verification.verify(heads=chain).first == verification.Fault(
        number=None,
        event_id=event.id,
        what="it is in no chain: it was put in afterwards, or its transaction took more than an hour",
    )


def test_a_row_slipped_in_with_an_old_date_and_sealed_all_the_same_is_told(chain: dict[int, str]) -> None:
    tell(1)
    with superuser():
        AuditEvent.objects.filter(seal=None).update(at=AuditSeal.objects.get(number=25).sealed_at)
        last = AuditSeal.objects.get(number=40)
        forged = AuditSeal(
            number=41,
            event=AuditEvent.objects.get(seal=None),
            day=last.day,
            sealed_at=last.sealed_at + timedelta(seconds=10),
            previous=last.hash,
        )
        forged.hash = _hash(forged)
        forged.save(force_insert=True)

    first = verification.verify(heads=chain).first

    assert first is not None
    assert (first.number, "put in afterwards" in first.what) == (41, True)


def test_an_erased_text_leaves_the_chain_whole_and_a_changed_one_does_not(chain: dict[int, str]) -> None:
    digests = list(AuditEvent.objects.order_by("id").values_list("text_digest", flat=True))
    trail.erase(digests[:5], of="ada", about=False)

    assert verification.verify(heads=chain).faults == ()
    with superuser():
        AuditText.objects.filter(digest=digests[7]).update(source="198.51.100.1")
        AuditText.objects.filter(digest=digests[9]).delete()
    told = [(fault.number, fault.what) for fault in verification.verify(heads=chain).faults]
    assert told == [(8, "its personal text was changed"), (10, "its personal text is gone, not erased")]


def test_verification_since_a_day_looks_at_that_day_and_later(chain: dict[int, str]) -> None:
    with superuser():
        AuditEvent.objects.filter(seal__number=5).update(actor="mallory")
        AuditEvent.objects.filter(seal__number=33).update(actor="mallory")
    day = AuditSeal.objects.get(number=33).day

    found = verification.verify(since=day, heads=chain)

    assert [fault.number for fault in found.faults] == [33]
    assert found.rows == 11  # and the row before, which the day's first vouches for


# --- sealing ----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_empty_trail_is_in_order_and_has_no_head() -> None:
    assert sealing.keep() == 0
    assert sealing.tell_head() is None
    assert verification.verify().faults == ()


@pytest.mark.django_db
def test_rows_wait_until_they_are_sealed_and_are_told_apart_from_broken_ones() -> None:
    tell(3)

    before = verification.verify()
    sealed = sealing.seal()
    after = verification.verify()

    assert (before.rows, before.waiting, before.faults) == (0, 3, ())
    assert (sealed, after.rows, after.waiting, after.faults) == (3, 3, 0, ())


@pytest.mark.django_db
def test_rows_that_waited_for_days_are_all_sealed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(1)
    sealing.seal()
    monkeypatch.setattr(sealing, "BATCH", 3)
    with superuser():
        _move(AuditSeal.objects.get(), timedelta(days=9))
        tell(8)
        AuditEvent.objects.filter(seal=None).update(at=timezone.now() - timedelta(days=8))

    sealed = sealing.seal()

    assert sealed == 8
    assert verification.verify().faults == ()


@pytest.mark.django_db
def test_a_row_without_a_spelling_keeps_no_other_from_its_seal() -> None:
    tell(1)
    AuditEvent.objects.create(action="x", kind="y", object_id="z", detail={"huge": 2**60})
    tell(1)

    assert sealing.seal() == 2
    with pytest.raises(ValueError, match="exceeds"):
        trail.record("x", kind="y", object_id="z", detail={"huge": 2**60})


@pytest.mark.django_db(transaction=True)
def test_eight_writers_and_three_sealers_leave_one_chain_without_a_gap() -> None:
    def write(writer: int) -> None:
        for number in range(25):
            with transaction.atomic():
                trail.record("instance.seen.ready", kind="instance", object_id=f"{writer}-{number}")
        connection.close()

    def seal(_sealer: int) -> None:
        for _ in range(40):
            sealing.seal()
        connection.close()

    with ThreadPoolExecutor(11) as pool:
        for done in [*[pool.submit(write, one) for one in range(8)], *[pool.submit(seal, one) for one in range(3)]]:
            done.result()
    sealing.seal()

    found = verification.verify()
    assert (found.rows, found.number, found.waiting, found.faults) == (200, 200, 0, ())


@pytest.mark.django_db(transaction=True)
def test_what_commits_late_is_sealed_late_and_holds_nobody_up() -> None:
    begun, may_end = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    with begun, may_end, transaction.atomic():
        tell(1, kind="slow")
        begun.submit(_told_and_closed).result()
        begun.submit(_sealed_and_closed).result()
    sealing.seal()

    order = list(AuditSeal.objects.order_by("number").values_list("event__kind", "event_id"))
    assert [kind for kind, _ in order] == ["instance", "slow"]
    assert order[0][1] > order[1][1]
    assert verification.verify().faults == ()


def _told_and_closed() -> None:
    tell(1)
    connection.close()


def _sealed_and_closed() -> None:
    assert sealing.seal() == 1
    connection.close()


# --- heads and the command --------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_hours_head_is_told_once_to_the_log_and_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "ENVIRONMENT", _with_heads(str(tmp_path)))
    caplog.set_level("INFO", "visa.audit")
    AuditHead.objects.create(hour=timezone.now() - timedelta(hours=5), number=0, hash=canonical.GENESIS)
    tell(2)

    sealing.keep()
    sealing.keep()

    lines = (tmp_path / "heads.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 2]
    assert caplog.text.count("audit head: ") == 1
    with (tmp_path / "heads.jsonl").open() as file:
        assert verification.heads_in(file)[2] == AuditSeal.objects.get(number=2).hash


@pytest.mark.django_db
def test_a_directory_that_is_not_there_costs_no_seal_and_is_made_good_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ENVIRONMENT", _with_heads(str(tmp_path / "away")))
    tell(2)

    assert sealing.keep() == 2
    (tmp_path / "away").mkdir()
    sealing.keep()

    assert len((tmp_path / "away" / "heads.jsonl").read_text().splitlines()) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("torn", ['{"hour": "2026-11-22T0', "", "\n"])
def test_a_line_that_was_torn_off_costs_no_head_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    monkeypatch.setattr(settings, "ENVIRONMENT", _with_heads(str(tmp_path)))
    AuditHead.objects.create(hour=timezone.now() - timedelta(hours=5), number=0, hash=canonical.GENESIS)
    sealing.tell_head()
    tell(2)
    file = tmp_path / "heads.jsonl"
    file.write_text(torn)

    sealing.keep()
    sealing.keep()

    with file.open() as lines:
        heads = verification.heads_in(lines)
    assert heads == dict(AuditHead.objects.values_list("number", "hash"))


@pytest.mark.django_db
def test_a_line_without_its_end_is_followed_by_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ENVIRONMENT", _with_heads(str(tmp_path)))
    old = AuditHead.objects.create(hour=timezone.now() - timedelta(hours=5), number=0, hash=canonical.GENESIS)
    (tmp_path / "heads.jsonl").write_text(sealing.line_of(old))
    tell(2)

    sealing.keep()

    with (tmp_path / "heads.jsonl").open() as lines:
        assert list(verification.heads_in(lines)) == [0, 2]


def test_personal_texts_that_the_command_did_not_erase_are_told(chain: dict[int, str]) -> None:
    digests = list(AuditEvent.objects.order_by("id").values_list("text_digest", flat=True))
    trail.erase(digests[:2], of="ada", about=False)
    trail.record(trail.ERASE, kind="person", object_id="ada", detail={})
    sealing.seal()

    AuditText.objects.filter(digest__in=digests[2:5]).update(salt="", source="", text="", erased_at=timezone.now())

    (fault,) = verification.verify(heads=chain).faults
    assert fault.what == "5 personal texts are erased, and the trail tells of 2"


def test_a_text_that_is_said_to_be_erased_and_is_there_is_named(chain: dict[int, str]) -> None:
    digest = AuditEvent.objects.order_by("id").values_list("text_digest", flat=True)[6]
    trail.erase([digest], of="ada", about=False)

    with superuser():
        AuditText.objects.filter(digest=digest).update(text="forged")

    (fault,) = verification.verify(heads=chain).faults
    assert fault.what == "its personal text is said to be erased and is there"


def _with_heads(directory: str) -> object:
    return replace(settings.ENVIRONMENT, audit_heads=directory)


def test_the_command_says_that_all_is_in_order(chain: dict[int, str], tmp_path: Path) -> None:
    file = tmp_path / "heads.jsonl"
    file.write_text("".join(json.dumps({"number": number, "hash": one}) + "\n" for number, one in chain.items()))
    out = StringIO()

    call_command("verify_audit", "--heads", str(file), stdout=out)

    assert out.getvalue().strip() == "40 rows in order, to row 40 and 4 heads"


def test_the_command_names_the_first_broken_row(chain: dict[int, str], tmp_path: Path) -> None:
    with superuser():
        AuditEvent.objects.filter(seal__number__in=[9, 12]).update(actor="mallory")

    with pytest.raises(CommandError, match=r"first: row 9 of the chain .* it was changed") as refusal:
        call_command("verify_audit", stdout=StringIO())

    assert refusal.value.returncode == 1


@pytest.mark.django_db
def test_a_file_that_holds_no_heads_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "heads").write_text("not a head\n")

    with pytest.raises(CommandError, match="line 1 names no head") as refusal:
        call_command("verify_audit", "--heads", str(tmp_path / "heads"), stdout=StringIO())

    assert refusal.value.returncode == 2


def test_the_nightly_look_is_itself_in_the_trail(chain: dict[int, str], caplog: pytest.LogCaptureFixture) -> None:
    tasks.verify()
    with superuser():
        AuditEvent.objects.filter(seal__number=9).update(actor="mallory")
    tasks.verify()

    reasons = list(AuditEvent.objects.filter(action="audit.verify").order_by("id").values_list("reason", flat=True))
    assert reasons == ["in order", "broken"]
    assert "row 9 of the chain" in caplog.text
