"""Who gets what answer at every address: one table, read like a poster. An address without a row fails the test.

Rows name a route, a method and the thing asked for; columns are who asks. The things are machines and data:

    own      a machine of the person who asks (somebody signed out has none, and asks for the owner's)
    other    a machine of somebody else; there are no shared machines yet, so this is all there is between own and none
    deleted  a machine of the person who asks whose deletion is complete
    none     an id nobody ever had
    open     data open to everybody
    team     data of the experiment of owner and member, closed, whose description is not public
    closed   the same experiment's data whose description is public
    unknown  a DOI nobody knows
    -        nothing of that kind

A method without a row answers 405 to everybody; at the REST API, where people are looked at first, 401 to visitors. The
doors of machines (`/api/v1/guest/`) take a machine's own token and nobody's session (tests/instances/test_guest.py).
"""

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.cookies import SimpleCookie
from typing import Any
from uuid import uuid4

import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.db import transaction
from django.test import Client

from experiments.models import Dataset
from instances.cloud.protocol import Desktop
from instances.lifecycle import State
from instances.models import Image
from quotas.models import Flavour
from tests import factories, machines, routes
from visa.accounts.models import User

COLUMNS = ("visitor", "owner", "member", "stranger", "support", "administrator")

#: route, method, thing | visitor owner member stranger support administrator
POSTER = """
/                                                  GET    -       | 200 200 200 200 200 200
/help/                                             GET    -       | 200 200 200 200 200 200
/site.css                                          GET    -       | 200 200 200 200 200 200
/language/                                         POST   -       | 302 302 302 302 302 302
/search/                                           GET    -       | 200 200 200 200 200 200
/data/                                             GET    -       | 200 200 200 200 200 200
/data/<path:doi>                                   GET    open    | 200 200 200 200 200 200
/data/<path:doi>                                   GET    team    | 404 200 200 404 404 404
/data/<path:doi>                                   GET    closed  | 200 200 200 200 200 200
/data/<path:doi>                                   GET    unknown | 404 404 404 404 404 404
/launch/                                           GET    -       | 400 400 400 400 400 400
/launch/                                           POST   -       | 400 400 400 400 400 400
/launch/<path:doi>                                 GET    open    | 200 200 200 200 200 200
/launch/<path:doi>                                 GET    team    | 404 200 200 404 404 404
/launch/<path:doi>                                 GET    closed  | 403 200 200 403 403 403
/launch/<path:doi>                                 GET    unknown | 404 404 404 404 404 404
/launch/<path:doi>                                 POST   open    | 302 302 302 302 302 302
/launch/<path:doi>                                 POST   team    | 302 302 302 404 404 404
/launch/<path:doi>                                 POST   closed  | 302 302 302 403 403 403
/launch/<path:doi>                                 POST   unknown | 302 404 404 404 404 404
/experiments/                                      GET    -       | 302 200 200 200 200 200

/machines/all/                                     GET    -       | 302 403 403 403 200 200
/machines/reconciliation/                          GET    -       | 302 403 403 403 200 200
/machines/reconciliation/<int:hold_id>/release/    GET    -       | 302 403 403 403 302 302
/machines/reconciliation/<int:hold_id>/release/    POST   -       | 302 404 404 404 403 302
/audit/                                            GET    -       | 302 403 403 403 403 200

/machines/<uuid:instance_id>/                      GET    own     | 302 200 200 200 200 200
/machines/<uuid:instance_id>/                      GET    other   | 302 404 404 404 200 200
/machines/<uuid:instance_id>/                      GET    deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/                      GET    none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/progress/             GET    own     | 302 200 200 200 200 200
/machines/<uuid:instance_id>/progress/             GET    other   | 302 200 200 200 200 200
/machines/<uuid:instance_id>/progress/             GET    deleted | 302 200 200 200 200 200
/machines/<uuid:instance_id>/progress/             GET    none    | 302 200 200 200 200 200
/machines/<uuid:instance_id>/start/                GET    own     | 302 302 302 302 302 302
/machines/<uuid:instance_id>/start/                GET    other   | 302 404 404 404 302 302
/machines/<uuid:instance_id>/start/                GET    deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/start/                GET    none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/start/                POST   own     | 302 302 302 302 302 302
/machines/<uuid:instance_id>/start/                POST   other   | 302 404 404 404 302 302
/machines/<uuid:instance_id>/start/                POST   deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/start/                POST   none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/stop/                 GET    own     | 302 302 302 302 302 302
/machines/<uuid:instance_id>/stop/                 GET    other   | 302 404 404 404 302 302
/machines/<uuid:instance_id>/stop/                 GET    deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/stop/                 GET    none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/stop/                 POST   own     | 302 302 302 302 302 302
/machines/<uuid:instance_id>/stop/                 POST   other   | 302 404 404 404 302 302
/machines/<uuid:instance_id>/stop/                 POST   deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/stop/                 POST   none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/reboot/               GET    own     | 302 302 302 302 302 302
/machines/<uuid:instance_id>/reboot/               GET    other   | 302 404 404 404 302 302
/machines/<uuid:instance_id>/reboot/               GET    deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/reboot/               GET    none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/reboot/               POST   own     | 302 302 302 302 302 302
/machines/<uuid:instance_id>/reboot/               POST   other   | 302 404 404 404 302 302
/machines/<uuid:instance_id>/reboot/               POST   deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/reboot/               POST   none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/console/              GET    own     | 302 302 302 302 302 302
/machines/<uuid:instance_id>/console/              GET    other   | 302 404 404 404 302 302
/machines/<uuid:instance_id>/console/              GET    deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/console/              GET    none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/console/              POST   own     | 302 403 403 403 403 403
/machines/<uuid:instance_id>/console/              POST   other   | 302 404 404 404 302 302
/machines/<uuid:instance_id>/console/              POST   deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/console/              POST   none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/delete/               GET    own     | 302 200 200 200 200 200
/machines/<uuid:instance_id>/delete/               GET    other   | 302 404 404 404 403 200
/machines/<uuid:instance_id>/delete/               GET    deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/delete/               GET    none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/delete/               POST   own     | 302 302 302 302 302 302
/machines/<uuid:instance_id>/delete/               POST   other   | 302 404 404 404 403 400
/machines/<uuid:instance_id>/delete/               POST   deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/delete/               POST   none    | 302 404 404 404 404 404
/machines/<uuid:instance_id>/desktop/              GET    own     | 302 200 200 200 200 200
/machines/<uuid:instance_id>/desktop/              GET    other   | 302 404 404 404 403 403
/machines/<uuid:instance_id>/desktop/              GET    deleted | 302 404 404 404 404 404
/machines/<uuid:instance_id>/desktop/              GET    none    | 302 404 404 404 404 404

/api/v1/schema/                                    GET    -       | 200 200 200 200 200 200
/api/v1/datasets/                                  GET    -       | 200 200 200 200 200 200
/api/v1/datasets/<path:doi>/                       GET    open    | 200 200 200 200 200 200
/api/v1/datasets/<path:doi>/                       GET    team    | 404 200 200 404 404 404
/api/v1/datasets/<path:doi>/                       GET    closed  | 200 200 200 200 200 200
/api/v1/datasets/<path:doi>/                       GET    unknown | 404 404 404 404 404 404
/api/v1/experiments/                               GET    -       | 401 200 200 200 200 200
/api/v1/me/                                        GET    -       | 401 200 200 200 200 200
/api/v1/offer/                                     GET    -       | 401 200 200 200 200 200
/api/v1/allowance/                                 GET    -       | 401 200 200 200 200 200
/api/v1/instances/                                 GET    -       | 401 200 200 200 200 200
/api/v1/instances/                                 POST   open    | 401 202 202 202 202 202
/api/v1/instances/                                 POST   team    | 401 202 202 404 404 404
/api/v1/instances/                                 POST   closed  | 401 202 202 403 403 403
/api/v1/instances/                                 POST   unknown | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/              GET    own     | 401 200 200 200 200 200
/api/v1/instances/<uuid:instance_id>/              GET    other   | 401 404 404 404 200 200
/api/v1/instances/<uuid:instance_id>/              GET    deleted | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/              GET    none    | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/              DELETE own     | 401 202 202 202 202 202
/api/v1/instances/<uuid:instance_id>/              DELETE other   | 401 404 404 404 403 400
/api/v1/instances/<uuid:instance_id>/              DELETE deleted | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/              DELETE none    | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/start/        POST   own     | 401 202 202 202 202 202
/api/v1/instances/<uuid:instance_id>/start/        POST   other   | 401 404 404 404 202 202
/api/v1/instances/<uuid:instance_id>/start/        POST   deleted | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/start/        POST   none    | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/stop/         POST   own     | 401 202 202 202 202 202
/api/v1/instances/<uuid:instance_id>/stop/         POST   other   | 401 404 404 404 202 202
/api/v1/instances/<uuid:instance_id>/stop/         POST   deleted | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/stop/         POST   none    | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/reboot/       POST   own     | 401 202 202 202 202 202
/api/v1/instances/<uuid:instance_id>/reboot/       POST   other   | 401 404 404 404 202 202
/api/v1/instances/<uuid:instance_id>/reboot/       POST   deleted | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/reboot/       POST   none    | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/tickets/      POST   own     | 401 201 201 201 201 201
/api/v1/instances/<uuid:instance_id>/tickets/      POST   other   | 401 404 404 404 403 403
/api/v1/instances/<uuid:instance_id>/tickets/      POST   deleted | 401 404 404 404 404 404
/api/v1/instances/<uuid:instance_id>/tickets/      POST   none    | 401 404 404 404 404 404
/api/v1/guest/<uuid:instance_id>/secrets/          POST   own     | 401 401 401 401 401 401
/api/v1/guest/<uuid:instance_id>/reports/          POST   own     | 401 401 401 401 401 401

/signin/                                           GET    -       | 302 302 302 302 302 302
/signin/<slug:slug>/                               GET    -       | 404 404 404 404 404 404
/signin/<slug:slug>/callback/                      GET    -       | 404 404 404 404 404 404
/signin/<slug:slug>/backchannel/                   POST   -       | 404 404 404 404 404 404
/signout/                                          GET    -       | 200 200 200 200 200 200
/signout/                                          POST   -       | 302 302 302 302 302 302
"""

#: the admin, by the names of its addresses: only administrators get past its door
ADMIN = """
admin:index                     GET | 302 302 302 302 302 200
admin:login                     GET | 302 403 403 403 403 403
admin:logout                    GET | 302 302 302 302 302 302
admin:password_change           GET | 302 302 302 302 302 404
admin:password_change_done      GET | 302 302 302 302 302 404
admin:autocomplete              GET | 302 302 302 302 302 403
admin:jsi18n                    GET | 302 302 302 302 302 200
admin:view_on_site              GET | 302 302 302 302 302 404
admin:app_list                  GET | 302 302 302 302 302 200
admin:                          GET | 302 302 302 302 302 ---
admin:*_changelist              GET | 302 302 302 302 302 200
admin:*_add                     GET | 302 302 302 302 302 200
admin:*_history                 GET | 302 302 302 302 302 302
admin:*_delete                  GET | 302 302 302 302 302 302
admin:*_change                  GET | 302 302 302 302 302 302
"""
#: what even administrators neither add nor delete here
ONLY_TO_LOOK_AT = (
    "accounts_user",
    "quotas_allowance",
    "instances_instance",
    "instances_instanceevent",
    "instances_accessgrant",
    "instances_connection",
    "instances_sweep",
    "instances_sighting",
    "instances_sweephold",
)

#: websocket, thing | the code it is closed with before anything is said, "open" where it stays open
#: (a desktop is opened by a ticket alone, which the rows of `tickets/` give; a session opens none)
SOCKETS = """
/ws/instances/                            -       | 4401 open open open open open
/ws/instances/<uuid:instance_id>/desktop/ own     | 4401 4401 4401 4401 4401 4401
/ws/instances/<uuid:instance_id>/desktop/ other   | 4401 4401 4401 4401 4401 4401
/ws/instances/<uuid:instance_id>/desktop/ deleted | 4401 4401 4401 4401 4401 4401
/ws/instances/<uuid:instance_id>/desktop/ none    | 4401 4401 4401 4401 4401 4401
"""


@dataclass(frozen=True)
class Row:
    """One line of the poster."""

    route: str
    method: str
    thing: str
    expected: tuple[str, ...]


def lines_of(text: str) -> list[Row]:
    """The lines of a poster."""
    found = []
    for line in text.strip().splitlines():
        if line:
            said, _, cells = line.partition("|")
            words = (*said.split(), "-", "-")
            found.append(Row(words[0], words[1], words[2], tuple(cells.split())))
    return found


def _sockets() -> list[Row]:
    return [Row(row.route, "WEBSOCKET", row.method, row.expected) for row in lines_of(SOCKETS)]


@dataclass(frozen=True)
class World:
    """Who asks, and what there is to ask for."""

    clients: Mapping[str, Client]
    own: Mapping[str, object]
    other: Mapping[str, object]
    deleted: Mapping[str, object]
    data: Mapping[str, Dataset]

    def values(self, row: Row, role: str) -> dict[str, object]:
        """What fills the row's parameters when `role` asks."""
        machines_of = {"own": self.own, "other": self.other, "deleted": self.deleted}
        doi = self.data[row.thing].minted if row.thing in self.data else "10.5555/never-heard-of"
        return {
            "instance_id": machines_of[row.thing][role] if row.thing in machines_of else uuid4(),
            "doi": doi,
            "slug": "nobody",
            "object_id": "0",
            "hold_id": "0",
            "content_type_id": "0",
            "app_label": "quotas",
            "url": "nowhere",
        }


@pytest.fixture
def world(
    owner: User,
    member: User,
    stranger: User,
    support: User,
    administrator: User,
    browse_as: Callable[[User], Client],
    flavour: Flavour,
    image: Image,
    vnc: Desktop,
) -> World:
    factories.make_limit(machines=20, cores=40, memory_mib=40_960)
    people = {
        "owner": owner,
        "member": member,
        "stranger": stranger,
        "support": support,
        "administrator": administrator,
    }
    cloud = machines.memory_cloud(vnc)
    own = {role: machines.machine_at(State.ACTIVE, owner=person, cloud=cloud) for role, person in people.items()}
    gone = {role: machines.machine_at(State.DELETED, owner=person, cloud=cloud) for role, person in people.items()}
    other = {role: own["member" if role == "owner" else "owner"] for role in people}
    experiment = factories.make_experiment(team=[owner, member])
    return World(
        clients={"visitor": Client(), **{role: browse_as(person) for role, person in people.items()}},
        own={"visitor": own["owner"], **own},
        other={"visitor": own["owner"], **other},
        deleted={"visitor": gone["owner"], **gone},
        data={
            "open": factories.make_dataset(),
            "team": factories.make_dataset(open_to_all=False, experiment=experiment, metadata_public=False),
            "closed": factories.make_dataset(open_to_all=False, experiment=experiment),
        },
    )


def _ask(world: World, row: Row, role: str, method: str = "") -> int:
    """The status `role` gets; whatever it changed is undone, so that no row depends on another."""
    client, values = world.clients[role], world.values(row, role)
    path = routes.filled(row.route, values)
    body = {"doi": values["doi"]} if row.route == "/api/v1/instances/" else {}
    kind = "application/json" if row.route.startswith("/api/") else "application/x-www-form-urlencoded"
    kept = SimpleCookie(client.cookies.output(header="", sep=";"))
    with transaction.atomic():
        answer = client.generic(
            method or row.method,
            path,
            data=_encoded(body) if row.method == "POST" else b"",
            content_type=kind,
        )
        transaction.set_rollback(True)
    client.cookies = kept
    return answer.status_code


def _encoded(body: Mapping[str, object]) -> bytes:
    return json.dumps(body).encode() if body else b""


def _differences(world: World, rows: list[Row]) -> Iterator[str]:
    for row in rows:
        got = tuple(str(_ask(world, row, role)) for role in COLUMNS)
        told = tuple(one if two == "---" else two for one, two in zip(got, row.expected, strict=True))
        if got != told:
            line = f"{row.route:<50} {row.method:<6} {row.thing:<7} | {' '.join(got)}"
            yield f"{line}   (written: {' '.join(row.expected)})"


def test_every_address_has_its_rows() -> None:
    there = {route for route in routes.every_route() if not route.startswith("/admin/")}
    written = {row.route for row in lines_of(POSTER)}

    assert there == written
    assert set(routes.every_socket()) == {row.route for row in lines_of(SOCKETS)}


@pytest.mark.django_db
def test_everybody_gets_what_the_poster_says(world: World) -> None:
    differences = list(_differences(world, lines_of(POSTER)))

    assert not differences, "\n" + "\n".join(differences)


@pytest.mark.django_db
def test_only_administrators_get_past_the_admins_door(world: World) -> None:
    patterns = {row.route: row for row in lines_of(ADMIN)}
    rows = []
    for route, name in routes.every_route().items():
        if not route.startswith("/admin/"):
            continue
        found = [name] if name in patterns else [one for one in patterns if fnmatch.fnmatchcase(name, one)]
        assert len(found) == 1, f"{route} ({name}) has {len(found)} rows"
        expected = patterns[found[0]].expected
        if name in {f"admin:{model}_{verb}" for model in ONLY_TO_LOOK_AT for verb in ("add", "delete")}:
            expected = (*expected[:-1], "403")
        rows.append(Row(route, "GET", "-", expected))
    differences = list(_differences(world, rows))

    assert not differences, "\n" + "\n".join(differences)


@pytest.mark.django_db
def test_a_method_without_a_row_is_refused_to_everybody(world: World) -> None:
    rows = lines_of(POSTER)
    written = {(row.route, row.method) for row in rows}
    differences = []
    for row in {row.route: row for row in reversed(rows)}.values():
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS"):
            if (row.route, method) in written:
                continue
            for role in COLUMNS:
                first_looked_at = (
                    role == "visitor" and row.route.startswith("/api/") and not _open_to_visitors(rows, row)
                )
                expected = HTTPStatus.UNAUTHORIZED if first_looked_at else HTTPStatus.METHOD_NOT_ALLOWED
                got = _ask(world, row, role, method)
                if got != expected:
                    differences.append(f"{method} {row.route} as {role}: {got}")

    assert not differences, "\n" + "\n".join(differences)


def _open_to_visitors(rows: list[Row], asked: Row) -> bool:
    """Where nobody is looked at by their session: some visitors may, or it takes a machine's token and nobody may."""
    return any(row.route == asked.route and (row.expected[0] != "401" or set(row.expected) == {"401"}) for row in rows)


@pytest.mark.django_db
def test_head_is_answered_as_get(world: World) -> None:
    rows = [replace(row, method="HEAD") for row in lines_of(POSTER) if row.method == "GET"]

    assert not list(_differences(world, rows))


@pytest.mark.django_db(transaction=True)
async def test_sockets_open_for_whom_the_poster_says(world: World) -> None:
    differences = []
    for row in _sockets():
        for role, expected in zip(COLUMNS, row.expected, strict=True):
            got = await _opened(world, row, role)
            if got != expected:
                differences.append(f"{row.route} as {role}: {got}, not {expected}")

    assert not differences, "\n" + "\n".join(differences)


async def _opened(world: World, row: Row, role: str) -> str:
    """How a websocket with the person's session and our own origin fares."""
    # Not at the head of the file: the entrance wants the pages' parts, which are collected before the first test.
    from visa.asgi import application

    session = world.clients[role].cookies.get(settings.SESSION_COOKIE_NAME)
    headers = [(b"origin", settings.SITE.url.encode())]
    if session is not None:
        headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={session.value}".encode()))
    path = routes.filled(row.route, world.values(row, role))
    socket: Any = ApplicationCommunicator(  # type: ignore[no-untyped-call] # no types
        application,
        {
            "type": "websocket",
            "path": path,
            "headers": headers,
            "query_string": b"",
            "subprotocols": ["visa.desktop", "ticket.made-up"],
        },
    )
    await socket.send_input({"type": "websocket.connect"})
    answer = await socket.receive_output(timeout=10)
    if answer["type"] == "websocket.accept" and not await socket.receive_nothing(timeout=0.3):
        answer = await socket.receive_output(timeout=1)
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait(timeout=10)
    return "open" if answer["type"] == "websocket.accept" else str(answer["code"])
