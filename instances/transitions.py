"""The ONLY writer of what is wanted and what is seen of a machine.

People's wishes are written by `begin`, `wish` and `ask_reboot`. Workers `claim` a row, which gives them a lease and a
fencing number in database time, and `write` back under that fence: whoever has lost the lease is refused and forgets
everything. Each write leaves its events and announces itself after the commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone

from instances.announcements import announce
from instances.lifecycle import Seen, Wanted, state_of
from instances.models import Image, Instance, InstanceEvent
from quotas.models import Flavour
from visa.accounts.models import User
from visa.audit import trail
from visa.audit.trail import Deed

#: how long a claim holds; all calls of one claim share half of it
LEASE = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A row held by one worker: the row as it was, and the fence that every write must show."""

    instance: Instance
    fence: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """What to write into the machine's story beside a change."""

    kind: str
    text: str = ""


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
    now = timezone.now()
    instance = Instance.objects.create(
        id=instance_id,
        owner=owner,
        name=name,
        dataset_id=dataset_id,
        flavour=flavour,
        image=image,
        launch_key=launch_key,
        specification=dict(specification),
        wanted_at=now,
        step_since=now,
        due_at=now,
        created_at=now,
    )
    _tell(instance, [Event(kind="wanted.running")], by=owner)
    return instance


def wish(instance_id: UUID, wanted: Wanted, *, by: User | None) -> bool:
    """Writes a wish. True where it was new; a machine that is to be deleted stays so.

    A new wish is a new beginning for the step's clock and for what failed before.
    """
    now = timezone.now()
    with transaction.atomic():
        moved = (
            Instance.objects.filter(id=instance_id, deleted_at=None)
            .exclude(wanted=Wanted.DELETED)
            .exclude(wanted=wanted, failed=False)
            .update(
                wanted=wanted,
                wanted_at=now,
                step_since=now,
                due_at=Now(),
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
        _tell(instance, [Event(kind=f"wanted.{wanted}")], by=by)
    return True


def ask_reboot(instance_id: UUID, *, by: User) -> bool:
    """Notes that a running machine is to be booted anew. True where it was not asked for already."""
    now = timezone.now()
    with transaction.atomic():
        moved = Instance.objects.filter(
            id=instance_id, wanted=Wanted.RUNNING, seen__in=[Seen.BOOTING, Seen.READY], reboot_wanted_at=None
        ).update(reboot_wanted_at=now, reboot_sent_at=None, step_since=now, due_at=Now(), failed=False)
        if moved != 1:
            return False
        instance = Instance.objects.select_related("owner").get(id=instance_id)
        _restate(instance)
        _tell(instance, [Event(kind="wanted.reboot")], by=by)
    return True


def claim(instance_id: UUID | None = None) -> Claim | None:
    """Takes one row that is due, the given one or the one that has waited longest; None where there is none.

    Two workers never get the same row: the second skips what the first has locked, and then finds it leased.
    """
    due = Instance.objects.filter(Q(lease_until=None) | Q(lease_until__lt=Now()), deleted_at=None, due_at__lte=Now())
    if instance_id is not None:
        due = due.filter(id=instance_id)
    with transaction.atomic():
        row = due.select_for_update(skip_locked=True, of=("self",)).order_by("due_at").first()
        if row is None:
            return None
        Instance.objects.filter(id=row.id).update(fence=F("fence") + 1, lease_until=Now() + LEASE)
    instance = Instance.objects.select_related("owner", "flavour", "image").get(id=row.id)
    return Claim(instance=instance, fence=instance.fence) if instance.fence == row.fence + 1 else None


def write(claim: Claim, changes: Mapping[str, object], *, events: Sequence[Event] = ()) -> bool:
    """Writes what a worker saw or did, under the fence. False where the claim was lost: then nothing was written."""
    with transaction.atomic():
        moved = Instance.objects.filter(id=claim.instance.id, fence=claim.fence, lease_until__gt=Now()).update(
            **changes
        )
        if moved != 1:
            return False
        instance = Instance.objects.select_related("owner").get(id=claim.instance.id)
        changed = _restate(instance)
        if events or changed:
            _tell(instance, events)
    return True


def release(claim: Claim, *, again_in: timedelta, changes: Mapping[str, object], events: Sequence[Event] = ()) -> bool:
    """Writes the last of a claim and lets go of the row, which is due again after `again_in`.

    A wish that arrived meanwhile made the row due at once; it stays due.
    """
    with transaction.atomic():
        current = Instance.objects.select_for_update().filter(id=claim.instance.id).first()
        if current is None:
            return False
        wished = current.wanted_at != claim.instance.wanted_at or (
            current.reboot_wanted_at is not None and current.reboot_wanted_at != claim.instance.reboot_wanted_at
        )
        if wished:
            # The step was judged by an older wish: what was seen stands, the verdicts do not.
            changes = {key: value for key, value in changes.items() if key not in VERDICTS}
            again_in = timedelta(0)
        return write(claim, {**changes, "due_at": Now() + again_in, "lease_until": None}, events=events)


#: fields that judge the wish a worker knew, not the sight it had
VERDICTS = frozenset({"failed", "reason", "reason_code", "reason_detail", "step_since", "failures", "deleted_at"})


def _restate(instance: Instance) -> bool:
    """Derives the one word again; True where it changed."""
    state = state_of(
        Wanted(instance.wanted),
        Seen(instance.seen),
        failed=instance.failed,
        gone=instance.gone,
        deleted=instance.deleted_at is not None,
        rebooting=instance.reboot_wanted_at is not None,
    )
    if state == instance.state:
        return False
    Instance.objects.filter(id=instance.id).update(state=state)
    instance.state = state
    return True


def _tell(instance: Instance, events: Sequence[Event], *, by: User | None = None) -> None:
    now = timezone.now()
    InstanceEvent.objects.bulk_create(
        InstanceEvent(instance=instance, at=now, kind=event.kind, text=event.text[:300], by=by) for event in events
    )
    # A state that changed without an event is a transition all the same.
    kinds = [event.kind for event in events] or [f"state.{instance.state}"]
    detail = {"state": instance.state, "owner": str(instance.owner.public_id)}
    actor = by.public_id if by else ""
    trail.record_all(
        [
            Deed(action=f"instance.{kind}", kind="instance", object_id=instance.id, actor=actor, detail=detail)
            for kind in kinds
        ]
    )
    transaction.on_commit(partial(announce, instance.id, instance.owner.public_id))
