"""Every cell of `decide` and `state_of`: the tables are total, and their columns mean what they say."""

import itertools
import random
from collections.abc import Iterator

import pytest

from instances.lifecycle import DEADLINES, OFF, ON, Seen, State, Step, Wanted, decide, settled, state_of
from instances.management.commands import draw_lifecycle

YES_NO = (False, True)
FACTS = ("had_server", "overdue", "reboot", "followed", "was_ready", "discarding", "builds_left", "failed")


def cells() -> Iterator[tuple[Wanted, Seen, dict[str, bool], Step]]:
    """Every case there is: 30 pairs of wish and sight, each with every combination of the eight facts."""
    for wanted, seen, answers in itertools.product(Wanted, Seen, itertools.product(YES_NO, repeat=len(FACTS))):
        facts = dict(zip(FACTS, answers, strict=True))
        yield wanted, seen, facts, decide(wanted, seen, **facts)


def test_every_cell_has_a_step_that_keeps_the_promises() -> None:
    checked = 0
    for wanted, seen, facts, step in cells():
        case = f"{wanted} {seen} {facts} -> {step}"
        assert isinstance(step, Step), case
        if seen is Seen.UNKNOWN:
            assert step is Step.WAIT, f"silence is never a reason to act: {case}"
        if step is Step.CREATE:
            assert seen is Seen.ABSENT, f"only what is not there is made: {case}"
            assert facts["discarding"] or not facts["had_server"], f"what once was is not made again in secret: {case}"
            assert facts["builds_left"], case
            assert not facts["failed"], f"what failed for good waits for its person: {case}"
            assert wanted is not Wanted.DELETED, case
        if step is Step.DELETE:
            assert wanted is Wanted.DELETED, f"a machine is deleted only where somebody wants it: {case}"
        if step is Step.DISCARD:
            assert facts["discarding"] or not facts["was_ready"], f"nobody's work is thrown away: {case}"
            assert wanted is not Wanted.DELETED, case
        if step is Step.FORGET:
            assert (wanted, seen) == (Wanted.DELETED, Seen.ABSENT), case
        if step is Step.STOP:
            assert wanted is Wanted.STOPPED, case
            assert seen in ON, case
        if step is Step.START:
            assert wanted is Wanted.RUNNING, case
            assert seen in OFF, case
        if step is Step.REBOOT:
            assert facts["reboot"], case
            assert wanted is Wanted.RUNNING, case
        if step is Step.FOLLOW:
            assert facts["followed"], f"a wish that never came about is ordered again: {case}"
        if seen is Seen.RESIZING and wanted is not Wanted.DELETED and not facts["discarding"]:
            assert step is Step.WAIT, f"what an operator does takes as long as it takes: {case}"
        if step is Step.FAIL and seen is not Seen.FAILED:
            assert facts["overdue"] or not facts["builds_left"], case
        checked += 1
    assert checked == 3 * 10 * 2**8


@pytest.mark.parametrize(
    ("wanted", "seen", "step"),
    [
        (Wanted.RUNNING, Seen.ABSENT, Step.CREATE),
        (Wanted.RUNNING, Seen.BUILDING, Step.WAIT),
        (Wanted.RUNNING, Seen.BOOTING, Step.WAIT),
        (Wanted.RUNNING, Seen.READY, Step.REST),
        (Wanted.RUNNING, Seen.STOPPED, Step.START),
        (Wanted.RUNNING, Seen.FAILED, Step.DISCARD),
        (Wanted.RUNNING, Seen.PAUSED, Step.START),
        (Wanted.RUNNING, Seen.SHELVED, Step.START),
        (Wanted.RUNNING, Seen.RESIZING, Step.WAIT),
        (Wanted.RUNNING, Seen.UNKNOWN, Step.WAIT),
        (Wanted.STOPPED, Seen.BUILDING, Step.WAIT),
        (Wanted.STOPPED, Seen.BOOTING, Step.STOP),
        (Wanted.STOPPED, Seen.READY, Step.STOP),
        (Wanted.STOPPED, Seen.STOPPED, Step.REST),
        (Wanted.STOPPED, Seen.SHELVED, Step.REST),
        (Wanted.STOPPED, Seen.PAUSED, Step.REST),
        (Wanted.STOPPED, Seen.FAILED, Step.DISCARD),
        (Wanted.DELETED, Seen.ABSENT, Step.FORGET),
        (Wanted.DELETED, Seen.BUILDING, Step.DELETE),
        (Wanted.DELETED, Seen.FAILED, Step.DELETE),
        (Wanted.DELETED, Seen.STOPPED, Step.DELETE),
        (Wanted.DELETED, Seen.SHELVED, Step.DELETE),
        (Wanted.DELETED, Seen.RESIZING, Step.DELETE),
    ],
)
def test_the_ordinary_way(wanted: Wanted, seen: Seen, step: Step) -> None:
    assert decide(wanted, seen, had_server=seen is not Seen.ABSENT, overdue=False) is step


def test_a_server_that_was_there_and_is_not_any_more_is_gone_and_not_made_again() -> None:
    assert decide(Wanted.RUNNING, Seen.ABSENT, had_server=True, overdue=False) is Step.MARK_GONE


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        *((Wanted.RUNNING, seen) for seen in (Seen.STOPPED, Seen.PAUSED, Seen.SHELVED)),
        *((Wanted.STOPPED, seen) for seen in (Seen.BOOTING, Seen.READY)),
    ],
)
def test_what_somebody_else_did_to_a_machine_is_followed_and_not_fought(wanted: Wanted, seen: Seen) -> None:
    assert decide(wanted, seen, had_server=True, overdue=False, followed=True, was_ready=True) is Step.FOLLOW
    assert decide(wanted, seen, had_server=True, overdue=False, was_ready=True) in {Step.START, Step.STOP}


def test_a_machine_that_was_ready_is_never_thrown_away_by_itself() -> None:
    for seen, overdue in ((Seen.FAILED, False), (Seen.BUILDING, True)):
        assert decide(Wanted.RUNNING, seen, had_server=True, overdue=overdue, was_ready=True) is Step.FAIL
        assert decide(Wanted.RUNNING, seen, had_server=True, overdue=overdue, was_ready=False) is Step.DISCARD


def test_a_lost_build_is_deleted_first_and_then_made_anew_or_given_up() -> None:
    for seen in (Seen.BUILDING, Seen.FAILED, Seen.BOOTING):
        assert decide(Wanted.RUNNING, seen, had_server=True, overdue=False, discarding=True) is Step.DISCARD
    for left, step in ((True, Step.CREATE), (False, Step.FAIL)):
        made = decide(Wanted.RUNNING, Seen.ABSENT, had_server=True, overdue=False, discarding=True, builds_left=left)
        assert made is step


@pytest.mark.parametrize("seen", [Seen.ABSENT, Seen.BOOTING, Seen.STOPPED])
def test_a_step_that_takes_too_long_fails(seen: Seen) -> None:
    assert decide(Wanted.RUNNING, seen, had_server=seen is not Seen.ABSENT, overdue=True) is Step.FAIL


def test_every_sight_has_a_deadline() -> None:
    assert set(DEADLINES) == set(Seen)


def test_every_wish_settles_where_the_cloud_does_what_it_is_told() -> None:
    """Random wishes against a cloud that obeys one step at a time: nothing keeps moving for ever."""
    rng = random.Random(7)  # noqa: S311 - a repeatable walk
    obeys = {Step.CREATE: Seen.BUILDING, Step.START: Seen.BOOTING, Step.STOP: Seen.STOPPED, Step.DELETE: Seen.ABSENT}
    ripens = {Seen.BUILDING: Seen.BOOTING, Seen.BOOTING: Seen.READY}
    for _ in range(500):
        seen, had = Seen.ABSENT, False
        wanted = Wanted.RUNNING
        for _ in range(rng.randrange(6)):
            wanted = rng.choice(list(Wanted)) if wanted is not Wanted.DELETED else wanted
            for _ in range(rng.randrange(4)):
                step = decide(wanted, seen, had_server=had, overdue=False)
                seen = obeys.get(step, ripens.get(seen, seen))
                had = had or seen is not Seen.ABSENT
        for _ in range(10):
            step = decide(wanted, seen, had_server=had, overdue=False)
            seen = obeys.get(step, ripens.get(seen, seen))
            had = had or seen is not Seen.ABSENT
        assert decide(wanted, seen, had_server=had, overdue=False) in {Step.REST, Step.FORGET, Step.MARK_GONE}
        assert settled(wanted, seen) or seen is Seen.ABSENT


@pytest.mark.parametrize(
    ("wanted", "seen", "failed", "gone", "rebooting", "state"),
    [
        (Wanted.RUNNING, Seen.ABSENT, False, False, False, State.BUILDING),
        (Wanted.RUNNING, Seen.BUILDING, False, False, False, State.BUILDING),
        (Wanted.RUNNING, Seen.BOOTING, False, False, False, State.STARTING),
        (Wanted.RUNNING, Seen.READY, False, False, False, State.ACTIVE),
        (Wanted.RUNNING, Seen.STOPPED, False, False, False, State.STARTING),
        (Wanted.RUNNING, Seen.BOOTING, False, False, True, State.REBOOTING),
        (Wanted.RUNNING, Seen.READY, False, False, True, State.REBOOTING),
        (Wanted.RUNNING, Seen.FAILED, True, False, False, State.ERROR),
        (Wanted.RUNNING, Seen.ABSENT, False, True, False, State.GONE),
        (Wanted.STOPPED, Seen.READY, False, False, False, State.STOPPING),
        (Wanted.STOPPED, Seen.STOPPED, False, False, False, State.STOPPED),
        (Wanted.STOPPED, Seen.PAUSED, False, False, False, State.PAUSED),
        (Wanted.STOPPED, Seen.SHELVED, False, False, False, State.SHELVED),
        (Wanted.STOPPED, Seen.RESIZING, False, False, False, State.RESIZING),
        (Wanted.RUNNING, Seen.SHELVED, False, False, False, State.STARTING),
        (Wanted.RUNNING, Seen.RESIZING, False, False, False, State.RESIZING),
        (Wanted.DELETED, Seen.READY, True, False, True, State.DELETING),
        (Wanted.DELETED, Seen.ABSENT, False, True, False, State.DELETING),
    ],
)
def test_the_word_people_see(
    wanted: Wanted, seen: Seen, failed: bool, gone: bool, rebooting: bool, state: State
) -> None:
    assert state_of(wanted, seen, failed=failed, gone=gone, rebooting=rebooting) is state


def test_only_a_proven_deletion_is_called_deleted() -> None:
    for deleted, state in ((False, State.DELETING), (True, State.DELETED)):
        assert (
            state_of(Wanted.DELETED, Seen.ABSENT, failed=False, gone=False, rebooting=False, deleted=deleted) is state
        )


def test_a_machine_whose_turn_has_not_come_waits() -> None:
    for wanted in (Wanted.RUNNING, Wanted.STOPPED):
        assert state_of(wanted, Seen.ABSENT, failed=False, gone=False, rebooting=False, waiting=True) is State.WAITING


def test_the_picture_says_what_the_table_decides() -> None:
    assert draw_lifecycle.PAGE.read_text(encoding="utf-8") == draw_lifecycle.page(), "run manage.py draw_lifecycle"
