"""Whoever looks after the site reads what the sweeps found and why they are held, and lets them go on."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from deploy.demo_platform import DemoPlatform
from tests.journeys.conftest import Accessible, Visit

#: as after a move to another database server, with a stray beside it
ANOTHER_DATABASE = """
from datetime import timedelta
from django.utils import timezone
from instances.models import DatabaseIdentity, Sighting
from uuid import uuid4
DatabaseIdentity.objects.update_or_create(
    id=1, defaults={"system": "7000000000000000000/00000001/16384", "noted_at": timezone.now()}
)
for verdict in Sighting.Verdict:
    Sighting.objects.create(
        kind="server", provider_id=uuid4(), name=f"visa-{uuid4()}", instance_id=uuid4(), verdict=verdict,
        made_at=timezone.now() - timedelta(hours=1), first_seen_at=timezone.now(), last_seen_at=timezone.now(),
        why="No machine of this database ever had it.",
    )
"""


@pytest.fixture
def held(platform: DemoPlatform) -> Iterator[None]:
    platform.run("manage.py", "shell", "-c", ANOTHER_DATABASE)
    with pytest.raises(Exception, match="reconcile_instances"):
        # It says by its exit status that sweeps are held.
        platform.run("manage.py", "reconcile_instances", "--apply")
    yield
    platform.run("manage.py", "reconcile_instances", "--release")
    platform.run("manage.py", "shell", "-c", "from instances.models import Sighting; Sighting.objects.all().delete()")


def test_an_administrator_reads_why_sweeps_are_held_and_releases_them(
    visit: Visit, accessible: Accessible, held: None
) -> None:
    page = visit("Administrator")
    page.goto("/admin/")
    page.get_by_role("link", name="Machines and the cloud").click()

    expect(page.get_by_text("not the database server, or not its history")).to_be_visible()
    expect(page.get_by_role("img", name="Machines, servers and strays")).to_be_visible()
    accessible(page)

    page.get_by_role("button", name="Release the sweeps").click()

    expect(page.get_by_text("Released.")).to_be_visible()
    expect(page.get_by_role("button", name="Release the sweeps")).to_have_count(0)
    accessible(page)
