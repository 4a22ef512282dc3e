"""Every answer carries the headers that keep a browser from being used against its person, errors included."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.http import HttpRequest, HttpResponse
from django.templatetags.static import static
from django.test import Client
from django.urls import path

import visa.urls
from tests import routes
from visa.accounts.models import User
from visa.errors import Conflict
from visa.urls import handler400, handler403, handler404, handler500  # noqa: F401 - the URL conf below uses them

pytestmark = pytest.mark.django_db


def _fault(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("a fault of ours, asked for by a test")


def _refusal(request: HttpRequest) -> HttpResponse:
    raise Conflict("not now")


#: the site, and two addresses that always fail
urlpatterns = [
    path("faulty/", _fault),
    path("api/faulty/", _fault),
    path("refused/", _refusal),
    *visa.urls.urlpatterns,
]


def complaints(answer: Any) -> list[str]:
    """What is wrong with an answer's headers."""
    wanted = {
        "frame-ancestors 'none'": "frame-ancestors 'none'" in answer.headers.get("Content-Security-Policy", ""),
        "default-src 'none'": "default-src 'none'" in answer.headers.get("Content-Security-Policy", ""),
        "no inline script": "unsafe-inline" not in answer.headers.get("Content-Security-Policy", ""),
        "X-Frame-Options": answer.headers.get("X-Frame-Options") == "DENY",
        "nosniff": answer.headers.get("X-Content-Type-Options") == "nosniff",
        "Referrer-Policy": answer.headers.get("Referrer-Policy") in {"no-referrer", "same-origin"},
        "CORP": answer.headers.get("Cross-Origin-Resource-Policy") == "same-origin",
        "nobody else's": "Access-Control-Allow-Origin" not in answer.headers,
        "COOP": answer.headers.get("Cross-Origin-Opener-Policy") == "same-origin",
        "a word to caches": "Cache-Control" in answer.headers,
    }
    return [name for name, holds in wanted.items() if not holds]


def every_path() -> list[str]:
    values = {
        "instance_id": uuid4(),
        "hold_id": 1,
        "doi": "10.5555/nobody",
        "slug": "demo",
        "object_id": "0",
        "content_type_id": "0",
        "app_label": "quotas",
        "url": "nowhere",
    }
    return [routes.filled(route, values) for route in routes.every_route()]


def test_every_address_and_every_method(administrator: User, browse_as: Callable[[User], Client]) -> None:
    wrong = {}
    for client in (Client(), browse_as(administrator)):
        for address in every_path():
            for method in ("GET", "POST", "DELETE"):
                answer = client.generic(method, address)
                if complaints(answer):
                    wrong[f"{method} {address}: {answer.status_code}"] = complaints(answer)

    assert not wrong


def test_errors_too(client: Client, settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    client.raise_request_exception = False
    csrf = Client(enforce_csrf_checks=True)
    answers = {
        404: [client.get("/nowhere/"), client.get("/api/v1/nowhere/"), client.get("/static/nowhere.css")],
        400: [client.get("/", headers={"host": "elsewhere.example"}), client.get("/launch/?flavour=small&doi=x")],
        403: [csrf.post("/launch/10.5555/nobody")],
        405: [client.put("/"), client.put("/api/v1/schema/")],
        409: [client.get("/refused/")],
        413: [csrf.post("/signout/", {"text": "x" * 300_000})],
        500: [client.get("/faulty/"), client.get("/api/faulty/")],
    }

    for status, given in answers.items():
        for answer in given:
            assert answer.status_code == status
            assert not complaints(answer), (status, complaints(answer))


def test_a_fault_tells_a_number_and_nothing_else(client: Client, settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    client.raise_request_exception = False

    page, answer = client.get("/faulty/"), client.get("/api/faulty/")

    assert b"asked for by a test" not in page.content + answer.content
    assert answer.json()["code"] == "fault"
    assert answer.json()["detail"]["number"]


def test_parts_of_pages_too(client: Client) -> None:
    answer: Any = client.get(static("visa/visa.css"))

    assert b"".join(answer.streaming_content)
    assert answer.status_code == 200
    assert not complaints(answer)
    answer.close()


def test_no_cache_keeps_what_the_api_says(administrator: User, browse_as: Callable[[User], Client]) -> None:
    for client in (Client(), browse_as(administrator)):
        for address in ("/api/v1/me/", "/api/v1/datasets/", "/api/v1/nowhere/"):
            assert "no-store" in client.get(address).headers["Cache-Control"]


def test_no_cache_keeps_a_refusal_with_somebodys_name(owner: User, browse_as: Callable[[User], Client]) -> None:
    client = browse_as(owner)
    for address in ("/nowhere/", f"/machines/{uuid4()}/", "/data/10.5555/nobody", "/launch/?nothing=known"):
        answer = client.get(address)
        assert owner.name in answer.content.decode()
        assert "no-store" in answer.headers["Cache-Control"]
