"""What people and operators are told of the sweeps: the page, the command and the doctor's findings."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db.models import F
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from instances import doctor, reconciliation, sweeps
from instances.cloud import connect as connecting
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import Cloud
from instances.lifecycle import State
from instances.models import Image, Instance, Sighting, Sweep, SweepHold, Watch
from instances.strays import DOUBTS, Doubt
from instances.views.reconciliation import HEIGHT, WIDTH, plot
from quotas.models import Allowance, Flavour, Limit
from tests import machines
from visa.accounts.models import User
from visa.environment import CloudKind

pytestmark = pytest.mark.django_db

PAGE = "/machines/reconciliation/"
Verdict = Sighting.Verdict


@pytest.fixture
def machine(owner: User, flavour: Flavour, image: Image, limit: Limit, cloud: MemoryCloud) -> Instance:
    return Instance.objects.get(id=machines.machine_at(State.ACTIVE, owner=owner, cloud=cloud))


def make_hold(*, why: str = DOUBTS[Doubt.PUT_BACK]) -> SweepHold:
    return SweepHold.objects.create(since=timezone.now(), why=why, detail="serial 900, newest here 40")


def make_sighting(verdict: str = Verdict.QUARANTINED, **more: object) -> Sighting:
    now = timezone.now()
    fields = {
        "kind": Sighting.Kind.SERVER,
        "provider_id": uuid4(),
        "name": "visa-stray",
        "instance_id": uuid4(),
        "made_at": now - timedelta(hours=1),
        "first_seen_at": now - timedelta(minutes=12),
        "last_seen_at": now,
        "why": "No machine of this database ever had it.",
        **more,
    }
    return Sighting.objects.create(verdict=verdict, **fields)


# --- the page -----------------------------------------------------------------------------------------------------


def test_an_agreeing_site_says_so(
    machine: Instance, cloud: MemoryCloud, browse_as: Callable[[User], Client], administrator: User
) -> None:
    reconciliation.sweep(cloud)

    shown = browse_as(administrator).get(PAGE).content.decode()

    assert "all that the cloud has under our tag belongs to a machine" in shown
    assert "too old" not in shown
    assert "Release" not in shown


def test_strays_are_shown_with_the_reason_and_those_that_wait_apart_from_those_of_the_past(
    browse_as: Callable[[User], Client], support: User
) -> None:
    make_sighting(name="visa-waits")
    make_sighting(Verdict.SWEPT, name="visa-went")

    shown = browse_as(support).get(PAGE).content.decode()

    assert shown.index("visa-waits") < shown.index("Strays of the past") < shown.index("visa-went")
    assert shown.count("No machine of this database ever had it.") == 2
    assert "seen twice; to be deleted" in shown


def test_only_administrators_release_and_once(
    browse_as: Callable[[User], Client], administrator: User, support: User
) -> None:
    hold, other = make_hold(), make_hold(why=DOUBTS[Doubt.STRANGERS])
    address = reverse("instances:reconciliation-release", args=[hold.id])
    reads = browse_as(support).get(PAGE).content.decode()
    assert "An administrator can release them." in reads
    assert address not in reads
    assert browse_as(support).post(address).status_code == 403
    browser = browse_as(administrator)
    assert address in browser.get(PAGE).content.decode()
    browser.get(address)
    assert SweepHold.objects.get(id=hold.id).released_at is None

    browser.post(address)
    assert "Released." in browser.get(PAGE).content.decode()
    browser.post(address)
    assert "released before" in browser.get(PAGE).content.decode()

    hold.refresh_from_db()
    assert hold.released_by == administrator
    # Only the one that was read about.
    assert SweepHold.objects.get(released_at=None) == other


def test_somebody_whose_account_is_closed_releases_nothing(administrator: User) -> None:
    hold = make_hold()
    administrator.is_active = False

    with pytest.raises(Exception, match="no such page"):
        sweeps.release(hold.id, by=administrator)


def test_nobody_sweeping_is_said(
    browse_as: Callable[[User], Client], administrator: User, cloud: MemoryCloud, machine: Instance
) -> None:
    browser = browse_as(administrator)
    assert "Nothing was compared here yet." in browser.get(PAGE).content.decode()

    reconciliation.sweep(cloud)
    Sweep.objects.update(at=F("at") - timedelta(minutes=6))

    assert "The last comparison is too old:" in browser.get(PAGE).content.decode()


def test_the_page_costs_the_same_for_many_sweeps_and_strays(
    browse_as: Callable[[User], Client], administrator: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    now = timezone.now()
    Sweep.objects.bulk_create(
        Sweep(at=now - timedelta(minutes=one), rows=9, servers=9, ports=9, volumes=0, strays=one % 3)
        for one in range(500)
    )
    for one in range(150):
        make_sighting(Verdict.QUARANTINED if one % 2 else Verdict.EXPLAINED)
    browser = browse_as(administrator)
    browser.get(PAGE)

    with django_assert_max_num_queries(10):
        shown = browser.get(PAGE).content.decode()

    assert shown.count('<th scope="row">') == sweeps.SHOWN_SWEEPS
    assert shown.count("<li>") < 150


def test_the_drawing_has_each_sweep_at_its_time_and_its_number() -> None:
    now = timezone.now()

    def view(minutes: int, rows: int, strays: int = 0) -> sweeps.SweepView:
        return sweeps.SweepView(
            at=now - timedelta(minutes=minutes),
            rows=rows,
            servers=4,
            ports=0,
            volumes=0,
            strays=strays,
            swept=0,
            ghosts=0,
            held="",
        )

    drawn = plot((view(0, 8), view(1, 4, strays=2), view(4, 0)))

    assert drawn is not None
    assert drawn.most == 8
    assert drawn.machines == f"0.0,{HEIGHT}.0 450.0,{HEIGHT / 2} {WIDTH}.0,0.0"
    assert drawn.servers == "0.0,60.0 450.0,60.0 600.0,60.0"
    assert drawn.strays == (("450.0", "90.0"),)
    assert plot((view(0, 8),)) is None


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def site(settings: Settings, cloud: MemoryCloud) -> Iterator[Cloud]:
    """The site's own cloud, as commands connect to it: offering what the factories name."""
    asked = replace(settings.ENVIRONMENT.cloud, kind=CloudKind.MEMORY, cores=3001)
    settings.ENVIRONMENT = replace(settings.ENVIRONMENT, cloud=asked)
    here = connecting.connect()
    assert isinstance(here, MemoryCloud)
    here.desktop, here._offering = cloud.desktop, cloud.offering()
    yield here
    for server in here.list():
        here.delete(server.id)
    for port in here.ports():
        here.delete_port(port.id)


def command(*options: str) -> tuple[int, str]:
    """Its exit status, and what it says."""
    out = StringIO()
    try:
        call_command("reconcile_instances", *options, stdout=out, stderr=out)
    except SystemExit as left:
        return int(str(left.code)), out.getvalue()
    raise AssertionError("the command says by its status what it found")


@pytest.fixture
def here(owner: User, flavour: Flavour, image: Image, limit: Limit, site: Cloud) -> Instance:
    return Instance.objects.get(id=machines.machine_at(State.ACTIVE, owner=owner, cloud=site))


def test_where_both_agree_it_says_so_and_leaves_with_0(here: Instance) -> None:
    status, told = command()

    assert status == 0
    assert re.search(r"^1 machines here; in the cloud 1 servers, \d+ ports, 0 volumes$", told, re.MULTILINE)
    assert "0 strays" in told


def test_it_changes_nothing_unless_told_to(here: Instance, site: MemoryCloud) -> None:
    command("--apply")
    before = Sweep.objects.count()
    port = site.create_port(uuid4())

    status, told = command()

    assert status == 1
    assert f"port    {port.id}" in told
    assert "sighted: No machine of this database ever had it." in told
    assert not Sighting.objects.exists()
    assert Sweep.objects.count() == before


def test_apply_deletes_what_is_old_enough_and_nothing_else(here: Instance, site: MemoryCloud) -> None:
    command("--apply")
    old, young = site.create_port(uuid4()), site.create_port(uuid4())
    environment, port = site._ports[old.id]
    site._ports[old.id] = (environment, replace(port, created_at=port.created_at - timedelta(hours=1)))
    assert command("--apply")[0] == 1
    Sighting.objects.update(
        first_seen_at=F("first_seen_at") - timedelta(hours=1), quarantined_at=F("first_seen_at") - timedelta(minutes=30)
    )

    status, told = command("--apply")

    assert status == 1
    assert f"{old.id}  {old.name}  deleted:" in told
    assert f"{young.id}  {young.name}  sighted:" in told
    assert {one.id for one in site.ports()} == {young.id, here.port_id} - {None}


def test_a_hold_is_told_by_status_3_and_ended_by_release(here: Instance) -> None:
    hold = make_hold()
    status, told = command()
    assert status == 3
    assert hold.why in told
    assert "serial 900" in told

    status, told = command("--release")

    assert status == 0
    assert "1 holds released" in told
    assert not SweepHold.objects.filter(released_at=None).exists()


def test_a_machine_without_its_server_is_named(here: Instance, site: Cloud) -> None:
    site.delete(str(here.server_id))

    status, told = command()

    assert status == 1
    assert re.search(rf"machines without their server\n  {here.id}  .*{here.server_id}", told)


def test_a_cloud_that_does_not_answer_is_status_4(settings: Settings) -> None:
    settings.ENVIRONMENT = replace(
        settings.ENVIRONMENT,
        cloud=replace(settings.ENVIRONMENT.cloud, kind=CloudKind.OPENSTACK, name="nowhere", network="none"),
    )

    status, told = command()

    assert status == 4
    assert "nothing was compared" in told


# --- the doctor ---------------------------------------------------------------------------------------------------


def ask(name: str) -> doctor.Finding:
    return next(iter(doctor.examine([name])))


def test_the_doctor_misses_sweeps_and_tells_what_waits_for_a_person(machine: Instance, cloud: MemoryCloud) -> None:
    assert not ask("Sweeps").ok
    assert "Nobody has compared" in ask("Sweeps").sentence

    reconciliation.sweep(cloud)
    assert ask("Sweeps").ok
    assert "1 machines beside 1 servers" in ask("Sweeps").sentence

    held = make_sighting(Verdict.HELD, name="visa-held")
    assert "visa-held" in ask("Sweeps").sentence
    assert PAGE in ask("Sweeps").to_do
    held.delete()

    hold = make_hold()
    assert hold.why in ask("Sweeps").sentence
    assert PAGE in ask("Sweeps").to_do
    hold.delete()

    Sweep.objects.update(at=F("at") - timedelta(minutes=6))
    assert not ask("Sweeps").ok


def test_the_doctor_tells_of_counters_that_do_not_add_up(machine: Instance) -> None:
    assert ask("Reservations").ok

    Allowance.objects.update(machines=F("machines") + 1)

    told = ask("Reservations")
    assert not told.ok
    assert str(machine.owner.public_id) in told.sentence


def test_the_page_says_which_part_of_the_site_is_silent(
    browse_as: Callable[[User], Client], administrator: User
) -> None:
    now = timezone.now()
    Watch.objects.create(tick_at=now - timedelta(hours=1), reconciler_at=now)

    page = browse_as(administrator).get(PAGE).content.decode()

    assert "No tick of the timetable reaches a worker." in page
    assert "The reconciler takes no turn." not in page
