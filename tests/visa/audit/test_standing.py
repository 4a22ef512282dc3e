"""What the doctor says of the trail."""

from datetime import timedelta

import pytest
from django.utils import timezone

from instances import doctor
from tests.visa.audit.test_chain import superuser, tell
from visa.audit import sealing, tasks
from visa.audit.models import AuditEvent

pytestmark = pytest.mark.django_db


def examined() -> doctor.Finding:
    (finding,) = doctor.examine(["Audit trail"])
    return finding


def test_a_trail_that_is_sealed_and_whole_is_well() -> None:
    tell(3)
    tasks.verify()
    sealing.seal()

    found = examined()

    assert found.ok, found.sentence
    assert found.sentence.startswith("4 rows sealed, those since yesterday are in order; all of it was verified at 2")


def test_rows_that_nobody_seals_are_told() -> None:
    tell(3)
    with superuser():
        AuditEvent.objects.filter(seal=None).update(at=timezone.now() - timedelta(minutes=9))

    assert (examined().ok, examined().sentence) == (False, "Rows have waited 9 min for their seal.")


def test_a_broken_row_is_named_and_so_is_one_that_the_last_look_at_all_found() -> None:
    tell(3)
    sealing.seal()
    with superuser():
        AuditEvent.objects.filter(seal__number=2).update(actor="mallory")
    tasks.verify()
    broken = examined()
    with superuser():
        AuditEvent.objects.filter(seal__number=2).update(actor="ada")
    long_ago = examined()

    assert (broken.ok, "row 2 of the chain" in broken.sentence) == (False, True)
    assert (long_ago.ok, long_ago.sentence) == (False, "The last look at all of it found a fault.")
