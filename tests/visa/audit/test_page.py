"""The trail as administrators read it: newest first, by person, object and day, at the same cost for any number."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from visa.accounts.models import User
from visa.audit import origins, pages, sealing, trail
from visa.audit.models import AuditEvent
from visa.audit.pages import Wanted

pytestmark = pytest.mark.django_db


def tell(count: int, *, actor: object = "ada", thing: str = "m") -> None:
    for number in range(count):
        with origins.within(correlation=f"request-{number}", source="192.0.2.7"):
            trail.record("instance.wanted.stopped", kind="instance", object_id=f"{thing}{number}", actor=actor)


@pytest.fixture
def browser(administrator: User, browse_as: Callable[[User], Client]) -> Client:
    return browse_as(administrator)


def test_a_row_says_who_did_what_to_which_thing_from_where_and_why(browser: Client, owner: User) -> None:
    with origins.within(correlation="request-7", source="192.0.2.7"):
        trail.record(
            "limit.change",
            kind="limit",
            object_id="9",
            actor=owner.public_id,
            reason="asked for",
            text="<b>the workshop</b>",
            detail={"cores": 8},
        )
    sealing.seal()

    words = browser.get("/audit/").content.decode()

    for word in ("limit.change", ">9</a>", owner.name, "asked for", "request-7", "192.0.2.7", "#1"):
        assert word in words
    assert "&lt;b&gt;the workshop&lt;/b&gt;" in words
    assert "not sealed yet" not in words


def test_an_erased_text_is_not_shown_any_more(browser: Client) -> None:
    trail.record("limit.change", kind="limit", object_id="9", text="the workshop")
    trail.erase([AuditEvent.objects.get().text_digest], of="ada", about=False)

    words = browser.get("/audit/").content.decode()

    assert "the workshop" not in words
    assert "personal text erased" in words


def test_pages_follow_each_other_without_a_gap_whatever_is_added_meanwhile(browser: Client) -> None:
    tell(2 * pages.PAGE + 5)
    ids = list(AuditEvent.objects.order_by("-id").values_list("id", flat=True))

    first = pages.page(Wanted())
    tell(3)
    second = pages.page(Wanted(before=first.older))
    third = pages.page(Wanted(before=second.older))

    assert [row.id for one in (first, second, third) for row in one.rows] == ids
    assert third.older is None
    assert "Older" in browser.get("/audit/").content.decode()
    assert "Newest" in browser.get(f"/audit/?before={second.older}").content.decode()


def test_rows_are_found_by_person_whether_they_acted_or_were_acted_on(owner: User, stranger: User) -> None:
    tell(2, actor=owner.public_id)
    trail.record("grant.revoke", kind="instance", object_id="m", on_behalf_of=owner.public_id)
    trail.record("roles.change", kind="person", object_id=owner.public_id)
    tell(3, actor=stranger.public_id)

    found = pages.page(Wanted(person=str(owner.public_id)))

    assert [row.action for row in found.rows] == [
        "roles.change",
        "grant.revoke",
        "instance.wanted.stopped",
        "instance.wanted.stopped",
    ]
    assert found.rows[0].object_name == owner.name
    assert found.rows[2].actor_name == owner.name


def test_rows_are_found_by_object_and_by_day() -> None:
    tell(3)
    today = datetime.now(UTC).date()

    assert [row.object_id for row in pages.page(Wanted(thing="m1")).rows] == ["m1"]
    assert len(pages.page(Wanted(day=today)).rows) == 3
    assert pages.page(Wanted(day=today - timedelta(days=1))).rows == ()


def test_a_page_costs_the_same_for_one_row_and_for_many(browser: Client, owner: User, stranger: User) -> None:
    tell(1, actor=owner.public_id)
    browser.get("/audit/")
    with CaptureQueriesContext(connection) as few:
        browser.get("/audit/")
    for person in (owner, stranger):
        tell(pages.PAGE, actor=person.public_id)
    sealing.seal()

    with CaptureQueriesContext(connection) as many:
        browser.get("/audit/")

    assert len(many) == len(few)


@pytest.mark.parametrize(
    "query", ["day=yesterday", "before=0", "before=x", f"before={2**63}", "day=2026-13-01", "day=9999-12-31"]
)
def test_what_is_no_day_and_no_place_is_refused(browser: Client, query: str) -> None:
    assert browser.get(f"/audit/?{query}").status_code == 400


def test_any_other_text_finds_nothing_and_breaks_nothing(browser: Client) -> None:
    tell(1)

    answer = browser.get("/audit/", {"person": "\x00'; drop", "thing": "x" * 5000})

    assert answer.status_code == 200
    assert "Nothing was recorded that fits." in answer.content.decode()
