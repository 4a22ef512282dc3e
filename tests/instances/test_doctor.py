"""The doctor's findings about what no process of ours can be stopped for: the cloud, its offers, mounts, rows, keys."""

import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from pytest_django import Settings
from typing_extensions import override

from deploy.processes import free_port
from experiments.access import UnknownDoi
from instances import doctor, rehearsal
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import Cloud, CloudDenied, Desktop, Offering, Server
from instances.doctor import Finding
from instances.lifecycle import State
from instances.models import Image, Instance
from quotas.models import Flavour, Limit
from tests import factories, machines
from tests.clouds import DeafCloud
from visa.accounts.models import User

pytestmark = pytest.mark.django_db


class DenyingCloud(MemoryCloud):
    """Does not accept the credential."""

    @override
    def offering(self) -> Offering:
        raise CloudDenied("The request you have made requires authentication.")

    @override
    def list(self) -> tuple[Server, ...]:
        raise CloudDenied("The request you have made requires authentication.")


def asked(ask: Callable[[str, Cloud], Finding], cloud: MemoryCloud) -> Finding:
    """What the doctor says with this cloud in the place of the site's."""
    return doctor.with_cloud(ask, lambda: cloud)("Cloud")


@pytest.mark.parametrize(
    "ask", [doctor.cloud_answers, doctor.images_there, doctor.flavours_there, doctor.network_there]
)
def test_a_cloud_that_is_silent_or_denies_us_is_told_apart(
    ask: Callable[[str, Cloud], Finding], flavour: Flavour, image: Image, settings: Settings
) -> None:
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, cloud=replace(settings.ENVIRONMENT.cloud, network="machines"))
    silent, denying = asked(ask, DeafCloud()), asked(ask, DenyingCloud())

    assert not silent.ok
    assert "does not answer" in silent.sentence
    assert not denying.ok
    assert "credential" in denying.sentence
    assert silent.to_do != denying.to_do


def test_an_image_and_a_size_the_cloud_does_not_have_are_named(flavour: Flavour, image: Image, vnc: Desktop) -> None:
    cloud = machines.memory_cloud(vnc)
    assert asked(doctor.images_there, cloud).ok
    assert asked(doctor.flavours_there, cloud).ok

    Image.objects.update(cloud_name="renamed-at-the-cloud")
    Flavour.objects.update(cloud_name="m1.withdrawn")

    for ask, name in ((doctor.images_there, "renamed-at-the-cloud"), (doctor.flavours_there, "m1.withdrawn")):
        told = asked(ask, cloud)
        assert not told.ok
        assert name in told.sentence
        assert told.to_do


def test_nothing_offered_is_told(db: None) -> None:
    assert not asked(doctor.images_there, MemoryCloud()).ok
    assert not asked(doctor.flavours_there, MemoryCloud()).ok


def test_a_network_that_is_not_there_is_told(settings: Settings) -> None:
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, cloud=replace(settings.ENVIRONMENT.cloud, network="machines"))

    told = asked(doctor.network_there, MemoryCloud())

    assert not told.ok
    assert "machines" in told.sentence


def test_a_desktop_outside_the_ranges_is_told(
    owner: User, flavour: Flavour, image: Image, limit: Limit, vnc: Desktop, settings: Settings
) -> None:
    cloud = machines.memory_cloud(vnc)
    machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud)
    assert asked(doctor.network_there, cloud).ok

    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, desktop_ranges=("10.77.0.0/20",))

    assert not asked(doctor.network_there, cloud).ok


def test_a_process_without_a_cloud_says_how_to_be_asked(settings: Settings) -> None:
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, cloud=None)

    (told,) = doctor.examine(["Cloud"])

    assert not told.ok
    assert "VISA_PROCESS=command" in told.to_do


def test_a_file_server_listens_or_is_missed() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert doctor.mount_there("Data", "127.0.0.1:/data/{path}", "nfs", "VISA_DATA", port=port).ok
    told = doctor.mount_there("Data", "127.0.0.1:/data/{path}", "nfs", "VISA_DATA", port=port)

    assert not told.ok
    assert "127.0.0.1" in told.sentence


def test_a_directory_that_is_not_there_is_missed(tmp_path: Path) -> None:
    assert doctor.mount_there("Data", f"{tmp_path}/{{path}}", "none", "VISA_DATA").ok
    assert not doctor.mount_there("Data", f"{tmp_path}/away/{{path}}", "none", "VISA_DATA").ok
    assert not doctor.mount_there("Data", "", "none", "VISA_DATA").ok
    assert not list(tmp_path.iterdir())


def test_machines_nobody_looks_at_are_told(owner: User, flavour: Flavour, image: Image, limit: Limit) -> None:
    instance_id = machines.machine_at(State.BUILDING, owner=owner, cloud=MemoryCloud())
    (told,) = doctor.examine(["Machines"])
    assert told.ok

    Instance.objects.filter(id=instance_id).update(due_at=Now() - timedelta(minutes=7))

    (told,) = doctor.examine(["Machines"])
    assert not told.ok
    assert "7 min" in told.sentence


def test_limits_that_allow_nobody_anything_are_told(flavour: Flavour) -> None:
    (told,) = doctor.examine(["Allowances"])
    assert not told.ok

    factories.make_limit(cores=flavour.cores, memory_mib=flavour.memory_mib - 1)
    (told,) = doctor.examine(["Allowances"])
    assert not told.ok
    assert flavour.slug in told.sentence

    Limit.objects.update(memory_mib=flavour.memory_mib)
    (told,) = doctor.examine(["Allowances"])
    assert told.ok


def test_a_key_that_was_taken_away_is_told(
    owner: User, flavour: Flavour, image: Image, limit: Limit, vnc: Desktop, settings: Settings
) -> None:
    machines.machine_at(State.ACTIVE, owner=owner, cloud=machines.memory_cloud(vnc))
    (told,) = doctor.examine(["Keys"])
    assert told.ok

    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, machine_keys=("A" * 43 + "=",))
    (told,) = doctor.examine(["Keys"])
    assert not told.ok
    assert "sealed" in told.sentence

    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, machine_keys=("nonsense",))
    (told,) = doctor.examine(["Keys"])
    assert not told.ok


def test_settings_that_do_not_fit_together_are_told(settings: Settings) -> None:
    settings.ENVIRONMENT = replace(
        settings.ENVIRONMENT, cloud=replace(settings.ENVIRONMENT.cloud, environment="production")
    )

    (told,) = doctor.examine(["Configuration"])

    assert not told.ok
    assert "instances.E001" in told.sentence


def test_a_name_the_doctor_does_not_know_is_refused_with_those_it_does() -> None:
    with pytest.raises(CommandError, match="Database"):
        call_command("doctor", only=["Weather"])


def test_a_rehearsal_that_nobody_drives_says_so_and_takes_its_machine_away(
    flavour: Flavour, image: Image, limit: Limit
) -> None:
    dataset = factories.make_dataset()

    with pytest.raises(rehearsal.LaunchFailed, match="nobody drives"):
        list(rehearsal.synthetic_launch(dataset.minted, patience=0.1))

    assert [one.state for one in Instance.objects.all()] == [State.DELETING]


def test_a_rehearsal_of_what_is_not_there_is_refused(flavour: Flavour, image: Image, limit: Limit) -> None:
    with pytest.raises(UnknownDoi):
        list(rehearsal.synthetic_launch("10.5555/never-heard-of"))

    assert not Instance.objects.exists()


def test_whoever_stops_listening_leaves_no_machine(flavour: Flavour, image: Image, limit: Limit) -> None:
    steps = rehearsal.synthetic_launch(factories.make_dataset().minted)
    assert next(steps).words == "accepted"

    steps.close()

    assert [one.state for one in Instance.objects.all()] == [State.DELETING]
