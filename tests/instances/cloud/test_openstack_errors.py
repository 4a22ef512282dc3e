"""What a cloud seldom says, without a cloud: odd spellings of a rest, and servers it knows nothing of."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from openstack import exceptions as sdk_errors
from openstack.compute.v2 import server as compute
from typing_extensions import override

from instances.cloud.openstack import OpenStackCloud
from instances.cloud.openstack.session import LONGEST_REST, TimedSession, our_errors
from instances.cloud.protocol import CloudLimited, CloudUnreachable, Service


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("12", 12.0),
        ("9" * 20, LONGEST_REST),
        ("9" * 400, LONGEST_REST),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_REST),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("²", 1.0),
        ("soon", 1.0),
    ],
)
def test_a_rest_that_is_asked_for_has_an_end(told: str, seconds: float) -> None:
    answer = requests.Response()
    answer.status_code = 429
    answer.headers["Retry-After"] = told

    with pytest.raises(CloudLimited) as limit, our_errors(TimedSession()):
        raise sdk_errors.HttpException("Too many requests", response=answer)

    assert limit.value.retry_after == seconds


class _Nova:
    """Knows one server, whose cell is down: Nova tells no more of it (api-guide, "Down cells")."""

    def get_server(self, server_id: str) -> compute.Server:
        return compute.Server(id=server_id, status="UNKNOWN", created_at="2026-11-21T12:00:00Z", project_id="p")

    def delete_server(self, server: compute.Server, *, ignore_missing: bool) -> None:
        raise AssertionError(f"{server.id} was not ours to delete")


class _Down(OpenStackCloud):
    @override
    @contextmanager
    def _call(self, service: Service) -> Iterator[Any]:
        yield SimpleNamespace(nova=_Nova())


@pytest.mark.parametrize("verb", ["exists", "delete", "console"])
def test_of_a_server_whose_cell_is_down_nobody_says_that_it_is_gone(verb: str) -> None:
    cloud = _Down(cloud="none", network="none", environment="test")

    with pytest.raises(CloudUnreachable):
        getattr(cloud, verb)("6a2f4f5c-0a53-4f2c-9f0b-3f3b8e8f0d11")
