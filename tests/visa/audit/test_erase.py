"""`manage.py erase_audit`: a person's addresses and words go, what was done stays, and nobody else's is touched."""

from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from tests import factories
from visa.accounts.models import User
from visa.audit import origins, sealing, trail, verification
from visa.audit.models import AuditEvent, AuditText
from visa.audit.trail import Deed

pytestmark = pytest.mark.django_db

ADDRESS, ELSEWHERE = "192.0.2.7", "198.51.100.9"


def command(*options: str) -> str:
    out = StringIO()
    call_command("erase_audit", *options, stdout=out)
    return out.getvalue()


@pytest.fixture
def ada() -> User:
    return factories.make_user(subject="ada", name="Ada Lovelace")


@pytest.fixture
def told(ada: User, administrator: User) -> dict[str, str]:
    """What was done, by a word for each; and which text goes with it. All of it is sealed."""
    me, them, another = str(ada.public_id), str(administrator.public_id), str(uuid4())
    done = {
        "signed in": Deed(action="sign_in", kind="person", object_id=me, actor=me),
        "wrote": Deed(action="instance.reason", kind="instance", object_id="1", actor=me, text="My own words"),
        "was closed": Deed(action="person.change", kind="person", object_id=me, actor=them, text="Ada left"),
        "was deleted": Deed(
            action="instance.reason", kind="instance", object_id="2", actor=them, text="Left", detail={"owner": me}
        ),
        "was helped": Deed(action="grant.issue", kind="grant", object_id="3", actor=them, on_behalf_of=me),
        "is another's": Deed(action="sign_in", kind="person", object_id=another, actor=another, text="Bob"),
    }
    found = {}
    for word, deed in done.items():
        with origins.within(correlation="request", source=ADDRESS if deed.actor == me else ELSEWHERE):
            trail.record_all([deed])
        found[word] = AuditEvent.objects.latest("id").text_digest
    trail.record("state", kind="instance", object_id="4", actor=me)  # a step of a worker's: nothing personal
    sealing.seal()
    return found


def erased(told: dict[str, str]) -> set[str]:
    gone = set(AuditText.objects.exclude(erased_at=None).values_list("digest", flat=True))
    assert not AuditText.objects.filter(digest__in=gone).exclude(salt="", source="", text="").exists()
    return {word for word, digest in told.items() if digest in gone}


def test_without_apply_it_counts_and_changes_nothing(ada: User, told: dict[str, str]) -> None:
    rows = AuditEvent.objects.count()

    said = command(str(ada.public_id))

    assert f"Ada Lovelace ({ada.public_id}): 2 rows with personal texts, 2 with an address, 1 with typed words" in said
    assert "Nothing was changed. Run again with --apply" in said
    assert erased(told) == set()
    assert AuditEvent.objects.count() == rows


def test_with_apply_what_the_person_did_loses_address_and_words_and_is_told(ada: User, told: dict[str, str]) -> None:
    before = list(AuditEvent.objects.order_by("id").values())

    said = command(str(ada.public_id), "--apply")

    assert "Erased." in said
    assert erased(told) == {"signed in", "wrote"}
    *rows, last = AuditEvent.objects.order_by("id").values()
    assert rows == before
    assert (last["action"], last["object_id"]) == ("audit.erase", str(ada.public_id))
    assert (last["detail"], last["text_digest"]) == ({"texts": 2, "about": False}, "")
    sealing.seal()
    assert verification.verify().faults == ()


def test_about_takes_what_others_did_to_and_for_them_too(ada: User, told: dict[str, str]) -> None:
    assert "5 rows with personal texts, 5 with an address, 3 with typed words" in command(str(ada.public_id), "--about")

    command(str(ada.public_id), "--about", "--apply")

    assert erased(told) == set(told) - {"is another's"}
    assert verification.verify().faults == ()


def test_a_second_time_there_is_nothing_left_and_nothing_is_told(ada: User, told: dict[str, str]) -> None:
    command(str(ada.public_id), "--apply")

    said = command(str(ada.public_id), "--apply")

    assert "holds nothing that could be erased" in said
    assert AuditEvent.objects.filter(action="audit.erase").count() == 1


def test_somebody_whose_account_is_gone_is_found_by_their_rows(ada: User, told: dict[str, str]) -> None:
    person = str(ada.public_id)
    ada.delete()

    said = command(person.upper(), "--apply")

    assert said.startswith(f"{person}: 2 rows")
    assert erased(told) == {"signed in", "wrote"}


@pytest.mark.parametrize("text", ["Ada Lovelace", "ada@facility.example", "17", ""])
def test_what_is_no_public_id_is_refused_in_words(told: dict[str, str], text: str) -> None:
    with pytest.raises(CommandError, match="is no public id: People in the administration"):
        command(text, "--apply")

    assert erased(told) == set()


def test_an_id_that_nobody_has_is_refused(told: dict[str, str]) -> None:
    with pytest.raises(CommandError, match="Nobody has the public id"):
        command(str(uuid4()), "--apply")
