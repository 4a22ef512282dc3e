"""Which cloud a process gets, and that a site cannot run on one without machines."""

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings

from instances.cloud.connect import connect
from instances.cloud.local import LocalCloud
from instances.cloud.memory import MemoryCloud
from instances.cloud.openstack import OpenStackCloud
from instances.cloud.protocol import CloudUnreachable
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


@pytest.mark.parametrize(("scale", "least", "most"), [(0.05, 0.3, 4.0), (0.6, 5.0, 9.5)])
def test_a_call_takes_as_long_as_the_pace_of_the_site_says(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float, least: float, most: float
) -> None:
    """A cloud that takes the connection and never answers, at ten seconds times the factor."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        auth = {"auth_url": f"http://127.0.0.1:{silent.getsockname()[1]}/v3"}
        auth |= {"application_credential_id": "1", "application_credential_secret": "2"}
        entry = {"auth_type": "v3applicationcredential", "auth": auth}
        place = tmp_path / "clouds.yaml"
        place.write_text(yaml.safe_dump({"clouds": {"silent": entry}}), encoding="utf-8")
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(place))
        set_cloud(settings, kind=CloudKind.OPENSTACK, name="silent", network=f"scale-{scale}")
        settings.ENVIRONMENT = replace(settings.ENVIRONMENT, tests=replace(settings.ENVIRONMENT.tests, scale=scale))
        began = time.monotonic()

        with pytest.raises(CloudUnreachable):
            connect().find(uuid4())

    assert least < time.monotonic() - began < most


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
