"""Without the database every address still answers: with a page that stands alone, or in the one form of a refusal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.db import connection
from django.test import Client

from instances.models import Image
from quotas.models import Flavour, Limit
from tests import factories
from tests.test_headers import complaints
from visa.accounts.models import User


@contextmanager
def away() -> Iterator[None]:
    """The database is where nobody listens."""
    place = connection.settings_dict["HOST"]
    connection.close()
    connection.settings_dict["HOST"] = "/nonexistent"
    try:
        yield
    finally:
        connection.settings_dict["HOST"] = place


@pytest.mark.django_db(transaction=True)
def test_pages_say_so_and_the_api_in_its_own_form(owner: User, browse_as: Callable[[User], Client]) -> None:
    browser = browse_as(owner)

    with away():
        pages = [
            browser.get(path) for path in ("/", "/search/", "/experiments/", "/data/10.5555/x", "/launch/10.5555/x")
        ]
        answers = [
            browser.get("/api/v1/me/"),
            Client().get("/api/v1/datasets/"),
            browser.post("/api/v1/instances/", {"doi": "10.5555/x"}, content_type="application/json"),
        ]

    for page in pages:
        assert page.status_code == 503
        assert page.headers["Retry-After"] == "30"
        assert b"Try again in a minute." in page.content
        assert not complaints(page)
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert not complaints(answer)
    assert browser.get("/api/v1/me/").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_a_database_that_takes_no_writes_is_read_and_refuses_a_launch_in_words(
    owner: User, browse_as: Callable[[User], Client], flavour: Flavour, image: Image, limit: Limit
) -> None:
    browser, dataset = browse_as(owner), factories.make_dataset()

    with connection.cursor() as cursor:
        cursor.execute("set default_transaction_read_only = on")
        try:
            page = browser.get(f"/data/{dataset.minted}")
            answer = browser.post("/api/v1/instances/", {"doi": dataset.minted}, content_type="application/json")
        finally:
            cursor.execute("set default_transaction_read_only = off")

    assert page.status_code == 200
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"] == "30"
