"""What would give each machine's secrets away is refused before the first machine."""

from dataclasses import replace
from typing import Any

import pytest

from instances import checks
from visa.environment import Guests


@pytest.mark.parametrize(
    ("url", "demo", "environment", "ids"),
    [
        ("https://visa.facility.example", False, "production", []),
        ("http://visa.facility.example", False, "production", ["instances.E004"]),
        ("http://10.77.0.1:8000", False, "production", ["instances.E004"]),
        ("http://10.77.0.1:8000", True, "production", []),
        ("http://10.77.0.1:8000", False, "test-1", []),
        ("http://127.0.0.1:8000", False, "production", []),
    ],
)
def test_machines_fetch_their_secrets_over_tls_but_in_a_demo(
    settings: Any, url: str, demo: bool, environment: str, ids: list[str]
) -> None:
    before = settings.ENVIRONMENT
    settings.ENVIRONMENT = replace(
        before,
        guests=Guests(url=url, authority=""),
        site=replace(before.site, demo=demo),
        cloud=replace(before.cloud, environment=environment),
    )

    assert [one.id for one in checks.machines_reach_the_site_by_tls(None)] == ids


@pytest.mark.parametrize(
    ("scale", "checkpoints", "environment", "debug", "ids"),
    [
        (1.0, "", "production", False, []),
        (0.1, "", "production", False, ["instances.E002"]),
        (1.0, "/run/points", "production", False, ["instances.E002"]),
        (0.1, "/run/points", "production", True, []),
        (0.1, "/run/points", "test-1", False, []),
    ],
)
def test_switches_of_tests_are_refused_but_in_tests_and_where_debugging_is_on(
    settings: Any, scale: float, checkpoints: str, environment: str, debug: bool, ids: list[str]
) -> None:
    before = settings.ENVIRONMENT
    settings.DEBUG = debug
    settings.ENVIRONMENT = replace(
        before,
        tests=replace(before.tests, scale=scale, checkpoints=checkpoints),
        cloud=replace(before.cloud, environment=environment),
    )

    assert [one.id for one in checks.test_switches_are_for_tests(None)] == ids
