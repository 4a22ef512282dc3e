"""Which cloud a process gets, and that a site cannot run on one without machines."""

from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings

from instances.cloud.connect import connect
from instances.cloud.local import LocalCloud
from instances.cloud.memory import MemoryCloud
from instances.cloud.openstack import OpenStackCloud
from visa.environment import CloudKind


def set_cloud(wrapper: Settings, **changes: Any) -> None:
    known = settings.ENVIRONMENT.cloud
    assert known is not None
    cloud = replace(known, **changes)
    wrapper.ENVIRONMENT = replace(settings.ENVIRONMENT, cloud=cloud)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(CloudKind.MEMORY, MemoryCloud), (CloudKind.LOCAL, LocalCloud), (CloudKind.OPENSTACK, OpenStackCloud)],
)
def test_the_settings_choose_the_cloud(settings: Settings, kind: CloudKind, expected: type) -> None:
    set_cloud(settings, kind=kind)

    assert type(connect()) is expected
    assert connect() is connect()


def test_a_process_that_drives_no_machines_has_no_cloud(settings: Settings) -> None:
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, cloud=None)

    with pytest.raises(ImproperlyConfigured):
        connect()


@pytest.mark.parametrize(
    ("kind", "environment", "debug", "found"),
    [
        (CloudKind.MEMORY, "production", False, ["instances.E001"]),
        (CloudKind.MEMORY, "production", True, []),
        (CloudKind.MEMORY, "test-1234", False, []),
        (CloudKind.LOCAL, "production", False, []),
        (CloudKind.OPENSTACK, "production", False, []),
    ],
)
def test_the_memory_cloud_is_refused_outside_tests(
    settings: Settings, kind: CloudKind, environment: str, debug: bool, found: list[str]
) -> None:
    set_cloud(settings, kind=kind, environment=environment)
    settings.DEBUG = debug

    assert [message.id for message in run_checks() if message.id == "instances.E001"] == found
