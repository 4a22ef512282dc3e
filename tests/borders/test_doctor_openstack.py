"""The doctor before a real OpenStack: what is there, what is not, a credential that does not count, nobody at all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test.utils import override_settings

from instances import doctor
from instances.models import Image
from quotas.models import Flavour
from tests import factories
from tests.real_cloud import RealCloud, real_cloud
from visa.environment import CloudKind

pytestmark = [pytest.mark.openstack, pytest.mark.django_db]

ASKS = (doctor.cloud_answers, doctor.images_there, doctor.flavours_there, doctor.network_there)


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCloud]:
    with real_cloud(tmp_path, monkeypatch) as cloud:
        yield cloud


@pytest.fixture(autouse=True)
def _site() -> Iterator[None]:
    """A site whose machines are in OpenStack, and what it offers there."""
    factories.make_flavour()
    factories.make_image()
    Flavour.objects.update(cloud_name="visa.small")
    Image.objects.update(cloud_name="visa-desktop")
    assert settings.ENVIRONMENT.cloud is not None
    cloud = replace(settings.ENVIRONMENT.cloud, kind=CloudKind.OPENSTACK, network="visa")
    ranges = (*settings.ENVIRONMENT.desktop_ranges, "10.77.0.0/20")
    with override_settings(ENVIRONMENT=replace(settings.ENVIRONMENT, cloud=cloud, desktop_ranges=ranges)):
        yield


def findings(real: RealCloud, **changes: Any) -> list[doctor.Finding]:
    cloud = real.connect(**changes)
    return [doctor.with_cloud(ask, lambda: cloud)("Cloud") for ask in ASKS]


def test_what_is_there_is_well(real: RealCloud) -> None:
    assert not [one for one in findings(real) if not one.ok]


def test_what_the_cloud_does_not_have_is_named(real: RealCloud) -> None:
    Flavour.objects.update(cloud_name="m1.withdrawn")
    Image.objects.update(cloud_name="renamed")

    _cloud, image, flavour, _network = findings(real)

    assert (image.ok, flavour.ok) == (False, False)
    assert "renamed" in image.sentence
    assert "m1.withdrawn" in flavour.sentence


def test_a_wrong_credential_and_a_cloud_that_is_away_are_told_apart(real: RealCloud) -> None:
    denied = findings(real, auth={"application_credential_secret": "wrong"})
    away = findings(real, auth={"auth_url": "http://127.0.0.1:9/v3"})

    assert not [one for one in (*denied, *away) if one.ok]
    assert all("credential" in one.sentence for one in denied)
    assert all("does not answer" in one.sentence for one in away)
