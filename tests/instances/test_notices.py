"""Who is told what by mail, and who is not: few mails, each once, of what is so when they are sent."""

from collections.abc import Iterator
from datetime import timedelta
from email.message import EmailMessage

import pytest
from django.db.models.functions import Now
from django.utils import timezone, translation
from pytest_django import Settings

from instances import actions, notices
from instances.cloud.memory import MemoryCloud
from instances.lifecycle import Seen, State, Wanted
from instances.models import Image, Instance, ServiceState, Sweep, SweepHold
from instances.notices import Notice
from quotas.models import Flavour, Limit
from tests.clouds import FullCloud
from tests.machines import machine_at, settle
from tests.visa.outbox.conftest import tell_of
from tests.visa.outbox.sink import Sink, sink
from visa.accounts.models import User
from visa.outbox import mail, sending
from visa.outbox.models import Outbox

pytestmark = pytest.mark.django_db


@pytest.fixture
def server(settings: Settings) -> Iterator[Sink]:
    with sink() as running:
        tell_of(running.port, settings)
        yield running


@pytest.fixture
def machine(owner: User, flavour: Flavour, image: Image) -> Instance:
    """A machine of the owner, made an hour ago, that has just become ready."""
    owner.email = "owner@facility.example"
    owner.save()
    now = timezone.now()
    return Instance.objects.create(
        owner=owner,
        name="Sponges & <b>bones</b>",
        flavour=flavour,
        image=image,
        launch_key="one",
        wanted=Wanted.RUNNING,
        wanted_at=now,
        seen=Seen.READY,
        step_since=now,
        due_at=now,
        created_at=now - timedelta(hours=1),
        ready_at=now,
    )


@pytest.fixture
def administrators(administrator: User, support: User, settings: Settings) -> list[User]:
    """Two administrators, one of them with a closed account, and somebody of the support, all with addresses."""
    closed = User.objects.create_person(name="Was Here", email="closed@facility.example")
    closed.roles, closed.is_active = administrator.roles, False
    closed.save()
    for person, address in ((administrator, "admin@facility.example"), (support, "support@facility.example")):
        person.email = address
        person.save()
    return [administrator, closed]


def subjects(server: Sink) -> list[str]:
    while sending.send_due():
        pass
    # a long subject is folded, and begins on a line of its own
    return [str(one["Subject"]).strip() for one in server.mails]


def text_of(mail_sent: EmailMessage) -> str:
    body = mail_sent.get_body(("plain",))
    return str(body.get_content()) if body else ""


def change(machine: Instance, **fields: object) -> Instance:
    Instance.objects.filter(pk=machine.pk).update(**fields)
    machine.refresh_from_db()
    return machine


def test_the_owner_hears_once_that_a_machine_failed_and_why(server: Sink, machine: Instance) -> None:
    change(machine, failed=True, reason="The cloud could not make this machine.")
    for _ in range(3):
        notices.follow(machine.id, ["seen.failed", "failed"])

    assert subjects(server) == ["Your machine “Sponges & <b>bones</b>” has failed"]
    assert server.addresses == ["owner@facility.example"]
    text, html = text_of(server.mails[0]), server.mails[0].get_body(("html",))
    assert html is not None
    assert "The cloud could not make this machine." in text
    assert f"http://testserver/machines/{machine.id}/" in text
    assert "Sponges & <b>bones</b>" in text
    assert "Sponges &amp; &lt;b&gt;bones&lt;/b&gt;" in html.get_content()
    assert f'<a href="http://testserver/machines/{machine.id}/">' in html.get_content()


def test_a_new_wish_that_fails_is_told_again(server: Sink, machine: Instance) -> None:
    change(machine, failed=True)
    notices.follow(machine.id, ["failed"])
    change(machine, wanted_at=timezone.now())
    notices.follow(machine.id, ["failed"])

    assert len(subjects(server)) == 2


def test_the_owner_hears_once_that_a_machine_was_removed_by_others(server: Sink, machine: Instance) -> None:
    change(machine, gone=True)
    notices.follow(machine.id, ["gone"])
    notices.follow(machine.id, ["gone"])

    assert subjects(server) == ["Your machine “Sponges & <b>bones</b>” no longer exists"]


def test_the_owner_reads_why_an_administrator_deletes_their_machine(
    server: Sink, machine: Instance, administrator: User
) -> None:
    machine.specification = {"size": {"name": "Small", "machines": 1, "cores": 1, "memory_mib": 1024, "gpus": 0}}
    machine.save()

    actions.delete(machine.id, by=administrator, why="Left behind <since> March")
    actions.delete(machine.id, by=administrator, why="Once more")

    assert subjects(server) == ["Your machine “Sponges & <b>bones</b>” is being deleted"]
    told = " ".join(text_of(server.mails[0]).split())
    assert f"{administrator.name}, who looks after this site, deletes it: “Left behind <since> March”" in told


def test_an_owner_who_deletes_is_told_nothing(server: Sink, machine: Instance, owner: User) -> None:
    machine.specification = {"size": {"name": "Small", "machines": 1, "cores": 1, "memory_mib": 1024, "gpus": 0}}
    machine.save()
    actions.delete(machine.id, by=owner)

    assert subjects(server) == []


@pytest.mark.parametrize(("minutes", "mails"), [(4, 0), (6, 1)])
def test_only_a_launch_that_took_long_is_worth_a_mail(
    server: Sink, machine: Instance, minutes: int, mails: int
) -> None:
    change(machine, created_at=timezone.now() - timedelta(minutes=minutes), ready_at=timezone.now())
    notices.follow(machine.id, ["seen.booting", "seen.ready"])
    notices.follow(machine.id, ["seen.ready"])

    assert len(subjects(server)) == mails


def test_a_machine_that_is_ready_again_weeks_later_is_no_news(server: Sink, machine: Instance) -> None:
    change(machine, created_at=timezone.now() - timedelta(days=40), ready_at=timezone.now() - timedelta(days=39))
    notices.follow(machine.id, ["seen.ready"])

    assert subjects(server) == []


def test_other_events_ask_the_database_nothing(machine: Instance, django_assert_num_queries: object) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]  # pytest-django gives it no type
        notices.follow(machine.id, ["wanted.running", "seen.booting", "deleted"])

    assert not Outbox.objects.exists()


@pytest.mark.parametrize(
    ("event", "before", "after"),
    [
        ("failed", {"failed": True}, {"failed": False}),
        ("gone", {"gone": True}, {"gone": False}),
        ("gone", {"gone": True}, {"wanted": Wanted.DELETED}),
        ("seen.ready", {}, {"seen": Seen.STOPPED}),
    ],
)
def test_what_is_no_longer_so_when_the_mail_goes_is_not_told(
    server: Sink, machine: Instance, event: str, before: dict[str, object], after: dict[str, object]
) -> None:
    change(machine, **before)
    notices.follow(machine.id, [event])
    change(machine, **after)

    assert subjects(server) == []
    assert Outbox.objects.get().said == "no longer so"


def test_a_person_without_an_address_or_account_is_written_nothing(server: Sink, machine: Instance) -> None:
    change(machine, failed=True)
    notices.follow(machine.id, ["failed"])
    User.objects.filter(pk=machine.owner_id).update(is_active=False)

    assert subjects(server) == []
    assert Outbox.objects.get().said == "the person has no address"


def test_without_a_mail_server_nothing_waits_for_one(machine: Instance) -> None:
    assert not mail.is_on()
    change(machine, failed=True)
    notices.follow(machine.id, ["failed"])

    assert sending.send_due() == 1
    assert Outbox.objects.get().said == "no mail server is configured"


def test_each_administrator_hears_of_the_site_and_nobody_else(
    server: Sink, machine: Instance, administrators: list[User]
) -> None:
    change(
        machine, reason_code="cloud_full", reason_detail="Quota exceeded for cores: Requested 4, but already used 96"
    )
    notices.tell(machine, Notice.SITE_FULL)
    notices.tell(machine, Notice.SITE_FULL)

    assert subjects(server) == ["The cloud has no room for more machines"]
    assert server.addresses == ["admin@facility.example"]
    assert "Requested 4" in text_of(server.mails[0])


def test_a_deletion_that_hangs_a_sweep_a_hold_and_an_outage_are_told_once(
    server: Sink, machine: Instance, administrators: list[User]
) -> None:
    change(machine, wanted=Wanted.DELETED, server_id="server-1")
    sweep = Sweep.objects.create(at=timezone.now(), rows=9, servers=10, ports=10, volumes=0, strays=1, swept=1)
    hold = SweepHold.objects.create(since=timezone.now(), why="The database was put back from a copy.")
    long_ago, just_now = timezone.now() - timedelta(minutes=11), timezone.now() - timedelta(minutes=9)
    dead = ServiceState.objects.create(service="nova", opened_at=long_ago)
    young = ServiceState.objects.create(service="keystone", opened_at=just_now)
    for _ in range(2):
        notices.tell(machine, Notice.STUCK)
        notices.tell_swept(sweep)
        notices.tell_held(hold)
        notices.tell_silent([dead, young])

    assert sorted(subjects(server)) == [
        "Something was deleted from the cloud that belonged to no machine",
        "Sweeps are held and only report",
        "The cloud does not answer",
        "The cloud does not delete “Sponges & <b>bones</b>”",
    ]
    said = " ".join(text_of(one) for one in server.mails)
    assert "server-1" in said
    assert "put back from a copy" in said
    assert "nova" in said


def test_what_an_administrator_settled_meanwhile_is_not_told(
    server: Sink, machine: Instance, administrators: list[User]
) -> None:
    hold = SweepHold.objects.create(since=timezone.now(), why="The list shrank by more than half.")
    outage = ServiceState.objects.create(service="nova", opened_at=timezone.now() - timedelta(minutes=11))
    notices.tell_held(hold)
    notices.tell_silent([outage])
    SweepHold.objects.update(released_at=Now())
    ServiceState.objects.update(opened_at=None)

    assert subjects(server) == []


def test_a_machine_that_is_removed_outside_is_told_with_the_step_that_finds_it_gone(
    owner: User, limit: Limit, flavour: Flavour, image: Image, cloud: MemoryCloud
) -> None:
    machine_id = machine_at(State.ACTIVE, owner=owner, cloud=cloud)
    assert not Outbox.objects.exists()

    for server in cloud.list():
        cloud.delete(server.id)
    settle(cloud, machine_id)
    settle(cloud, machine_id)

    row = Outbox.objects.get()
    assert (row.kind, row.payload) == (
        "mail",
        {"notice": "gone", "about": str(machine_id), "to": str(owner.public_id)},
    )


def test_the_first_machine_that_finds_the_cloud_full_tells_of_it(
    owner: User, limit: Limit, flavour: Flavour, image: Image
) -> None:
    for _ in range(2):
        settle(FullCloud(), machine_at(State.WAITING, owner=owner, cloud=FullCloud()), steps=3)

    assert [one.payload["notice"] for one in Outbox.objects.all()] == ["site_full"]


def test_every_notice_has_its_words() -> None:
    assert set(notices._WORDS) == set(Notice)


def test_the_language_of_a_mail_is_the_sites(server: Sink, machine: Instance) -> None:
    change(machine, failed=True)
    notices.follow(machine.id, ["failed"])

    with translation.override("de"):
        said = subjects(server)

    assert said == ["Your machine “Sponges & <b>bones</b>” has failed"]
