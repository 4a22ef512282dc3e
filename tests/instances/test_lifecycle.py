"""Every cell of `decide` and `state_of`: the tables are total, and their columns mean what they say."""

import itertools
import random

import pytest

from instances.lifecycle import DEADLINES, Seen, State, Step, Wanted, decide, settled, state_of

CELLS = list(itertools.product(Wanted, Seen, [False, True], [False, True], [False, True]))


@pytest.mark.parametrize(("wanted", "seen", "had_server", "overdue", "reboot"), CELLS)
def test_every_cell_has_a_step(wanted: Wanted, seen: Seen, had_server: bool, overdue: bool, reboot: bool) -> None:
    step = decide(wanted, seen, had_server=had_server, overdue=overdue, reboot=reboot)

    assert isinstance(step, Step)
    if seen is Seen.UNKNOWN:
        assert step is Step.WAIT, "silence is never a reason to act"
    if step is Step.CREATE:
        assert seen is Seen.ABSENT, "only what is not there is made"
        assert not had_server, "what once was is never made again in secret"
        assert wanted is not Wanted.DELETED
    if step is Step.DELETE:
        assert wanted is Wanted.DELETED, "nothing is deleted that nobody wants deleted"
    if step is Step.FORGET:
        assert (wanted, seen) == (Wanted.DELETED, Seen.ABSENT)
    if step is Step.STOP:
        assert wanted is Wanted.STOPPED
    if step is Step.REBOOT:
        assert reboot
        assert wanted is Wanted.RUNNING


@pytest.mark.parametrize(
    ("wanted", "seen", "step"),
    [
        (Wanted.RUNNING, Seen.ABSENT, Step.CREATE),
        (Wanted.RUNNING, Seen.BUILDING, Step.WAIT),
        (Wanted.RUNNING, Seen.BOOTING, Step.WAIT),
        (Wanted.RUNNING, Seen.READY, Step.REST),
        (Wanted.RUNNING, Seen.STOPPED, Step.START),
        (Wanted.RUNNING, Seen.FAILED, Step.FAIL),
        (Wanted.STOPPED, Seen.BUILDING, Step.WAIT),
        (Wanted.STOPPED, Seen.BOOTING, Step.STOP),
        (Wanted.STOPPED, Seen.READY, Step.STOP),
        (Wanted.STOPPED, Seen.STOPPED, Step.REST),
        (Wanted.DELETED, Seen.ABSENT, Step.FORGET),
        (Wanted.DELETED, Seen.BUILDING, Step.DELETE),
        (Wanted.DELETED, Seen.FAILED, Step.DELETE),
        (Wanted.DELETED, Seen.STOPPED, Step.DELETE),
    ],
)
def test_the_ordinary_way(wanted: Wanted, seen: Seen, step: Step) -> None:
    assert decide(wanted, seen, had_server=seen is not Seen.ABSENT, overdue=False) is step


def test_a_server_that_was_there_and_is_not_any_more_is_gone_and_not_made_again() -> None:
    assert decide(Wanted.RUNNING, Seen.ABSENT, had_server=True, overdue=False) is Step.MARK_GONE


@pytest.mark.parametrize("seen", [Seen.ABSENT, Seen.BUILDING, Seen.BOOTING, Seen.STOPPED])
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
