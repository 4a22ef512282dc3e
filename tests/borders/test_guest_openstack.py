"""Machines of a real OpenStack that fetch their secrets and report, from the launch of a DOI to what its owner reads.

They boot for real, which takes minutes; each test lets one machine show several things.
"""

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from django.conf import settings
from django.test.utils import override_settings

from experiments.models import Dataset
from instances import access, actions, credentials, guest_reports, provisioning, watch
from instances.access import InstanceView
from instances.actions import Launch
from instances.cloud.openstack import OpenStackCloud
from instances.lifecycle import State
from instances.models import GuestPass, GuestReport, Image, Instance
from quotas.models import Flavour
from tests import factories
from tests.gateway import WebProcess
from tests.real_cloud import RealCloud, has_guests, real_cloud, state
from visa.accounts.models import User
from visa.environment import CloudKind, Guests

pytestmark = [pytest.mark.openstack, pytest.mark.guests, pytest.mark.django_db(transaction=True)]

#: this host, as the guests of deploy/openstack see it
HOST = "10.77.0.1"
#: a boot takes a minute where nothing else runs, and many where much does
PATIENCE = 900.0


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCloud]:
    assert has_guests(), "these need guests that boot: deploy/openstack/up without --fake"
    with real_cloud(tmp_path, monkeypatch) as cloud:
        yield cloud


@pytest.fixture
def cloud(real: RealCloud) -> OpenStackCloud:
    return real.connect()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebProcess]:
    process = WebProcess(tmp_path / "web.log", machines_host=HOST)
    yield process
    process.stop()


@pytest.fixture(autouse=True)
def _site(transactional_db: None, web: WebProcess) -> Iterator[None]:
    """A site whose machines are in OpenStack, with what its guests mount."""
    factories.make_flavour()
    factories.make_image()
    factories.make_limit()
    Flavour.objects.update(cloud_name="visa.small", cores=1, memory_mib=1024)
    Image.objects.update(cloud_name="visa-desktop")
    modules = exported("software") / "modulefiles"
    modules.mkdir(parents=True, exist_ok=True)
    (modules / "of-a-test").touch()
    before = settings.ENVIRONMENT
    assert before.cloud is not None
    told = replace(
        before,
        cloud=replace(before.cloud, kind=CloudKind.OPENSTACK, network="visa"),
        desktop_ranges=("10.77.0.0/20",),
        guests=Guests(url=web.machines_url, authority=""),
        data=replace(
            before.data,
            source=f"{HOST}:/data/{{path}}",
            fstype="nfs4",
            software_source=f"{HOST}:/software",
            software_fstype="nfs4",
        ),
    )
    with override_settings(ENVIRONMENT=told):
        yield


def exported(name: str) -> Path:
    """The directory guests find at HOST:/name."""
    return Path((state() / "nfs" / name).read_text().strip())


@pytest.fixture
def dataset() -> Iterator[Dataset]:
    made = factories.make_dataset(path="of-a-test/sample")
    yield made
    shutil.rmtree(exported("data") / "of-a-test", ignore_errors=True)


def provide(dataset: Dataset) -> None:
    """Puts the dataset where guests mount it."""
    place = exported("data") / dataset.path
    place.mkdir(parents=True)
    (place / "measured.txt").write_text("counts\n")
    for one in (place.parent, place, place / "measured.txt"):
        one.chmod(0o755)


def drive(cloud: OpenStackCloud, owner: User, machine: UUID, until: Callable[[InstanceView], object]) -> InstanceView:
    """Takes the platform's steps until the owner reads this of the machine."""
    end = time.monotonic() + PATIENCE
    while True:
        watch.turn(cloud)
        provisioning.advance(cloud)
        view = access.instance_for(owner, machine)
        if until(view):
            return view
        assert time.monotonic() < end, f"{view}\n{console(cloud, machine)}"
        time.sleep(0.5)


def console(cloud: OpenStackCloud, machine: UUID) -> str:
    server = Instance.objects.get(id=machine).server_id
    return cloud.console(server, lines=60) if server else "it has no server"


def fault_of(view: InstanceView, key: str) -> str:
    return next((one.fault for one in view.progress if one.key == key), "")


def test_a_machine_fetches_its_secrets_reports_its_boot_and_boots_again_without_asking(
    real: RealCloud, cloud: OpenStackCloud, web: WebProcess, owner: User, dataset: Dataset
) -> None:
    provide(dataset)
    web.start()
    machine = actions.launch(Launch(doi=dataset.minted), by=owner).instance_id

    drive(cloud, owner, machine, lambda view: view.state is State.ACTIVE)
    view = drive(cloud, owner, machine, lambda _: GuestReport.objects.filter(step="desktop").exists())

    assert view.faults == ()
    assert view.state_words == "Ready"
    reports = {(one.step, one.subject): (one.ok, one.heard) for one in GuestReport.objects.all()}
    assert reports == {
        ("booted", ""): (True, "network"),
        ("network", web.machines_url): (True, "network"),
        ("mounts", view.mounts[0].target): (True, "network"),
        ("software", settings.ENVIRONMENT.data.software_target): (True, "network"),
        ("desktop", ""): (True, "network"),
    }
    used = GuestPass.objects.get(instance_id=machine)
    row = Instance.objects.get(id=machine)
    assert used.used_from == row.desktop_host
    # Whatever lies about in the cloud: no secret, and a token that opens nothing any more.
    told = user_data_of(real, row)
    kept = credentials.unseal(row.desktop_secret, settings.ENVIRONMENT.machine_keys)
    for secret in (kept.password, kept.key.splitlines()[1], "PRIVATE KEY"):
        assert secret not in told
        assert secret not in cloud.console(str(row.server_id), lines=10_000)
    files = {one["path"]: one["content"] for one in yaml.safe_load(told)["write_files"]}
    ticket = guest_reports.enrolment(machine, json.loads(files["/etc/visa/guest.json"])["token"])
    with pytest.raises(guest_reports.PassUsed):
        guest_reports.redeem(ticket, "a-word-of-somebody-who-found-the-token")

    actions.reboot(machine, by=owner)
    drive(cloud, owner, machine, lambda view: view.state is State.REBOOTING)
    drive(cloud, owner, machine, lambda view: view.state is State.ACTIVE)
    drive(cloud, owner, machine, lambda _: GuestReport.objects.filter(step="desktop", at__gt=used.used_at).exists())

    assert GuestPass.objects.get(instance_id=machine).used_at == used.used_at
    actions.delete(machine, by=owner)


def user_data_of(real: RealCloud, row: Instance) -> str:
    """What the cloud's own administrators can read of it."""
    answer: Any = real.sdk().compute.get(f"/servers/{row.server_id}").json()["server"]
    return base64.b64decode(answer["OS-EXT-SRV-ATTR:user_data"]).decode()


def test_a_machine_without_platform_is_heard_on_its_console_and_one_without_data_is_never_shown_as_ready(
    cloud: OpenStackCloud, web: WebProcess, owner: User, dataset: Dataset
) -> None:
    # Nobody serves at the machines' address yet, and the export has no such directory.
    machine = actions.launch(Launch(doi=dataset.minted), by=owner).instance_id

    view = drive(cloud, owner, machine, lambda view: fault_of(view, "network"))

    assert fault_of(view, "network").startswith(f"the machine does not reach {web.machines_url}: it does not answer")
    assert view.starting
    assert set(GuestReport.objects.values_list("heard", flat=True)) == {"console"}

    web.start()
    view = drive(cloud, owner, machine, lambda view: view.state is State.ACTIVE)

    target = view.mounts[0].target
    assert [one.words for one in view.faults] == [f"{target} is not mounted: the server has no such directory"]
    assert view.state_words == "Ready, but not all of it"

    provide(dataset)
    view = drive(cloud, owner, machine, lambda view: not view.faults)
    assert view.state_words == "Ready"
    actions.delete(machine, by=owner)
