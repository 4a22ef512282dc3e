"""Worker side: bring one instance one step nearer to what is wanted.

Claim, look at the cloud, decide, take that one step, write back under the fence. Knows the cloud only as a protocol.
Called by tasks and by the `run_reconciler` process alike; calls nobody back. Any worker, at any time, can look at a
row and know what to do, so there is no chain of jobs to lose.

What is seen is `looking`, what is made `creating`, what is ended `ending`, what others did `following`; this room puts
them together.
"""

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.db import InterfaceError, OperationalError, transaction
from django.utils.translation import gettext_noop as _

from instances import (
    checkpoints,
    creating,
    ending,
    following,
    holds,
    listening,
    notices,
    pacing,
    releases,
    transitions,
)
from instances.checkpoints import checkpoint
from instances.cloud.protocol import Cloud, CloudDenied, CloudError, CloudUnreachable, Server, ServerGone
from instances.lifecycle import Seen, Step, Wanted, decide, settled
from instances.looking import look, sighted
from instances.models import Instance
from instances.outcomes import OUTAGES, NotNow, Outcome, Sight, Visit, failing, saying, why
from instances.pace import pace
from instances.transitions import Claim, Event
from quotas import allowances
from visa.audit import origins

log = logging.getLogger(__name__)

#: looks in a row that must find no server before one that existed counts as gone
LOOKS_UNTIL_GONE: Final = 2


@origins.each("step")
def advance(cloud: Cloud, instance_id: UUID | None = None, *, told: Server | None = None) -> timedelta | None:
    """Takes one due row, the given one or the longest waiting, one step further. `told` is its server, as just listed.

    Returns after how long it is due again; None where nothing was due, another worker has it, the cloud is not to be
    asked now, or this code is too old for the tables.
    """
    if releases.outdated():
        return None
    gate = pacing.gate()
    notices.tell_silent(gate.services.values())
    if not gate.clear(*pacing.FOR_ALL) and not (
        # The one call that tries them is for whoever has something to ask.
        transitions.anything_to_claim(instance_id) and gate.passes(*pacing.FOR_ALL)
    ):
        return None  # the rows stay due, and none of them fails
    claim = transitions.claim(instance_id)
    if claim is None and pacing.admit():
        claim = transitions.claim(instance_id)
    if claim is None:
        return None
    checkpoint(checkpoints.CLAIMED)
    visit = Visit(cloud=cloud, claim=claim, gate=gate, told=told)
    try:
        outcome = _visited(visit)
        outcome = outcome and ending.overdue(visit, outcome)
        written = outcome is not None and _write_back(claim, outcome)
    except (OperationalError, InterfaceError):
        raise  # the only truth is away; the lease keeps the row until it is back
    except Exception:
        # A fault of ours in one machine's step: that machine waits and says so, all others go on.
        log.exception("a step of instance %s broke", claim.instance.id)
        outcome = _broken(claim.instance)
        written = _write_back(claim, outcome)
    if outcome is None or not written:
        return None  # fenced out: forget everything, undo nothing
    if outcome.then:
        checkpoint(outcome.then)
    if claim.instance.admitted_at is not None:
        pacing.admit()  # what it took of the cloud may be free now
    return outcome.again_in


def _visited(visit: Visit) -> Outcome | None:
    """Looks, decides and takes the step. None where the claim was lost."""
    sight = look(visit)
    listening.listen(visit, sight)
    try:
        outcome = _step(visit, sight)
    except NotNow as reason:
        outcome = _later(visit.claim, sight, silent=reason.silent)
    except CloudError as error:
        outcome = _waiting(visit, sight, error)
    pacing.answered(visit.gate, visit.heard - visit.silent)
    return outcome


def _broken(instance: Instance) -> Outcome:
    """A fault of our own: this row alone waits, ever longer, and says so. What it was about to do it looks for anew."""
    changes: dict[str, object] = {"failures": instance.failures + 1}
    if _may_say(instance):
        changes |= saying("step_broke")
    return Outcome(again_in=pacing.backed_off(instance.failures), changes=changes)


def _may_say(instance: Instance) -> bool:
    """Whether why it waits may take the place of its reason: a verdict stays, and so does what a lost build is judged
    by when it is gone.
    """
    return not instance.failed and not instance.gone and instance.discarding_since is None


def _write_back(claim: Claim, outcome: Outcome) -> bool:
    """Row, story, allowance, and who is to hear of it: in one transaction. False where the claim was lost."""
    instance = claim.instance
    with transaction.atomic():
        released = transitions.release(claim, again_in=outcome.again_in, changes=outcome.changes, events=outcome.events)
        if released is None:
            return False
        if outcome.frees and released.judged:
            # The allowance was held while the machine might exist; from this commit on it cannot.
            allowances.release(instance.id)
        elif outcome.books is not None:
            allowances.settle(outcome.books, holder=instance.id, person=str(instance.owner.public_id))
        told = [event.kind for event in outcome.events if released.judged or not event.verdict]
        waits_for = outcome.changes.get("reason_code")
        if released.judged and waits_for == "cloud_full" and waits_for != instance.reason_code:
            told.append("cloud_full")
        notices.follow(instance.id, told)
    return True


def _step(visit: Visit, sight: Sight) -> Outcome | None:
    """Decides and takes the one next step."""
    claim, instance, seen = visit.claim, visit.claim.instance, sight.seen
    wanted, came_up = Wanted(instance.wanted), _came_up(sight)
    # One that came up all the same, before any deletion was accepted, is what was asked for, and may be at work.
    discarding = instance.discarding_since is not None and not came_up
    # The cloud knows of a server that it has run, also where a database put back from a copy does not.
    ran = sight.server is not None and sight.server.ran and not sight.surplus
    if ran and seen is Seen.FAILED:
        discarding = False
    if seen is Seen.UNKNOWN:
        return _unseen(instance, sight)
    if wanted is not Wanted.DELETED and instance.ready_at is not None:
        ending.surplus(visit, sight)
    if seen is Seen.ABSENT:
        early = _too_early(visit, wanted, discarding=discarding)
        if early is not None:
            return early
    elif instance.gone and wanted is Wanted.DELETED and ending.came_back(instance, sight):
        return ending.let_be(visit)
    changes, events = sighted(instance, sight, claim.now)
    if came_up:
        changes["discarding_since"] = None
    more, told, books = following.resized(instance, sight.server)
    changes |= more
    events += told
    if instance.gone and seen is not Seen.ABSENT:
        # It was missed too early: it counts again, whatever the limit is.
        books = books or following.size_of(instance)
    held_up = _held_up(claim, seen)
    if held_up:
        changes["step_since"] = claim.now
    since = claim.now if held_up or seen != instance.seen else instance.step_since
    step = decide(
        wanted,
        seen,
        had_server=instance.had_server,
        overdue=claim.now - since > pace().deadline(seen, build=instance.flavour.build_time),
        reboot=instance.reboot_wanted_at is not None and instance.reboot_sent_at is None,
        followed=instance.fulfilled_at is not None,
        was_ready=instance.ready_at is not None or ran,
        discarding=discarding,
        builds_left=ending.builds_left(instance),
        doubled=bool(sight.surplus),
        failed=instance.failed,
    )
    outcome = _take(visit, step, sight, changes, events)
    return outcome if outcome is None or books is None else replace(outcome, books=books)


def _take(visit: Visit, step: Step, sight: Sight, changes: dict[str, object], events: list[Event]) -> Outcome | None:
    claim, instance = visit.claim, visit.claim.instance
    age = claim.now - (claim.now if sight.seen != instance.seen else instance.step_since)
    match step:
        case Step.CREATE if instance.discarding_since is not None:
            return ending.discarded(visit, changes, events)
        case Step.CREATE:
            return creating.create(visit, changes)
        case Step.FAIL if sight.seen is Seen.ABSENT and instance.builds_lost:
            return ending.give_up(visit, changes)
        case Step.FAIL:
            return _fail(instance, sight, changes, events)
        case Step.DISCARD:
            return ending.discard(visit, sight, changes, events)
        case Step.START | Step.STOP | Step.REBOOT:
            again = pace().on_its_way(age)
            return _order(visit, step, sight, Outcome(again_in=again, changes=changes, events=tuple(events)))
        case Step.DELETE:
            return ending.delete(visit, sight, changes, events)
        case Step.FORGET:
            return ending.forget(visit, changes, events)
        case Step.MARK_GONE:
            return ending.gone(visit, changes, events)
        case Step.FOLLOW:
            return following.follow(instance, sight.seen, changes, events)
        case Step.REST | Step.WAIT:
            rests = step is Step.REST or settled(Wanted(instance.wanted), sight.seen)
            again = pacing.spread(pace().rest) if rests else pace().on_its_way(age)
            if not rests and sight.seen is Seen.BOOTING:
                again = pace().meanwhile
            elif not rests and sight.seen is Seen.BUILDING:
                again = pace().making
            if sight.silent:
                again = 2 * pace().meanwhile  # the watch, which asks the desktop, wakes it when it is back
            return Outcome(again_in=again, changes=changes, events=tuple(events))


def _held_up(claim: Claim, seen: Seen) -> bool:
    """Whether a silent cloud kept the next order from being given: then the step has not begun, and is not late.

    What the cloud does by itself, a build and a boot, goes on without our looking.
    """
    instance = claim.instance
    unlooked = claim.now - instance.due_at > pace().longest_wait
    return seen not in {Seen.BUILDING, Seen.BOOTING} and (unlooked or instance.reason_code in OUTAGES)


def _came_up(sight: Sight) -> bool:
    """Whether the one server there is answers, and nobody is deleting it."""
    answers = sight.seen is Seen.READY and not sight.silent and not sight.surplus
    return answers and sight.server is not None and not sight.server.deleting


def _too_early(visit: Visit, wanted: Wanted, *, discarding: bool) -> Outcome | None:
    """No server was found, and that proves nothing yet."""
    claim, instance = visit.claim, visit.claim.instance
    if instance.had_server and wanted is not Wanted.DELETED and not instance.gone:
        missed = instance.missed + 1
        if missed < LOOKS_UNTIL_GONE and not discarding:
            # A list that misses a server once proves nothing.
            return Outcome(again_in=pace().soon, changes={"missed": missed})
        hidden = _hidden(visit)
        if hidden is not None and instance.discarding_since is not None:
            # It keeps its reason, by which the next build is judged.
            return Outcome(again_in=pace().on_its_way(claim.now - instance.discarding_since))
        if hidden is None and instance.discarding_since is None:
            hidden = _vanished(visit)
        if hidden is not None:
            return _unseen(instance, hidden)
    intents = [instance.intent_at]
    if wanted is Wanted.DELETED:
        intents.append(instance.port_intent_at)
    if creating.quiet(claim.now, *intents):
        # A create that was given up may still be executed: look again, never try again.
        return Outcome(again_in=pace().on_its_way(claim.now - min(one for one in intents if one is not None)))
    return None


def _hidden(visit: Visit) -> Sight | None:
    """What is seen of a machine whose server no list shows, but which is there by its id or may be; else None.

    A part of a cloud that is away is left out of its lists without a word, with all that stands there.
    """
    server_id = visit.claim.instance.server_id
    try:
        if server_id is None or not visit.cloud.known(server_id):
            return None
    except (CloudUnreachable, CloudDenied) as error:
        visit.unanswered(error)
        return Sight(seen=Seen.UNKNOWN, detail=str(error), error=error)
    return Sight(seen=Seen.UNKNOWN, detail=f"the cloud has server {server_id}, and does not list it")


def _vanished(visit: Visit) -> Sight | None:
    """What is seen of a machine that is missing together with most others, or where nobody can tell; else None."""
    try:
        doubted = holds.vanished(visit.cloud, seen_at=visit.claim.instance.seen_at)
    except CloudError as error:
        visit.unanswered(error)
        return Sight(seen=Seen.UNKNOWN, detail=str(error), error=error)
    return Sight(seen=Seen.UNKNOWN, detail=doubted.told, doubted=doubted.held) if doubted else None


def _unseen(instance: Instance, sight: Sight) -> Outcome:
    """The cloud did not answer, or said something we do not know: never a reason to act."""
    changes: dict[str, object] = {"failures": instance.failures + 1}
    if _may_say(instance):
        silent = "held" if sight.doubted else "cloud_silent"
        changes |= saying(why(sight.error) if sight.error else silent, sight.detail)
    return Outcome(again_in=pacing.backed_off(instance.failures), changes=changes)


def _order(visit: Visit, step: Step, sight: Sight, outcome: Outcome) -> Outcome:
    """One order to an existing server. One that went away meanwhile is seen to be away at the next look."""
    if sight.server is None:
        return outcome
    cloud = visit.orders()
    try:
        match step:
            case Step.START:
                cloud.start(sight.server.id)
            case Step.STOP:
                cloud.stop(sight.server.id)
            case _:
                cloud.reboot(sight.server.id)
    except ServerGone:
        return outcome
    if step is Step.REBOOT:
        now = visit.claim.now
        sent = {"reboot_sent_at": now, "seen": Seen.BOOTING, "step_since": now, "silent_since": None}
        return replace(
            outcome, changes={**outcome.changes, **sent}, events=(*outcome.events, Event(kind="seen.booting"))
        )
    return outcome


def _fail(instance: Instance, sight: Sight, changes: dict[str, object], events: list[Event]) -> Outcome:
    if instance.failed:
        return Outcome(again_in=pacing.spread(pace().rest), changes=changes, events=tuple(events))
    if sight.seen is Seen.FAILED:
        code, words = "cloud_error", _("The cloud reports an error of this machine. Its disk is still there.")
    else:
        code, words = "too_slow", _("A step took far longer than it may. The machine may still come up.")
    if sight.seen is Seen.ABSENT:
        changes["admitted_at"] = None
    outcome = failing(changes, code, words, sight.detail)
    return replace(outcome, events=(*events, *outcome.events))


def _later(claim: Claim, sight: Sight, *, silent: bool) -> Outcome:
    """An order that was not given: keep what was seen, and look again before anything else."""
    changes, events = sighted(claim.instance, sight, claim.now)
    if silent and claim.instance.discarding_since is None:
        changes |= saying("cloud_silent")
    again = pace().breaker_probe if silent else pace().soon
    return Outcome(again_in=again, changes=changes, events=tuple(events))


def _waiting(visit: Visit, sight: Sight, error: CloudError) -> Outcome:
    """An order the cloud did not take: keep what was seen, wait, say why, and look again before anything else."""
    instance = visit.claim.instance
    log.warning("instance %s waits: %s: %s", instance.id, type(error).__name__, error)
    visit.unanswered(error)
    changes, events = sighted(instance, sight, visit.claim.now)
    changes["failures"] = instance.failures + 1
    if instance.discarding_since is None:
        changes |= saying(why(error), str(error))
    return Outcome(again_in=pacing.backed_off(instance.failures), changes=changes, events=tuple(events))
