"""The way into the outbox: `outbox.put`, inside the transaction of the change that causes it."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial

from django.db import transaction
from django.db.models import Max
from django.db.models.functions import Now

from visa.outbox import tasks
from visa.outbox.models import Outbox

#: longer than any id
LONGEST = 100


def put(*, key: str, kind: str, payload: Mapping[str, str | int]) -> None:
    """Puts one thing into the outbox; it leaves when the caller's transaction is committed, and only then.

    The same key again changes nothing, as long as the first is remembered (`sending.REMEMBERED` after it was sent). A
    payload is ids: short texts and numbers. Raises ValueError for another.
    """
    if not all(isinstance(value, str | int) and len(str(value)) <= LONGEST for value in payload.values()):
        raise ValueError(f"the payload of {key} holds more than ids")
    row = Outbox(key=key, kind=kind, payload=dict(payload), made_at=Now(), due_at=Now())
    Outbox.objects.bulk_create([row], ignore_conflicts=True)
    # Robust: a nudge that fails is no trouble of whoever put something.
    transaction.on_commit(partial(tasks.nudge), robust=True)


def has(key: str) -> bool:
    """Whether something was put under this key, and is remembered."""
    return Outbox.objects.filter(key=key).exists()


def last(beginning: str, *, kind: str) -> datetime | None:
    """When something of this kind was last put under a key that begins so, and is remembered."""
    put_so = Outbox.objects.filter(kind=kind, key__startswith=beginning)
    found: datetime | None = put_so.aggregate(at=Max("made_at"))["at"]
    return found
