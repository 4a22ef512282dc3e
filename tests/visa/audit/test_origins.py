"""Every row says under which request, step or socket it was written, and from where; and the log says the same."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from instances.models import Image, Instance
from quotas.models import Flavour, Limit
from tests import factories
from visa.accounts.models import User
from visa.audit import origins, trail
from visa.audit.models import AuditEvent, AuditText
from visa.logs import LineFormatter


@pytest.mark.parametrize(
    ("told", "peer", "behind_proxy", "source"),
    [
        ("192.0.2.7", "10.0.0.1", True, "192.0.2.7"),
        ("2001:DB8::7", "10.0.0.1", True, "2001:db8::7"),
        ("", "10.0.0.1", True, ""),
        ("192.0.2.7", "10.0.0.1", False, "10.0.0.1"),
        ("192.0.2.7, 203.0.113.9", "10.0.0.1", True, ""),
        ("<script>", "10.0.0.1", True, ""),
        ("", "", False, ""),
    ],
)
def test_an_address_is_the_proxys_word_behind_one_and_the_peer_without(
    told: str, peer: str, behind_proxy: bool, source: str
) -> None:
    assert origins.source_of(told, peer, behind_proxy=behind_proxy) == source


def test_each_call_of_a_step_is_an_origin_of_its_own_and_leaves_none_behind() -> None:
    step = origins.each("step")(lambda: origins.current().correlation)

    first, second = step(), step()

    assert first.startswith("step-")
    assert first != second
    assert origins.current() == origins.Origin()


@pytest.mark.parametrize(("url", "source"), [("http://testserver", "127.0.0.1"), ("https://testserver", "192.0.2.7")])
def test_what_a_request_did_is_found_by_its_number_and_where_it_came_from(
    url: str,
    source: str,
    owner: User,
    flavour: Flavour,
    image: Image,
    limit: Limit,
    browse_as: Callable[[User], Client],
    settings: Settings,
) -> None:
    settings.SITE = replace(settings.SITE, url=url)
    dataset = factories.make_dataset()

    answer = browse_as(owner).post(f"/launch/{dataset.minted}", headers={"X-Real-IP": "192.0.2.7"})

    machine = Instance.objects.get()
    row = AuditEvent.objects.get(action="instance.wanted.running")
    assert answer["X-Request-ID"] == row.correlation
    assert row.correlation.startswith("request-")
    assert (row.object_id, AuditText.objects.get(digest=row.text_digest).source) == (str(machine.id), source)


async def test_what_happens_on_a_websocket_is_of_that_socket() -> None:
    seen = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(origins.current())

    behind, bare = (origins.of_sockets(inner, behind_proxy=one) for one in (True, False))
    await behind({"headers": [(b"x-real-ip", b"192.0.2.7")], "client": None}, None, None)
    await bare({"headers": [(b"x-real-ip", b"192.0.2.7")], "client": ("192.0.2.8", 4000)}, None, None)

    assert [one.source for one in seen] == ["192.0.2.7", "192.0.2.8"]
    assert len({one.correlation for one in seen}) == 2
    assert origins.current() == origins.Origin()


def test_log_lines_carry_the_number_of_their_request_and_none_outside() -> None:
    record = logging.LogRecord("visa", logging.INFO, "", 0, "so", None, None)

    with origins.within(correlation="request-1"):
        inside = json.loads(LineFormatter().format(record))
    outside = json.loads(LineFormatter().format(record))

    assert inside["correlation"] == "request-1"
    assert "correlation" not in outside


@pytest.mark.django_db
def test_what_nobody_typed_from_nowhere_has_no_personal_text() -> None:
    trail.record("flavour.change", kind="flavour", object_id="small")

    assert AuditEvent.objects.get().text_digest == ""
    assert not AuditText.objects.exists()
