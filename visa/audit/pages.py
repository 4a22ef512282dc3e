"""What the trail shows of itself: a page of rows, newest first, by person, object and day. Reads alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import Q

from visa.audit import names
from visa.audit.models import AuditEvent, AuditText

#: rows of one page
PAGE = 50


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which rows: a person's public id, an object's id, a day (UTC), and below which row. Empty: all."""

    person: str = ""
    thing: str = ""
    day: date | None = None
    before: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row as it is read. `number` is its place in the chain, None while it waits for one."""

    id: int
    at: datetime
    number: int | None
    actor: str
    actor_name: str
    behalf: str
    behalf_name: str
    action: str
    kind: str
    object_id: str
    object_name: str
    reason: str
    text: str
    erased: bool
    source: str
    correlation: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Rows, and the cursor of the next page; None at the end."""

    rows: tuple[Row, ...]
    older: int | None


def page(wanted: Wanted) -> Page:
    """One page, in three queries whatever is on it."""
    found = AuditEvent.objects.select_related("seal").order_by("-id")
    if wanted.person:
        person = Q(actor=wanted.person) | Q(on_behalf_of=wanted.person) | Q(kind="person", object_id=wanted.person)
        found = found.filter(person)
    if wanted.thing:
        found = found.filter(object_id=wanted.thing)
    if wanted.day:
        begins = datetime(wanted.day.year, wanted.day.month, wanted.day.day, tzinfo=UTC)
        # by time and not by id alone, so that an old day is found by the index of times
        found = found.filter(at__gte=begins, at__lt=begins + timedelta(days=1)).order_by("-at", "-id")
    if wanted.before is not None:
        found = found.filter(id__lt=wanted.before)
    events = list(found[: PAGE + 1])
    more, events = len(events) > PAGE, events[:PAGE]
    texts = AuditText.objects.in_bulk([one.text_digest for one in events if one.text_digest])
    people = {one.actor for one in events} | {one.on_behalf_of for one in events}
    people |= {one.object_id for one in events if one.kind == "person"}
    known = names.of("person", people - {""})
    return Page(
        rows=tuple(_row(one, texts.get(one.text_digest), known) for one in events),
        older=events[-1].id if more else None,
    )


def _row(event: AuditEvent, text: AuditText | None, known: Mapping[str, str]) -> Row:
    seal = getattr(event, "seal", None)
    return Row(
        id=event.id,
        at=event.at,
        number=seal.number if seal else None,
        actor=event.actor,
        actor_name=known.get(event.actor, event.actor),
        behalf=event.on_behalf_of,
        behalf_name=known.get(event.on_behalf_of, event.on_behalf_of),
        action=event.action,
        kind=event.kind,
        object_id=event.object_id,
        object_name=known.get(event.object_id, event.object_id) if event.kind == "person" else event.object_id,
        reason=event.reason,
        text=text.text if text else "",
        erased=text is not None and text.erased_at is not None,
        source=text.source if text else "",
        correlation=event.correlation,
        detail=event.detail,
    )
