"""What the API says of itself is true: schemathesis finds no 5xx, no undocumented answer and no other shape."""

import re
from pathlib import Path

import pytest
from django.core.management import call_command

from instances.cloud.protocol import Desktop
from tests import api_fuzz, test_permission_matrix


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("role", api_fuzz.ROLES)
def test_every_answer_is_one_the_description_names(role: str, vnc: Desktop) -> None:
    world = api_fuzz.make_world(vnc)

    result = api_fuzz.fuzz(role, world, examples=4)

    assert result.cases > 100
    assert not result.failures, "\n\n".join(f"{name}\n{words}" for name, words in result.failures.items())


def test_the_description_is_valid_and_complete(tmp_path: object) -> None:
    call_command("spectacular", file=f"{tmp_path}/schema.yml", validate=True, fail_on_warn=True)


def test_the_guide_names_every_address_and_method(db: None) -> None:
    guide = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(/api/[^`]+)` \| (GET|POST|DELETE) \|", guide, flags=re.MULTILINE))
    written = {
        (row.route, row.method)
        for row in test_permission_matrix.lines_of(test_permission_matrix.POSTER)
        if row.route.startswith("/api/")
    }

    assert told == written
