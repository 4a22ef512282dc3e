"""Writes down what was done: the only writer of `AuditEvent` and `AuditText`.

A row belongs to the transaction of the change it tells: both are there or neither. It waits for nobody: the chain is
made afterwards, by `visa.audit.sealing`.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from visa.audit import canonical, origins
from visa.audit.models import AuditEvent, AuditText

#: the action of having erased somebody's personal texts; its detail says how many (`texts`)
ERASE: Final = "audit.erase"


@dataclass(frozen=True, kw_only=True)
class Deed:
    """One thing done. `action` is a verb; `kind` and `object_id` say to what; `actor` is a person's public id.

    `reason` is a code of ours. `detail` holds ids and numbers: nothing secret, nothing personal. What a person typed
    goes into `text`, which can be erased.
    """

    action: str
    kind: str
    object_id: object
    actor: object = ""
    on_behalf_of: object = ""
    reason: str = ""
    text: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


def record(
    action: str,
    *,
    kind: str,
    object_id: object,
    actor: object = "",
    on_behalf_of: object = "",
    reason: str = "",
    text: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Writes one row, in the caller's transaction. See `Deed`. Raises ValueError for a detail that has no spelling."""
    record_all(
        [
            Deed(
                action=action,
                kind=kind,
                object_id=object_id,
                actor=actor,
                on_behalf_of=on_behalf_of,
                reason=reason,
                text=text,
                detail=detail or {},
            )
        ]
    )


def record_all(deeds: Sequence[Deed]) -> None:
    """Writes a row for each, in their order, in two statements at most. See `record`."""
    origin = origins.current()
    events, texts = [], []
    for deed in deeds:
        canonical.check(deed.detail)
        digest = ""
        if origin.source or deed.text:
            personal = _personal(origin.source, deed.text)
            texts.append(personal)
            digest = personal.digest
        events.append(
            AuditEvent(
                actor=str(deed.actor)[:64],
                on_behalf_of=str(deed.on_behalf_of)[:64],
                action=deed.action[:60],
                kind=deed.kind[:30],
                object_id=str(deed.object_id)[:120],
                reason=deed.reason[:80],
                correlation=origin.correlation,
                text_digest=digest,
                detail=dict(deed.detail),
            )
        )
    if texts:
        AuditText.objects.bulk_create(texts)
    AuditEvent.objects.bulk_create(events)


@dataclass(frozen=True, kw_only=True)
class Held:
    """The personal texts of somebody that are not erased: of how many rows, from when to when."""

    digests: tuple[str, ...]
    addresses: int
    words: int
    first: datetime | None
    last: datetime | None

    @property
    def texts(self) -> int:
        return len(self.digests)


def knows(person: str) -> bool:
    """Whether any row names this person, by their public id."""
    return AuditEvent.objects.filter(_did(person) | _met(person)).exists()


def held_of(person: str, *, about: bool = False) -> Held:
    """What is kept of the person's addresses and words; `about`: and of what others did to or for them.

    A machine's rows name its owner in their detail, by which nothing is indexed: it is a question for a command.
    """
    rows = _did(person) | _met(person) if about else _did(person)
    at = dict(AuditEvent.objects.filter(rows).exclude(text_digest="").values_list("text_digest", "at"))
    texts = AuditText.objects.filter(digest__in=list(at), erased_at=None).values_list("digest", "source", "text")
    found = [one for one in texts if one[1] or one[2]]
    times = [at[digest] for digest, _source, _text in found]
    return Held(
        digests=tuple(digest for digest, _source, _text in found),
        addresses=sum(bool(source) for _digest, source, _text in found),
        words=sum(bool(text) for _digest, _source, text in found),
        first=min(times, default=None),
        last=max(times, default=None),
    )


def _did(person: str) -> Q:
    return Q(actor=person)


def _met(person: str) -> Q:
    return Q(on_behalf_of=person) | Q(kind="person", object_id=person) | Q(detail__owner=person)


def erase(digests: Iterable[str], *, of: str, about: bool) -> int:
    """Empties these personal texts of a person for good, and tells so; how many there were. The chain stays whole."""
    with transaction.atomic():
        texts = AuditText.objects.filter(digest__in=list(digests), erased_at=None)
        erased = texts.update(salt="", source="", text="", erased_at=Now())
        if erased:
            record(ERASE, kind="person", object_id=of, detail={"texts": erased, "about": about})
    return erased


def _personal(source: str, text: str) -> AuditText:
    salt, text = secrets.token_hex(16), text[:2000].replace("\x00", "")
    return AuditText(digest=canonical.text_digest(salt, source, text), salt=salt, source=source, text=text)
