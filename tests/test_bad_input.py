"""Bad input everywhere gets a clear answer: which field, why, and what would work; never a fault of ours."""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from experiments.models import Dataset
from instances.models import Image, Instance
from quotas.models import Flavour, Limit
from tests import factories
from visa.accounts.models import User

pytestmark = pytest.mark.django_db

NASTY = (
    "\x00",
    "a\x00b",
    "\ud800",
    "\u202e10.5555/x",
    "’; DROP TABLE instances_instance; --",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "%00",
    "{{ 7 * 7 }}",
    "\r\nSet-Cookie: x=1",
    "10." + "9" * 5000,
    "10.5555/" + "(" * 2000,
    "https://doi.org/" * 100,
    " " * 1000,
    "ﬁ" * 500,
)


@pytest.fixture
def dataset(flavour: Flavour, image: Image, limit: Limit) -> Dataset:
    return factories.make_dataset(doi="10.5555/input-1")


@pytest.fixture
def api(owner: User, browse_as: Callable[[User], Client]) -> Callable[..., Any]:
    """api(body, ...) -> the answer to a launch by REST."""
    client = browse_as(owner)

    def post(body: object, *, kind: str = "application/json", path: str = "/api/v1/instances/") -> Any:
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        return client.post(path, data, content_type=kind)

    return post


def test_a_malformed_doi_is_told_with_its_field_its_reason_and_what_one_looks_like(
    api: Callable[..., Any], client: Client, dataset: Dataset
) -> None:
    by_rest = api({"doi": "lysozyme"})
    page = client.get("/launch/lysozyme")

    assert by_rest.status_code == page.status_code == 400
    assert (by_rest.json()["field"], by_rest.json()["code"]) == ("doi", "malformed_doi")
    assert "10.5291" in by_rest.json()["way_out"]
    assert "10.5291" in page.content.decode()


@pytest.mark.parametrize(("field", "name"), [("flavour", "size"), ("image", "software")])
def test_a_size_or_software_that_does_not_exist(
    api: Callable[..., Any], owner: User, browse_as: Callable[[User], Client], dataset: Dataset, field: str, name: str
) -> None:
    by_rest = api({"doi": dataset.minted, field: "enormous"})
    page = browse_as(owner).post(f"/launch/{dataset.minted}", {field: "enormous"})

    assert by_rest.status_code == page.status_code == 400
    assert by_rest.json()["field"] == field
    assert f"There is no {name} called “enormous” here." in by_rest.json()["message"]
    assert by_rest.json()["way_out"]
    assert f"There is no {name} called “enormous” here." in page.content.decode()


def test_half_a_character_in_a_name_is_refused(api: Callable[..., Any], dataset: Dataset) -> None:
    """It can be spelt in JSON, and nobody can write it: not even into the answer that names it."""
    answer = api('{"doi": "10.5555/input-1", "\\ud800": 1}')

    assert (answer.status_code, answer.json()["message"]) == (400, "The body is not JSON.")
    assert not Instance.objects.exists()


def test_what_the_cloud_calls_things_is_never_taken(api: Callable[..., Any], dataset: Dataset) -> None:
    Flavour.objects.update(cloud_name="m1.provider")
    Image.objects.update(cloud_name="provider-image")

    for body in (
        {"doi": dataset.minted, "flavour": "m1.provider"},
        {"doi": dataset.minted, "image": "provider-image"},
        {"doi": dataset.minted, "flavour": str(Flavour.objects.get().pk)},
        {"doi": dataset.minted, "network": "public"},
    ):
        assert api(body).status_code == 400
    assert not Instance.objects.exists()


def test_another_persons_experiment_cannot_be_reached_by_any_field(
    api: Callable[..., Any], stranger: User, member: User, browse_as: Callable[[User], Client], dataset: Dataset
) -> None:
    experiment = factories.make_experiment(team=[member])
    hidden = factories.make_dataset(open_to_all=False, metadata_public=False, experiment=experiment)
    browser = browse_as(stranger)

    page = browser.post(f"/launch/{hidden.minted}", {})
    with_field = browser.post(f"/launch/{dataset.minted}", {"experiment": str(experiment.public_id)})
    by_rest = api({"doi": hidden.minted})
    by_rest_field = api({"doi": dataset.minted, "experiment": str(experiment.public_id), "dataset": hidden.pk})

    assert (page.status_code, by_rest.status_code) == (404, 404)
    assert (with_field.status_code, by_rest_field.status_code) == (400, 400)
    assert by_rest_field.json()["detail"]["fields"].keys() == {"experiment", "dataset"}
    assert experiment.title not in page.content.decode() + by_rest.content.decode() + by_rest_field.content.decode()
    assert not Instance.objects.exists()


def test_no_column_of_a_machine_can_be_assigned(api: Callable[..., Any], dataset: Dataset) -> None:
    columns = {one.name for one in Instance._meta.get_fields()} - {"name", "flavour", "image"}

    for column in sorted(columns):
        answer = api({"doi": dataset.minted, column: 1})
        assert answer.status_code == 400, column
        assert answer.json()["field"] == column
    assert not Instance.objects.exists()


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_in_every_field_is_answered(api: Callable[..., Any], dataset: Dataset, text: str) -> None:
    for field in ("doi", "flavour", "image", "name", "key"):
        answer = api({"doi": dataset.minted, field: text} if field != "doi" else {"doi": text})
        assert answer.status_code in {200, 202, 400, 404}, (field, answer.status_code)
        told = answer.json()
        if answer.status_code == 400:
            assert told["field"] == field
            assert told["message"]
            assert told["way_out"]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(
    "path",
    [
        "/search/?q=",
        "/launch/?doi=",
        "/api/v1/datasets/?q=",
        "/signin/?next=",
        "/data/?page=",
        "/api/v1/schema/?version=",
        "/api/v1/schema/?lang=",
    ],
)
def test_nasty_text_in_every_query_is_answered(client: Client, dataset: Dataset, path: str, text: str) -> None:
    answer = client.get(path + quote(text.encode("utf-8", "surrogatepass")))

    assert answer.status_code in {200, 302, 400, 404}
    assert "\n" not in answer.headers.get("Location", "")
    assert "Set-Cookie: x=1" not in str(answer.headers)


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_in_every_path_is_answered(client: Client, dataset: Dataset, text: str) -> None:
    named = quote(text.encode("utf-8", "surrogatepass"), safe="/")
    for path in (
        f"/data/{named}",
        f"/launch/{named}",
        f"/api/v1/datasets/{named}/",
        f"/machines/{named}/",
        f"/{named}",
    ):
        assert client.get(path).status_code in {200, 302, 301, 400, 404}, path


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid"),
        (b"{", 400, "parse_error"),
        (b"\xff\xfe", 400, "parse_error"),
        (b"[]", 400, "invalid"),
        (b"null", 400, "invalid"),
        (b'"10.5555/input-1"', 400, "invalid"),
        (b'{"doi": NaN}', 400, "parse_error"),
        (b'{"doi": ' + b"9" * 5000 + b"}", 400, "parse_error"),
        (b'{"doi": 1e999}', 400, "invalid"),
        (b'{"doi": {"a": 1}}', 400, "invalid"),
        (b'{"doi": true}', 400, "invalid"),
        (b'{"doi": "10.5555/input-1", "name": 7}', 400, "invalid"),
        (b'{"doi": "10.5555/input-1", "flavour": ["small"]}', 400, "invalid"),
        (b"[" * 100_000, 400, "parse_error"),
        (b'{"doi": ' + b"[" * 21 + b"]" * 21 + b"}", 400, "parse_error"),
        (b'{"doi": "' + b"x" * 300_000 + b'"}', 413, "body_too_large"),
        (b"{" + b'"a":1,' * 1000 + b'"doi":"x"}', 400, "invalid"),
    ],
    ids=lambda one: str(one)[:30],
)
def test_a_body_that_is_no_wish_is_told_why(
    api: Callable[..., Any], dataset: Dataset, body: bytes, status: int, code: str
) -> None:
    answer = api(body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"]
    assert answer.json()["way_out"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "", "application/jsonx"]
)
def test_another_kind_of_body_is_refused(api: Callable[..., Any], dataset: Dataset, kind: str) -> None:
    answer = api(b'{"doi": "10.5555/input-1"}', kind=kind)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Type" in answer.json()["way_out"]


def test_whatever_form_of_answer_is_asked_for_json_comes(client: Client, dataset: Dataset) -> None:
    for accept in ("text/html", "application/xml", "nonsense", "*/*;q=0"):
        answer = client.get("/api/v1/datasets/?format=xml", headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "limit=", "offset=-1", "offset=1e3", "limit=" + "9" * 4000]
)
def test_a_part_of_a_list_that_cannot_be_is_named(client: Client, dataset: Dataset, query: str) -> None:
    answer = client.get(f"/api/v1/datasets/?{query}")

    assert answer.status_code == 400
    assert answer.json()["field"] == query.partition("=")[0]


def test_forms_that_are_too_large_have_too_many_fields_or_broken_parts_get_a_page(
    owner: User, browse_as: Callable[[User], Client], dataset: Dataset
) -> None:
    browser, path = browse_as(owner), f"/launch/{dataset.minted}"
    many = "&".join(f"f{number}=1" for number in range(1000))
    form = "application/x-www-form-urlencoded"
    answers = {
        413: browser.post(path, "flavour=" + "x" * 300_000, content_type=form),
        400: browser.post(path, many, content_type=form),
    }
    broken = browser.post(path, b"--x\r\nnonsense", content_type="multipart/form-data; boundary=\x00")

    for status, answer in answers.items():
        assert answer.status_code == status
        assert b"<html" in answer.content
    assert broken.status_code == 400
    assert not Instance.objects.exists()


def test_a_host_that_is_not_ours_is_refused_as_page_and_as_json(client: Client) -> None:
    for path, begins in (("/", b"<!"), ("/api/v1/me/", b"{")):
        answer = client.get(path, headers={"host": "evil.example"})
        assert answer.status_code == 400
        assert answer.content.lstrip()[:2].startswith(begins)
        assert b"evil.example" not in answer.content


def test_long_input_takes_no_long_time(client: Client, api: Callable[..., Any], dataset: Dataset) -> None:
    for text in ("10." + "1" * 200_000, "https://doi.org/" * 12_000, "10.5555/" + " ." * 100_000, "a " * 100_000):
        began = time.process_time()
        api({"doi": text})
        client.get("/api/v1/datasets/", {"q": text[:8000]})
        assert time.process_time() - began < 0.5
