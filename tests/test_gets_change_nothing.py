"""Reading changes nothing: every address is asked by GET and HEAD, as everybody, and every table is as before."""

import hashlib
from collections.abc import Callable

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection
from django.test import Client
from redis import Redis

from instances.cloud.protocol import Desktop
from instances.lifecycle import State
from instances.models import Image
from quotas.models import Flavour, Limit
from tests import factories, machines, routes
from visa.accounts.models import User

pytestmark = pytest.mark.django_db

#: further addresses to read: with queries, and with what is not there
MORE = (
    "/launch/?doi=10.5555/read-1",
    "/launch/10.5555/read-1?flavour=small&image=desktop",
    "/launch/https://doi.org/10.5555/READ-1",
    "/data/?q=sample&page=2",
    "/search/?q=10.5555/read-1",
    "/signin/?next=/machines/",
    "/signin/demo/",
    "/signin/demo/callback/?state=made-up&code=made-up",
    "/signin/demo/callback/?error=access_denied",
    "/api/v1/datasets/?q=sample&limit=1",
    "/api/v1/experiments/?limit=1&offset=1",
    "/nowhere/",
    "/api/v1/nowhere/",
    "/favicon.ico",
    "/static/nowhere.css",
)


def contents() -> dict[str, str]:
    """A fingerprint of every table of ours and Django's."""
    prints = {}
    with connection.cursor() as cursor:
        for model in apps.get_models(include_auto_created=True):
            table = model._meta.db_table
            cursor.execute(f'SELECT count(*), string_agg(t::text, chr(10) ORDER BY t::text) FROM "{table}" t')  # noqa: S608 - names of our own tables
            count, text = cursor.fetchone()
            prints[table] = f"{count} rows, {hashlib.sha256((text or '').encode()).hexdigest()[:16]}"
    return prints


def waiting() -> dict[str, int]:
    """How many messages wait in each of the broker's queues."""
    broker = Redis.from_url(settings.REDIS_URL)
    try:
        return {queue: int(broker.llen(queue)) for queue in ("cloud", "default", "celery")}
    finally:
        broker.close()


@pytest.fixture
def paths(owner: User, member: User, flavour: Flavour, image: Image, limit: Limit, vnc: Desktop) -> list[str]:
    """Every address of the site, with a machine that runs, one that is off, one being made, and data."""
    cloud = machines.memory_cloud(vnc)
    dataset = factories.make_dataset(doi="10.5555/read-1")
    factories.make_experiment(team=[owner, member])
    made = [
        machines.machine_at(state, owner=owner, cloud=cloud) for state in (State.ACTIVE, State.STOPPED, State.BUILDING)
    ]
    found = []
    for route in routes.every_route():
        for instance_id in made if "instance_id" in routes.parameters(route) else made[:1]:
            values = {
                "instance_id": instance_id,
                "hold_id": 1,
                "doi": dataset.minted,
                "slug": "demo",
                "object_id": flavour.pk,
                "content_type_id": "1",
                "app_label": "quotas",
                "url": "nowhere",
            }
            found.append(routes.filled(route, values))
    return [*found, *MORE]


def test_reading_every_address_changes_no_row_and_asks_no_worker(
    paths: list[str], owner: User, support: User, administrator: User, browse_as: Callable[[User], Client]
) -> None:
    clients = [Client(), *(browse_as(person) for person in (owner, support, administrator))]
    before = contents(), waiting()

    for path in paths:
        if path == "/admin/logout/":
            continue  # leads to the page that asks, which is read by itself
        for client in clients:
            for method in (client.get, client.head):
                answer = method(path)
                assert answer.status_code < 500 or path.startswith("/signin/demo"), path

    assert (contents(), waiting()) == before


def test_an_anonymous_visit_leaves_no_session(client: Client, paths: list[str]) -> None:
    for path in paths:
        client.get(path)

    assert settings.SESSION_COOKIE_NAME not in client.cookies


def test_a_link_on_another_site_can_launch_nothing(owner: User, paths: list[str]) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(owner, backend="visa.accounts.oidc.Backend")
    before = contents()

    answers = [
        browser.post("/launch/10.5555/read-1"),
        browser.post("/launch/10.5555/read-1", headers={"Sec-Fetch-Site": "cross-site"}),
        browser.post("/signout/"),
        browser.post("/api/v1/instances/", {"doi": "10.5555/read-1"}, content_type="application/json"),
        # the three kinds of content a form of another site can send without asking first
        *(
            browser.post("/api/v1/instances/", '{"doi": "10.5555/read-1"}', content_type=kind)
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
        ),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 403, 403, 415, 415, 415]
    assert contents() == before
