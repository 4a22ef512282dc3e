"""What a cloud seldom says, without a cloud: odd spellings of a rest, and servers it knows nothing of."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from keystoneauth1.identity.v3 import ApplicationCredential
from openstack import exceptions as sdk_errors
from openstack.compute.v2 import server as compute
from typing_extensions import override

from instances.cloud.openstack import OpenStackCloud
from instances.cloud.openstack.session import LONGEST_REST, TimedSession, our_errors
from instances.cloud.openstack.verbs import _full
from instances.cloud.protocol import CloudFull, CloudLimited, CloudUnreachable, Service


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


@pytest.mark.parametrize(
    "told",
    [
        # nova/exception.py, and nova/limit/placement.py with oslo.limit's sentence
        "Quota exceeded for instances: Requested 1, but already used 2 of 2 instances",
        "Project 6c1d is over a limit for [Resource servers is over limit of 2 due to current usage 2 and delta 1]",
    ],
)
def test_a_project_without_room_is_full_in_either_of_novas_words(told: str) -> None:
    with pytest.raises(CloudFull), _full():
        raise sdk_errors.ForbiddenException(told, http_status=403)


def test_a_right_that_is_missing_is_no_lack_of_room() -> None:
    with pytest.raises(sdk_errors.ForbiddenException), _full():
        raise sdk_errors.ForbiddenException("Policy doesn't allow it to be performed", http_status=403)


def test_who_is_second_to_hear_that_a_shared_token_is_void_asks_again_as_well() -> None:
    """The first gave it up for all; what is left is not a credential that cannot be renewed."""
    shared = ApplicationCredential(
        "http://127.0.0.1:9/v3", application_credential_id="x", application_credential_secret="x"
    )
    first, second = TimedSession(auth=shared), TimedSession(auth=shared)

    assert first.invalidate()
    assert not shared.invalidate()
    assert second.invalidate()


def test_a_call_whose_time_is_over_before_it_is_sent_is_not_sent() -> None:
    """As after a long wait for another thread that signs in."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.settimeout(0.2)
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/servers"
        session = TimedSession()
        session.begin(Service.NOVA, 0.0)

        with pytest.raises(CloudUnreachable) as away, our_errors(session):
            session.request(url, "POST", endpoint_filter={"service_type": "compute"}, authenticated=False)

        assert away.value.unsent
        with pytest.raises(TimeoutError):
            nobody.accept()


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


@pytest.mark.parametrize("verb", ["known", "delete", "console"])
def test_of_a_server_whose_cell_is_down_nobody_says_that_it_is_gone(verb: str) -> None:
    cloud = _Down(cloud="none", network="none", environment="test")

    with pytest.raises(CloudUnreachable):
        getattr(cloud, verb)("6a2f4f5c-0a53-4f2c-9f0b-3f3b8e8f0d11")
