"""The role of deploy/README.md, made by its own words: it may add to the trail, and nothing else."""

import re
from collections.abc import Iterator

import pytest
from django.db import ProgrammingError, connection, transaction

from deploy.processes import ROOT
from visa.audit import sealing, trail, verification
from visa.audit.models import AuditEvent

TEXT = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
(MAKE,) = re.findall(r"```sql\n(CREATE ROLE visa LOGIN.*?)```", TEXT, re.DOTALL)

TABLES = ["audit_auditevent", "audit_auditseal", "audit_audithead", "audit_audittext"]


def run(sql: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.fixture
def role(db: None) -> Iterator[None]:
    """The connection, as that role; it ends with the test's transaction."""
    run(re.sub(r"\bvisa\b", "visa_of_a_test", MAKE))
    run("SET LOCAL ROLE visa_of_a_test")
    yield
    run("RESET ROLE")


def test_the_platforms_role_records_seals_and_erases(role: None) -> None:
    trail.record("flavour.change", kind="flavour", object_id="small", text="asked by mail")
    sealing.seal()
    sealing.tell_head()
    assert trail.erase([AuditEvent.objects.get().text_digest], of="ada", about=False) == 1

    assert (verification.verify().rows, verification.verify().faults) == (1, ())


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "order",
    [
        "DELETE FROM {}",
        "TRUNCATE {}",
        "ALTER TABLE {} DISABLE TRIGGER ALL",
        "DROP TRIGGER audit_no_change ON {}",
        "DROP TABLE {} CASCADE",
    ],
)
def test_the_platforms_role_can_neither_change_the_trail_nor_take_its_triggers_off(
    role: None, order: str, table: str
) -> None:
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
        run(order.format(table))


@pytest.mark.parametrize("order", ["SET session_replication_role = replica", "UPDATE audit_auditevent SET actor = 'x'"])
def test_the_platforms_role_has_no_way_around(role: None, order: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        run(order)
