"""REST as a program uses it: the whole life of a machine, who is turned away and how, and what it costs."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from experiments.models import Dataset
from instances.cloud.memory import MemoryCloud
from instances.lifecycle import State
from instances.models import AccessGrant, Image, Instance
from quotas.models import Flavour, Limit
from tests import factories, machines
from tests.visa.accounts.op import CLIENT, Answer, OpenProvider
from visa.accounts import sign_ins
from visa.accounts.models import Identity, User

pytestmark = pytest.mark.django_db

LIST = "/api/v1/instances/"


@pytest.fixture
def dataset(flavour: Flavour, image: Image, limit: Limit) -> Dataset:
    return factories.make_dataset()


@pytest.fixture
def api(owner: User, browse_as: Callable[[User], Client]) -> Client:
    return browse_as(owner)


def launch(client: Client, **body: str) -> Any:
    return client.post(LIST, body, content_type="application/json")


def test_the_whole_life_of_a_machine(api: Client, dataset: Dataset, cloud: MemoryCloud) -> None:
    launched = launch(api, doi=dataset.minted, name="By a program")
    assert (launched.status_code, launched.json()["resumed"]) == (202, False)
    address = f"{LIST}{launched.json()['id']}/"

    started = api.get(address).json()
    assert (started["state"], started["name"], started["starting"]) == ("waiting", "By a program", True)
    assert [step["key"] for step in started["progress"]] == [
        "accepted",
        "building",
        "booting",
        "network",
        "data",
        "desktop",
    ]
    assert api.post(f"{address}tickets/").status_code == 409

    machines.settle(cloud, uuid.UUID(started["id"]))
    ready = api.get(address).json()
    assert (ready["state"], ready["can_connect"], ready["dataset_doi"]) == ("active", True, dataset.minted)
    assert all(mount["target"].startswith("/data/") for mount in ready["mounts"])
    ticket = api.post(f"{address}tickets/")
    assert (ticket.status_code, ticket.json()["expires_in"]) == (201, 15)
    assert ticket.json()["path"] == f"/ws/instances/{ready['id']}/desktop/"

    assert api.post(f"{address}stop/").json()["state"] == "stopping"
    machines.settle(cloud, uuid.UUID(ready["id"]))
    assert api.get(address).json()["state"] == "stopped"
    assert api.post(f"{address}reboot/").status_code == 409
    assert api.post(f"{address}start/").json()["state"] == "starting"
    machines.settle(cloud, uuid.UUID(ready["id"]))

    deleted = api.delete(address)
    assert (deleted.status_code, deleted.json()["state"]) == (202, "deleting")
    machines.settle(cloud, uuid.UUID(ready["id"]))
    assert api.get(address).status_code == 404
    assert api.get(LIST).json() == []


def test_a_launch_that_is_sent_again_is_the_same(api: Client, dataset: Dataset) -> None:
    first, second = (launch(api, doi=dataset.minted, key="once") for _ in range(2))

    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    assert second.json()["resumed"]


def test_a_key_that_was_used_for_another_wish_is_refused(api: Client, dataset: Dataset) -> None:
    launch(api, doi=dataset.minted, key="once")

    answer = launch(api, doi=factories.make_dataset().minted, key="once")

    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "key_reused", "key")
    assert Instance.objects.count() == 1


def test_what_the_allowance_does_not_hold_is_refused_with_its_numbers(api: Client, dataset: Dataset) -> None:
    factories.make_flavour(slug="huge", cores=64, memory_mib=1024)

    answer = launch(api, doi=dataset.minted, flavour="huge")

    assert (answer.status_code, answer.json()["code"]) == (409, "quota_exceeded")
    (short,) = answer.json()["detail"]["shortfalls"]
    assert (short["dimension"], short["asked"], short["limit"], short["left"]) == ("cores", 64, 8, 8)
    assert "64 cores" in answer.json()["message"]
    offered = {one["slug"]: one["why_not"] for one in api.get("/api/v1/offer/").json()["flavours"]}
    assert offered["small"] == ""
    assert "64 cores" in offered["huge"]


def test_a_site_that_offers_nothing_says_so(owner: User, api: Client) -> None:
    answer = launch(api, doi=factories.make_dataset().minted)

    assert (answer.status_code, answer.json()["code"]) == (503, "nothing_offered")
    assert answer.json()["way_out"]


def test_somebody_signed_out_is_told_how_to_come_in(client: Client) -> None:
    answer = client.get("/api/v1/me/")

    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="api"'
    assert "Bearer" in answer.json()["way_out"]


def test_a_session_without_its_form_token_changes_nothing(owner: User, dataset: Dataset) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(owner, backend="visa.accounts.oidc.Backend")

    answer = launch(browser, doi=dataset.minted)

    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert "X-CSRFToken" in answer.json()["way_out"]
    assert not Instance.objects.exists()


# --- tokens --------------------------------------------------------------------------------------------------------


@pytest.fixture
def provider(settings: Settings) -> Iterator[OpenProvider]:
    """A provider that knows one token, of the person with its subject."""
    with OpenProvider() as one:
        settings.ENVIRONMENT = replace(settings.ENVIRONMENT, providers=(one.config(),))
        good = {"active": True, "sub": one.subject, "client_id": CLIENT, "exp": time.time() + 600}
        one.answers["/introspect"] = lambda form: Answer(good if form.get("token") == "good" else {"active": False})
        yield one


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_program_with_a_token_needs_no_form_token(provider: OpenProvider, owner: User, dataset: Dataset) -> None:
    Identity.objects.create(user=owner, issuer=provider.issuer, subject=provider.subject)
    program = Client(enforce_csrf_checks=True, headers=bearer("good"))

    assert program.get("/api/v1/me/").json()["id"] == str(owner.public_id)
    assert launch(program, doi=dataset.minted).status_code == 202


def test_a_ticket_got_by_a_token_hangs_on_no_session(
    provider: OpenProvider, owner: User, dataset: Dataset, cloud: MemoryCloud
) -> None:
    Identity.objects.create(user=owner, issuer=provider.issuer, subject=provider.subject)
    instance_id = machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud)

    answer = Client(headers=bearer("good")).post(f"{LIST}{instance_id}/tickets/")

    assert answer.status_code == 201
    assert AccessGrant.objects.get().session_hash == ""


@pytest.mark.parametrize("token", ["bad", "", "a b", "é", "x" * 5000])
def test_a_token_that_does_not_count_is_401_even_where_visitors_may_read(provider: OpenProvider, token: str) -> None:
    for path in ("/api/v1/me/", "/api/v1/datasets/"):
        answer = Client(headers=bearer(token)).get(path)
        assert (answer.status_code, answer.json()["code"]) == (401, "authentication_failed")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert answer.json()["way_out"]


def test_a_token_nobody_can_check_is_503(provider: OpenProvider) -> None:
    provider.answers["/introspect"] = Answer("down", status=502)

    answer = Client(headers=bearer("good")).get("/api/v1/me/")

    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


# --- what others may learn, and what it costs -----------------------------------------------------------------------


def test_hidden_data_change_no_byte_of_a_strangers_answers(
    stranger: User, owner: User, browse_as: Callable[[User], Client], dataset: Dataset
) -> None:
    outside = browse_as(stranger)
    hidden = "10.5555/hidden-1"
    paths = ("/api/v1/datasets/", "/api/v1/datasets/?q=secret", f"/api/v1/datasets/{hidden}/", "/api/v1/experiments/")

    def said() -> list[tuple[int, bytes]]:
        answers = [*(outside.get(path) for path in paths), launch(outside, doi=hidden)]
        return [(answer.status_code, answer.content) for answer in answers]

    before = said()
    experiment = factories.make_experiment(team=[owner], title="A secret experiment")
    factories.make_dataset(doi=hidden, title="secret", open_to_all=False, metadata_public=False, experiment=experiment)

    assert said() == before
    assert browse_as(owner).get(f"/api/v1/datasets/{hidden}/").status_code == 200


def test_anothers_machine_is_answered_as_none(
    owner: User, stranger: User, browse_as: Callable[[User], Client], dataset: Dataset, cloud: MemoryCloud
) -> None:
    there = machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud)
    outside = browse_as(stranger)

    for verb in ("", "start/", "stop/", "reboot/", "tickets/"):
        ask = outside.post if verb else outside.get
        answers = [ask(f"{LIST}{one}/{verb}") for one in (there, uuid.uuid4())]
        assert answers[0].content == answers[1].content
        assert [answer.status_code for answer in answers] == [404, 404]


def test_no_answer_costs_more_queries_for_five_hundred_machines_than_for_five(
    api: Client, owner: User, dataset: Dataset, cloud: MemoryCloud
) -> None:
    row = Instance.objects.get(pk=machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud, dataset=dataset))
    paths = (LIST, f"{LIST}{row.pk}/", "/api/v1/offer/", "/api/v1/allowance/", "/api/v1/me/")
    costs = []
    for number in (5, 500):
        machines.make_many(row, number)
        for path in paths:
            with CaptureQueriesContext(connection) as queries:
                answer = api.get(path)
            costs.append(len(queries))
            assert path != LIST or len(answer.json()) == number

    assert costs[: len(paths)] == costs[len(paths) :]
    assert max(costs) <= 9


@pytest.mark.parametrize("path", ["/api/v1/datasets/", "/api/v1/experiments/"])
def test_lists_of_data_cost_the_same_for_few_and_for_many(api: Client, owner: User, path: str) -> None:
    costs = []
    for _ in range(2):
        for _number in range(10):
            factories.make_dataset(experiment=factories.make_experiment(team=[owner]))
        with CaptureQueriesContext(connection) as queries:
            assert api.get(path).status_code == 200
        costs.append(len(queries))

    assert costs[0] == costs[1]


@pytest.mark.django_db(transaction=True)
def test_no_ticket_outlives_a_session_that_ends_at_the_same_moment(
    owner: User, browse_as: Callable[[User], Client], dataset: Dataset, cloud: MemoryCloud
) -> None:
    api = browse_as(owner)
    instance_id = launch(api, doi=dataset.minted).json()["id"]
    machines.settle(cloud, uuid.UUID(instance_id))
    key = api.session.session_key or ""

    def end() -> None:
        sign_ins.end([key], cause="asked for")
        connection.close()

    ending = threading.Thread(target=end)

    def at_the_last_moment(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith('INSERT INTO "instances_accessgrant"'):
            # Everything was asked, nothing is written. Where the session can end now, it has ended when we go on.
            ending.start()
            ending.join(1)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(at_the_last_moment):
        api.post(f"{LIST}{instance_id}/tickets/")
    ending.join(10)

    assert AccessGrant.objects.get().revoked_at is not None


def test_a_session_that_has_just_ended_gets_no_ticket(
    api: Client, dataset: Dataset, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = launch(api, doi=dataset.minted).json()["id"]
    machines.settle(cloud, uuid.UUID(instance_id))
    monkeypatch.setattr(sign_ins, "hold", lambda session_key: False)

    assert api.post(f"{LIST}{instance_id}/tickets/").status_code == 401
    assert not AccessGrant.objects.exists()
