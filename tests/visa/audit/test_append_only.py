"""The database keeps the trail: nothing in it is changed, deleted or emptied, whoever asks."""

from datetime import UTC, datetime

import pytest
from django.db import ProgrammingError, connection, transaction
from django.db.models import Model

from visa.audit import trail
from visa.audit.models import AuditEvent, AuditHead, AuditSeal, AuditText

pytestmark = pytest.mark.django_db

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
TABLES = [AuditEvent, AuditSeal, AuditHead, AuditText]


@pytest.fixture
def rows() -> None:
    """One row in each table."""
    trail.record("flavour.change", kind="flavour", object_id="small", actor="a", text="asked by mail")
    event = AuditEvent.objects.get()
    AuditSeal.objects.create(
        number=1, event=event, day=LONG_AGO.date(), sealed_at=LONG_AGO, previous="0" * 64, hash="1" * 64
    )
    AuditHead.objects.create(hour=LONG_AGO, number=1, hash="1" * 64)


def run(sql: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.mark.parametrize("model", TABLES)
def test_no_row_can_be_deleted(rows: None, model: type[Model]) -> None:
    with pytest.raises(ProgrammingError, match="append-only: DELETE"):
        run(f"DELETE FROM {model._meta.db_table}")  # noqa: S608


@pytest.mark.parametrize("model", [AuditEvent, AuditSeal, AuditHead])
def test_no_row_can_be_changed_not_even_to_what_it_is(rows: None, model: type[Model]) -> None:
    column = model._meta.pk.column

    with pytest.raises(ProgrammingError, match="append-only: UPDATE"):
        run(f"UPDATE {model._meta.db_table} SET {column} = {column}")  # noqa: S608


@pytest.mark.parametrize("model", TABLES)
def test_no_table_can_be_emptied(model: type[Model]) -> None:
    table = model._meta.db_table
    run(f"ALTER TABLE {table} ENABLE TRIGGER audit_no_truncate")  # the tests' own clearing has it off

    with pytest.raises(ProgrammingError, match="append-only: TRUNCATE"):
        run(f"TRUNCATE {table} CASCADE")


def test_an_event_has_the_databases_time_whatever_its_writer_says() -> None:
    AuditEvent.objects.create(at=LONG_AGO, action="x", kind="y", object_id="z")

    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp() - at < interval '1 minute' FROM audit_auditevent")
        assert cursor.fetchone() == (True,)


def test_a_personal_text_can_be_erased_once_and_not_rewritten(rows: None) -> None:
    digest = AuditEvent.objects.get().text_digest
    with pytest.raises(ProgrammingError, match="erased, and nothing else"), transaction.atomic():
        AuditText.objects.update(text="asked by nobody")

    erased = trail.erase([digest], of="ada", about=False)

    kept = AuditText.objects.get(digest=digest)
    assert (erased, kept.text, kept.salt, kept.source) == (1, "", "", "")
    assert kept.erased_at is not None
    assert trail.erase([digest], of="ada", about=False) == 0
