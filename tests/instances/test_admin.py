"""The admin's lists in people's words: names for ids, and a sentence where something cannot go."""

import re
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from instances import actions, grants
from instances.actions import Launch
from instances.models import AccessGrant, Connection, Image, Instance
from quotas.models import Flavour, Limit
from tests import factories
from visa.accounts.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def machine(owner: User, flavour: Flavour, image: Image, limit: Limit) -> Instance:
    launched = actions.launch(Launch(doi=factories.make_dataset().minted), by=owner)
    return Instance.objects.get(id=launched.instance_id)


@pytest.fixture
def admin(administrator: User, browse_as: Callable[[User], Client]) -> Client:
    return browse_as(administrator)


def cells(page: str) -> str:
    """What the list's table says."""
    return re.sub(r"<[^>]+>", " ", page[page.index('id="result_list"') :].split("</table>")[0])


def test_no_list_names_a_row_by_its_class_or_number(owner: User, machine: Instance, admin: Client) -> None:
    grants.issue(machine.id, owner, session_key="session")
    Connection.objects.create(grant=AccessGrant.objects.get(), seen_at=machine.created_at)
    Limit.objects.create(kind=Limit.Kind.PERSON, key=str(owner.public_id), machines=1)

    for path in ("instances/accessgrant", "instances/connection", "instances/instanceevent", "quotas/limit"):
        assert " object (" not in cells(admin.get(f"/admin/{path}/").content.decode()), path
    for path in ("quotas/allowance", "quotas/limit", "instances/connection"):
        table = cells(admin.get(f"/admin/{path}/").content.decode())
        assert owner.name in table, path
        assert str(owner.public_id) not in table, path
    assert owner.name in cells(admin.get(f"/admin/quotas/allowance/?q={owner.name}").content.decode())


def test_a_list_of_connections_costs_the_same_for_one_and_for_twenty(
    owner: User, machine: Instance, admin: Client
) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            admin.get("/admin/instances/connection/")
        return len(queries)

    def connect(times: int) -> None:
        for _ in range(times):
            grant = AccessGrant.objects.create(
                instance=machine, person=factories.make_user(), ends_at=machine.created_at
            )
            Connection.objects.create(grant=grant, seen_at=machine.created_at)

    connect(1)
    one = cost()
    connect(20)

    assert cost() == one


@pytest.mark.parametrize("what", ["flavour", "image"])
def test_what_machines_were_made_with_stays_and_the_page_says_what_to_do(
    machine: Instance, admin: Client, what: str
) -> None:
    kept = machine.flavour if what == "flavour" else machine.image
    path = f"/admin/{'quotas/flavour' if what == 'flavour' else 'instances/image'}/"
    sentence = f"1 machine was made with “{kept}”, deleted ones counted. Switch it off"

    one = admin.post(f"{path}{kept.pk}/delete/", {"post": "yes"}, follow=True)
    several = admin.post(path, {"action": "delete_selected", "_selected_action": [kept.pk], "post": "yes"}, follow=True)

    assert sentence in one.content.decode()
    assert one.redirect_chain == [(f"{path}{kept.pk}/change/", 302)]
    assert sentence in several.content.decode()
    assert type(kept).objects.filter(pk=kept.pk).exists()


def test_what_no_machine_was_made_with_can_go(admin: Client, flavour: Flavour) -> None:
    admin.post(f"/admin/quotas/flavour/{flavour.pk}/delete/", {"post": "yes"})

    assert not Flavour.objects.exists()
