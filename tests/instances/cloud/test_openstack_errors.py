"""What a cloud says of waiting, without a cloud: the header's odd spellings."""

import pytest
import requests
from openstack import exceptions as sdk_errors

from instances.cloud.openstack.session import LONGEST_REST, TimedSession, our_errors
from instances.cloud.protocol import CloudLimited


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
