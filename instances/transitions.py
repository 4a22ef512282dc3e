"""The ONLY writer of what is wanted and what is seen of a machine.

People's wishes are written by `begin`, `wish` and `ask_reboot`. Workers `claim` a row, which gives them a lease and a
fencing number in database time, and `write` back under that fence: whoever has lost the lease is refused and forgets
everything. Each write leaves its events and announces itself after the commit.
"""

import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from instances import nudges, releases
from instances.announcements import announce
from instances.lifecycle import Seen, State, Wanted, state_of
from instances.models import Image, Instance, InstanceEvent, Release
from instances.pace import pace
from quotas.models import Flavour
from visa.accounts.models import User
from visa.audit import trail
from visa.audit.trail import Deed


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A row held by one worker: the row as it was, and the fence that every write must show.

    `now` is the database's time of the claim: a worker's own clock may be wrong.
    """

    instance: Instance
    fence: int
    now: datetime
    #: on this process's monotonic clock, from before the lease began
    began: float

    @property
    def spent(self) -> bool:
        """Whether so much of the lease is over that no further order may be given under it."""
        return time.monotonic() - self.began > pace().budget.total_seconds()


@dataclass(frozen=True, kw_only=True)
class Released:
    """How a claim ended. `judged`: its verdicts stand; a newer wish would have voided them."""

    judged: bool


@dataclass(frozen=True, kw_only=True)
class Event:
    """What to write into the machine's story beside a change."""

    kind: str
    text: str = ""
    #: it judges the wish the worker knew, and is not told where a newer one came meanwhile
    verdict: bool = False


def begin(
    *,
    instance_id: UUID,
    owner: User,
    name: str,
    dataset_id: int | None,
    flavour: Flavour,
    image: Image,
    launch_key: str,
    specification: Mapping[str, object],
) -> Instance:
    """Inserts the row of a machine that is wanted. Raises IntegrityError where key or dataset have one already."""
    instance = Instance.objects.create(
        id=instance_id,
        owner=owner,
        name=name,
        dataset_id=dataset_id,
        flavour=flavour,
        image=image,
        launch_key=launch_key,
        specification=dict(specification),
        state=State.WAITING,
        # The database's clock alone: the web's may be minutes off.
        wanted_at=Now(),
        step_since=Now(),
        due_at=Now(),
        created_at=Now(),
    )
    nudges.say()
    _tell(instance, [Event(kind="wanted.running")], by=owner)
    return instance


def wish(instance_id: UUID, wanted: Wanted, *, by: User | None, why: str = "", gone: bool = False) -> bool:
    """Writes a wish, and `why` in the person's own words. True where it was new; what is to be deleted stays so.

    A new wish is a new beginning for the step's clock and for what failed before. `gone`: only where the machine is.
    """
    # One that is gone meanwhile has given its allowance back and can only be cleared away.
    here = Q(gone=gone) if gone or wanted is not Wanted.DELETED else Q()
    with transaction.atomic():
        moved = (
            Instance.objects.filter(here, id=instance_id, deleted_at=None)
            .exclude(wanted=Wanted.DELETED)
            .exclude(wanted=wanted, failed=False)
            .update(
                wanted=wanted,
                wanted_at=Now(),
                step_since=Now(),
                due_at=Now(),
                fulfilled_at=None,
                builds_lost=0,
                alarmed_at=None,
                failures=0,
                failed=False,
                reason_code="",
                reason="",
                reason_detail="",
                reboot_wanted_at=None,
                reboot_sent_at=None,
            )
        )
        if moved != 1:
            return False  # somebody was first; their event tells the story
        instance = Instance.objects.select_related("owner").get(id=instance_id)
        _restate(instance)
        nudges.say()
        told = [Event(kind=f"wanted.{wanted}")] + ([Event(kind="reason", text=why)] if why else [])
        _tell(instance, told, by=by)
    return True


def ask_reboot(instance_id: UUID, *, by: User) -> bool:
    """Notes that a running machine is to be booted anew. True where it was not asked for already."""
    with transaction.atomic():
        moved = Instance.objects.filter(
            id=instance_id, wanted=Wanted.RUNNING, seen__in=[Seen.BOOTING, Seen.READY], reboot_wanted_at=None
        ).update(
            reboot_wanted_at=Now(),
            reboot_sent_at=None,
            step_since=Now(),
            due_at=Now(),
            # Until it is back the wish is ordered again: a boot may pass through "off".
            fulfilled_at=None,
            failed=False,
        )
        if moved != 1:
            return False
        instance = Instance.objects.select_related("owner").get(id=instance_id)
        _restate(instance)
        nudges.say()
        _tell(instance, [Event(kind="wanted.reboot")], by=by)
    return True


def claim(instance_id: UUID | None = None) -> Claim | None:
    """Takes one row that is due, the given one or the one that has waited longest; None where there is none.

    Two workers never get the same row: the second skips what the first has locked, and then finds it leased. A row
    that waits in line is nobody's until it is let in. Code that is too old for the tables gets none.
    """
    began = time.monotonic()
    which = "AND id = %(id)s" if instance_id is not None else ""
    lease = f"{pace().lease.total_seconds()} seconds"
    asked = {"id": instance_id, "known": releases.KNOWN, "lease": lease, "owner": _me()}
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM.format(which=which), asked)
        taken = cursor.fetchone()
    if taken is None:
        return None
    row_id, fence = taken
    instance = Instance.objects.select_related("owner", "flavour", "image").annotate(now=Now()).get(id=row_id)
    if instance.fence != fence:
        return None
    return Claim(instance=instance, fence=fence, now=instance.now, began=began)


def anything_due() -> bool:
    """Whether a row is due that nobody holds, be it one that waits in line."""
    return _unheld().filter(due_at__lte=Now()).exists()


def due_in() -> timedelta | None:
    """After how long the next row is due of those that nobody holds; not above zero where one is, None without rows."""
    first = _unheld().order_by("due_at").values_list("due_at", Now())[:1]
    return next((at - now for at, now in first), None)


def _unheld() -> QuerySet[Instance]:
    free = Q(lease_until=None) | Q(lease_until__lt=Now())
    return Instance.objects.filter(free, deleted_at=None)


def anything_to_claim(instance_id: UUID | None = None) -> bool:
    """Whether there is a row that `claim` would take: due, nobody's, and none that waits in line."""
    due = _unheld().filter(due_at__lte=Now()).exclude(state=State.WAITING)
    return (due if instance_id is None else due.filter(id=instance_id)).exists()


def look_again(instance_id: UUID) -> None:
    """Makes a machine due now, for whoever wants to know something of it; one that is held, when it is let go."""
    held = Q(lease_until__gt=Now())
    if Instance.objects.filter(Q(due_at__gt=Now()) | held, id=instance_id, deleted_at=None).update(due_at=Now()):
        nudges.say()


def let_in(ids: Collection[UUID]) -> list[UUID]:
    """Ends these rows' waiting in line: from now on they count among the creates in flight. Returns whose it ended."""
    with transaction.atomic(savepoint=False):
        waiting = list(
            Instance.objects.select_for_update(of=("self",))
            .select_related("owner")
            .only("id", "owner__public_id")
            .filter(id__in=ids, state=State.WAITING, deleted_at=None)
            .order_by("serial")
        )
        if not waiting:
            return []
        Instance.objects.filter(id__in=[one.id for one in waiting]).update(
            admitted_at=Now(), due_at=Now(), step_since=Now(), state=State.BUILDING
        )
        nudges.say()
        _tell_all([(one, one.owner, State.BUILDING) for one in waiting], [])
    return [one.id for one in waiting]


def write(claim: Claim, changes: Mapping[str, object], *, events: Sequence[Event] = ()) -> bool:
    """Writes what a worker saw or did, under the fence. False where the claim was lost: then nothing was written."""
    if not events and STATED.isdisjoint(changes):
        return _held(claim).update(**changes) == 1
    with transaction.atomic(savepoint=False):
        current = _held(claim).select_for_update().only(*_JUDGED).first()
        return current is not None and _put(claim, current, changes, events)


def release(
    claim: Claim, *, again_in: timedelta, changes: Mapping[str, object], events: Sequence[Event] = ()
) -> Released | None:
    """Writes the last of a claim and lets go of the row, which is due again after `again_in`.

    A wish or a question that arrived meanwhile made the row due at once; it stays due. None where the claim was lost:
    then nothing was written.
    """
    with transaction.atomic(savepoint=False):
        # Locked as long as this lasts: whose claim it is now cannot change before the commit.
        current = _held(claim).select_for_update().only(*_JUDGED).first()
        if current is None:
            return None
        wished = current.wanted_at != claim.instance.wanted_at or (
            current.reboot_wanted_at is not None and current.reboot_wanted_at != claim.instance.reboot_wanted_at
        )
        if wished:
            # The step was judged by an older wish: what was seen stands, the verdicts do not.
            changes = {key: value for key, value in changes.items() if key not in VERDICTS}
            events = [event for event in events if not event.verdict]
        if current.due_at != claim.instance.due_at:
            again_in = timedelta(0)  # it was made due meanwhile
        last = {**changes, "due_at": Now() + again_in, "lease_until": None, "lease_owner": ""}
        return Released(judged=not wished) if _put(claim, current, last, events) else None


def _held(claim: Claim) -> QuerySet[Instance]:
    """The row of a claim, while it holds."""
    return Instance.objects.filter(id=claim.instance.id, fence=claim.fence, lease_until__gt=Now())


def _put(claim: Claim, current: Instance, changes: Mapping[str, object], events: Sequence[Event]) -> bool:
    """Writes the row, which is locked as `current`, with the state that follows, and what is to be told of it."""
    state = _state_of(current, changes)
    if Instance.objects.filter(id=current.id).update(**changes, state=state) != 1:
        return False
    if events or state != current.state:
        _tell_all([(current, claim.instance.owner, state)], events)
    return True


#: takes the row in one statement; `statement_timestamp()` is Django's Now()
_CLAIM: Final = f"""
    WITH due AS (
        SELECT id FROM {Instance._meta.db_table}
        WHERE deleted_at IS NULL AND due_at <= statement_timestamp() AND state <> '{State.WAITING}'
            AND (lease_until IS NULL OR lease_until < statement_timestamp())
            AND NOT EXISTS (SELECT 1 FROM {Release._meta.db_table} WHERE number > %(known)s) {{which}}
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE {Instance._meta.db_table} AS one
    SET fence = one.fence + 1, lease_until = statement_timestamp() + %(lease)s::interval, lease_owner = %(owner)s
    FROM due WHERE one.id = due.id RETURNING one.id, one.fence
"""  # noqa: S608 - our own names

#: fields that the one word is derived from; and the word
STATED: Final = frozenset(
    {"wanted", "seen", "failed", "gone", "deleted_at", "reboot_wanted_at", "had_server", "admitted_at", "state"}
)
#: those, and when the wish was made and when it was due, which tell whether a newer one came, or a question
_JUDGED: Final = (*sorted(STATED), "wanted_at", "due_at")

#: fields that judge the wish a worker knew, not the sight it had
VERDICTS: Final = frozenset(
    {
        *("failed", "reason", "reason_code", "reason_detail", "step_since", "failures", "deleted_at", "builds_lost"),
        *("gone", "wanted", "wanted_at", "fulfilled_at", "alarmed_at"),
    }
)


def _me() -> str:
    """Who holds a lease, for whoever looks at the row: a process of a host."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}"


def _state_of(instance: Instance, changes: Mapping[str, object]) -> State:
    """The one word for a row with these changes. A time may be one that the database is yet to tell: it is not None."""

    def is_now(name: str) -> Any:
        return changes.get(name, getattr(instance, name))

    seen = Seen(is_now("seen"))
    return state_of(
        Wanted(is_now("wanted")),
        seen,
        failed=is_now("failed"),
        gone=is_now("gone"),
        deleted=is_now("deleted_at") is not None,
        rebooting=is_now("reboot_wanted_at") is not None,
        waiting=seen is Seen.ABSENT and not is_now("had_server") and is_now("admitted_at") is None,
    )


def _restate(instance: Instance) -> bool:
    """Derives the one word again; True where it changed."""
    state = _state_of(instance, {})
    if state == instance.state:
        return False
    Instance.objects.filter(id=instance.id).update(state=state)
    instance.state = state
    return True


def _tell(instance: Instance, events: Sequence[Event], *, by: User | None = None) -> None:
    _tell_all([(instance, instance.owner, State(instance.state))], events, by=by)


def _tell_all(
    changed: Sequence[tuple[Instance, User, State]], events: Sequence[Event], *, by: User | None = None
) -> None:
    """The same events of several machines, each with its owner and the state it is in now."""
    InstanceEvent.objects.bulk_create(
        InstanceEvent(instance=instance, at=Now(), kind=event.kind, text=event.text[:300], by=by)
        for instance, _owner, _state in changed
        for event in events
    )
    trail.record_all(
        [
            Deed(
                action=f"instance.{event.kind}",
                kind="instance",
                object_id=instance.id,
                actor=by.public_id if by else "",
                text=event.text if by else "",  # what a person typed
                detail={"state": state, "owner": str(owner.public_id)},
            )
            for instance, owner, state in changed
            # A state that changed without an event is a transition all the same.
            for event in events or [Event(kind=f"state.{state}")]
        ]
    )
    for instance, owner, _state in changed:
        transaction.on_commit(partial(announce, instance.id, owner.public_id))
