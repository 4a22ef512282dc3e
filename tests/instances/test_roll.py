"""All machines of the site: who may see them, by what they are found, and what it costs."""

import re
from collections.abc import Callable
from html import unescape

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from instances import access, actions
from instances.actions import Launch
from instances.lifecycle import State
from instances.models import Image, Instance
from quotas.models import Flavour, Limit
from tests import factories, machines
from visa.accounts.models import User
from visa.errors import NotAllowed

pytestmark = pytest.mark.django_db

PATH = "/machines/all/"


@pytest.fixture
def first(owner: User, flavour: Flavour, image: Image, limit: Limit) -> Instance:
    """A machine of the owner."""
    return Instance.objects.get(id=actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id)


def shown(page: str) -> list[str]:
    """The machines a page lists, by their ids."""
    return re.findall(r'<a href="/machines/([0-9a-f-]{36})/"', page)


def test_every_machine_is_on_exactly_one_page(
    support: User, browse_as: Callable[[User], Client], first: Instance
) -> None:
    machines.make_many(first, 120)
    # equal times must not hide anybody's machine between two pages
    Instance.objects.update(created_at=first.created_at)
    browser, address, seen = browse_as(support), PATH, []
    for _ in range(10):
        page = browser.get(address).content.decode()
        seen += shown(page)
        found = re.search(r'rel="next"\s+href="([^"]+)"', page)
        if not found:
            break
        address = PATH + unescape(found[1])

    assert sorted(seen) == sorted(str(one) for one in Instance.objects.values_list("id", flat=True))


def test_a_page_costs_the_same_for_one_machine_and_for_hundreds(
    support: User, browse_as: Callable[[User], Client], first: Instance
) -> None:
    browser = browse_as(support)

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert browser.get(PATH).status_code == 200
        return len(queries)

    one = cost()
    machines.make_many(first, 300)

    assert cost() == one


def test_machines_are_found_by_their_state_and_by_their_person(
    administrator: User, owner: User, browse_as: Callable[[User], Client], first: Instance, image: Image
) -> None:
    other = factories.make_user(name="Åsa Überall")
    theirs = actions.launch(Launch(doi=factories.make_dataset().minted), by=other).instance_id
    actions.delete(theirs, by=other)
    browser = browse_as(administrator)

    for query, found in {
        "": {first.id, theirs},
        "?state=waiting": {first.id},
        "?state=deleting": {theirs},
        "?owner=ÜBERALL": {theirs},
        "?owner=ÜBERALL&state=waiting": set(),
        "?owner=nobody": set(),
        # what cannot be read counts as not said
        "?state=broken&after=nothing": {first.id, theirs},
    }.items():
        page = browser.get(PATH + query).content.decode()
        assert {str(one) for one in found} == set(shown(page)), query
        if not found:
            assert "There is no such machine now." in page, query


def test_only_those_who_look_after_all_see_the_way_there(
    owner: User, support: User, administrator: User, browse_as: Callable[[User], Client], first: Instance
) -> None:
    for person, sees in ((owner, False), (support, True), (administrator, True)):
        assert (f'href="{PATH}"' in browse_as(person).get("/").content.decode()) is sees
        page = browse_as(person).get(f"/machines/{first.id}/").content.decode()
        crumb = re.search(r'<p class="crumb">\s*<a href="([^"]+)"', page)
        assert crumb
        assert crumb[1] == (PATH if sees else "/")
    with pytest.raises(NotAllowed):
        access.roll_for(owner)


def test_whoever_deletes_anothers_machine_is_told_whose_it_is_and_asked_why(
    owner: User, administrator: User, browse_as: Callable[[User], Client], first: Instance
) -> None:
    browser, path = browse_as(administrator), reverse("instances:instance-delete", args=[first.id])

    asked = browser.get(path).content.decode()
    refused = browser.post(path, {"reason": "  "})
    accepted = browser.post(path, {"reason": "Left behind since March"}, follow=True)

    assert f"This machine belongs to {owner.name}, not to you." in asked
    assert 'name="reason"' in asked
    assert refused.status_code == 400
    assert "Say why you delete a machine of somebody else." in refused.content.decode()
    assert accepted.redirect_chain == [(PATH, 302)]
    assert access.instance_for(owner, first.id).state is State.DELETING
    assert "Left behind since March" in browse_as(owner).get(f"/machines/{first.id}/").content.decode()


def test_the_owner_is_asked_for_no_reason(owner: User, browse_as: Callable[[User], Client], first: Instance) -> None:
    browser, path = browse_as(owner), reverse("instances:instance-delete", args=[first.id])

    assert 'name="reason"' not in browser.get(path).content.decode()
    assert browser.post(path).url == "/"  # type: ignore[attr-defined]  # a redirect has one
