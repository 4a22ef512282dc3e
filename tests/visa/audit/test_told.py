"""What is told: sign-ins and their refusals, roles, administrators' edits, grants, desktops, transitions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import ModelAdmin
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from experiments.actions import Confirm, import_records
from experiments.models import Facility, Source
from instances import actions, grants
from instances.cloud.protocol import Desktop
from instances.lifecycle import State
from instances.models import AccessGrant, Connection, Image, Instance, InstanceEvent
from quotas.models import Flavour, Limit
from tests import factories, machines
from tests.experiments.test_import import document, stated
from tests.visa.accounts.op import OpenProvider
from visa.accounts import sign_ins
from visa.accounts.models import SignIn, User
from visa.audit.admin import Audited
from visa.audit.models import AuditEvent, AuditText
from visa.environment import Roles

pytestmark = pytest.mark.django_db

Arrive = Callable[..., HttpResponse]


def told(action: str) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action=action).order_by("id"))


def text_of(row: AuditEvent) -> str:
    return AuditText.objects.get(digest=row.text_digest).text


@pytest.fixture
def machine(owner: User, flavour: Flavour, image: Image, limit: Limit, vnc: Desktop) -> Instance:
    """A machine of the owner whose desktop answers."""
    return Instance.objects.get(id=machines.machine_at(State.ACTIVE, owner=owner, cloud=machines.memory_cloud(vnc)))


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_first_sign_in_tells_of_a_new_person_and_of_the_sign_in_but_not_of_its_key(
    client: Client,
    arrive: Arrive,
) -> None:
    arrive(client)

    person = str(User.objects.get(identities__sign_ins__isnull=False).public_id)
    (joined,), (signed_in,) = told("person.join"), told("sign_in")
    assert (joined.actor, signed_in.actor, signed_in.object_id) == (person, person, person)
    key = SignIn.objects.get().session_key
    assert key
    assert key not in str([[signed_in.detail, signed_in.reason, signed_in.correlation]])
    assert told("roles.change") == []


def test_roles_that_come_and_go_are_told_with_what_they_were(
    client: Client,
    op: OpenProvider,
    arrive: Arrive,
    settings: Settings,
) -> None:
    arrive(client)
    subject = SignIn.objects.get().identity.subject
    mapping = Roles(administrator=(f"subject:{op.issuer}#{subject}",), support=(), instrument_scientist=())
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, roles=mapping)
    arrive(Client())
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, roles=replace(mapping, administrator=()))
    arrive(Client())

    changes = [(row.detail["before"], row.detail["after"]) for row in told("roles.change")]
    assert changes == [([], ["administrator"]), (["administrator"], [])]


def test_a_sign_out_and_a_sign_in_anew_are_told_with_their_cause(client: Client, arrive: Arrive) -> None:
    arrive(client)
    arrive(client)
    client.post("/signout/")

    person = str(User.objects.get(identities__sign_ins=None).public_id)
    assert [(row.reason, row.object_id, row.actor) for row in told("sign_out")] == [
        ("another sign-in", person, person),
        ("asked for", person, person),
    ]


def test_a_refused_sign_in_is_told_and_one_that_nobody_began_is_not(
    client: Client,
    op: OpenProvider,
    arrive: Arrive,
) -> None:
    reply = arrive(client, iss="https://elsewhere.example")
    Client().get("/signin/op/callback/", {"code": "x", "state": "made-up"})

    assert reply.status_code == 403
    (row,) = told("sign_in.refuse")
    assert (row.kind, row.object_id, row.actor) == ("provider", "op", "")
    assert "mix-up" in text_of(row)


def test_closing_an_account_is_told_with_who_closed_it_and_which_sessions_ended(
    client: Client,
    arrive: Arrive,
    administrator: User,
    browse_as: Callable[[User], Client],
) -> None:
    arrive(client)
    person = User.objects.get(identities__sign_ins__isnull=False)

    sent = browse_as(administrator).post(
        f"/admin/accounts/user/{person.pk}/change/",
        {"identities-TOTAL_FORMS": "0", "identities-INITIAL_FORMS": "0"},
    )

    assert sent.status_code == 302
    (closed,), (ended,) = told("user.change"), told("sign_out")
    assert (closed.actor, closed.object_id) == (str(administrator.public_id), str(person.public_id))
    assert closed.detail == {"fields": ["is_active"], "before": {"is_active": True}, "after": {"is_active": False}}
    assert (ended.reason, ended.actor) == ("account closed", str(administrator.public_id))


def test_a_session_whose_time_is_over_ends_by_nobody(client: Client, arrive: Arrive) -> None:
    arrive(client)
    SignIn.objects.update(ends_at="2020-01-01T00:00:00Z")

    sign_ins.end_overdue()

    assert [(row.reason, row.actor) for row in told("sign_out")] == [("over", "")]


# --- data -------------------------------------------------------------------------------------------------------------


def test_an_import_is_told_with_its_numbers_and_each_record_it_held_back() -> None:
    import_records(stated(document()))
    moved = document(facilities__0__timezone="Asia/Tokyo")
    import_records(stated(moved, later=1))
    import_records(stated(moved, later=2), confirmed={Confirm.OPENING})

    applied = [(row.object_id, row.detail["held"], row.detail["confirmed"]) for row in told("import.apply")]
    source, facility = Source.objects.get().slug, Facility.objects.get().slug
    assert applied == [(source, 0, []), (source, 1, []), (source, 0, ["opening"])]
    (held,) = told("import.hold")
    assert (held.kind, held.object_id, held.reason) == ("facility", facility, "opening")
    assert held.detail == {"source": source, "fields": ["timezone"]}


# --- administrators ---------------------------------------------------------------------------------------------------


def test_every_form_that_changes_things_is_audited(administrator: User, rf: Any) -> None:
    request = rf.get("/admin/")
    request.user = administrator
    changing = [
        one
        for one in admin.site._registry.values()
        if one.has_add_permission(request) or one.has_change_permission(request) or one.has_delete_permission(request)
    ]

    assert len(changing) > 8
    assert [type(one).__name__ for one in changing if not isinstance(one, Audited)] == []
    for one in changing:
        for name in ("save_model", "delete_model", "delete_queryset"):
            assert getattr(type(one), name) is not getattr(ModelAdmin, name)


def test_a_limit_is_added_changed_and_deleted_with_its_numbers(
    administrator: User, browse_as: Callable[[User], Client]
) -> None:
    browser = browse_as(administrator)
    numbers = {"kind": "everyone", "key": "", "machines": 2, "cores": 4, "memory_mib": 8192, "gpus": 0}
    browser.post("/admin/quotas/limit/add/", numbers)
    limit = Limit.objects.get()
    browser.post(f"/admin/quotas/limit/{limit.pk}/change/", numbers | {"cores": 8})
    browser.post(f"/admin/quotas/limit/{limit.pk}/delete/", {"post": "yes"})

    rows = AuditEvent.objects.filter(kind="limit").order_by("id")
    assert [row.action for row in rows] == ["limit.add", "limit.change", "limit.delete"]
    assert {row.actor for row in rows} == {str(administrator.public_id)}
    assert {row.object_id for row in rows} == {str(limit.pk)}
    assert rows[1].detail == {"fields": ["cores"], "before": {"cores": 4}, "after": {"cores": 8}}


def test_sizes_deleted_from_the_list_are_told_one_by_one(
    administrator: User, browse_as: Callable[[User], Client]
) -> None:
    keys = [factories.make_flavour(slug=slug).pk for slug in ("one", "two")]

    browse_as(administrator).post(
        "/admin/quotas/flavour/", {"action": "delete_selected", "_selected_action": keys, "post": "yes"}
    )

    assert not Flavour.objects.exists()
    assert sorted(row.object_id for row in told("flavour.delete")) == ["one", "two"]


# --- machines ---------------------------------------------------------------------------------------------------------


def test_every_transition_has_its_row_and_the_chain_is_whole(machine: Instance, owner: User) -> None:
    actions.stop(machine.id, by=owner)

    events = list(InstanceEvent.objects.order_by("id").values_list("instance_id", "kind"))
    rows = AuditEvent.objects.filter(kind="instance", action__startswith="instance.").order_by("id")
    told_of = [(row.object_id, row.action) for row in rows if not row.action.startswith("instance.state.")]
    assert len(events) > 3
    assert told_of == [(str(instance_id), f"instance.{kind}") for instance_id, kind in events]
    assert [row.actor for row in rows if row.action == "instance.wanted.stopped"] == [str(owner.public_id)]


def test_a_desktop_is_told_of_before_its_first_byte_and_when_it_ends(machine: Instance, owner: User) -> None:
    ticket = grants.issue(machine.id, owner, session_key="a-session")
    grants.issue(machine.id, owner, session_key="a-session")
    entered = grants.redeem(ticket.token, machine.id)
    assert entered is not None
    grants.closed(entered.connection_id, "browser_left")
    grants.closed(entered.connection_id, "again")
    grants.revoke_session("a-session", cause="signed_out")
    grants.revoke_session("a-session", cause="signed_out")

    rows = AuditEvent.objects.exclude(action__startswith="instance.").filter(object_id=machine.id).order_by("id")
    person = str(owner.public_id)
    assert [(row.action, row.actor, row.on_behalf_of, row.reason) for row in rows] == [
        ("grant.issue", person, "", ""),
        ("desktop.open", person, "", ""),
        ("desktop.close", person, "", "browser_left"),
        ("grant.revoke", "", person, "signed_out"),
    ]
    assert {row.detail["grant"] for row in rows} == {str(AccessGrant.objects.get().id)}
    assert Connection.objects.get().cause == "browser_left"
    assert "a-session" not in str([row.detail for row in rows])
