"""What is due is taken by several steps at once; one that breaks holds up no other."""

import threading
from uuid import UUID

import pytest
from django.db import OperationalError

from instances import actions, driving, pacing
from instances.actions import Launch
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import Server, ServerSpec
from instances.models import Image, Instance
from quotas.models import Flavour, Limit
from tests import factories
from visa.accounts.models import User

pytestmark = pytest.mark.django_db(transaction=True)

#: one for each thread, and one for who called
DUE = driving.STEPS_AT_ONCE + 1


@pytest.fixture
def asked(owner: User, flavour: Flavour, image: Image, limit: Limit) -> list[UUID]:
    """Machines that are due and may be made."""
    Limit.objects.update(machines=100, cores=1000, memory_mib=10**7)
    found = [actions.launch(Launch(doi=factories.make_dataset().minted), by=owner).instance_id for _ in range(DUE)]
    assert len(pacing.admit()) == DUE
    return found


def test_as_many_steps_are_taken_at_once_as_there_are_threads(
    asked: list[UUID], cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, met, create = threading.Barrier(DUE), threading.Event(), cloud.create

    def create_together(spec: ServerSpec) -> Server:
        together.wait(20)  # each waits for all
        met.set()
        return create(spec)

    monkeypatch.setattr(cloud, "create", create_together)

    driving.take_due(cloud, rows=DUE)

    assert met.is_set()
    assert Instance.objects.filter(server_id__isnull=False).count() == DUE


def test_a_step_that_breaks_holds_up_no_other(
    asked: list[UUID], cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, create = threading.Event(), cloud.create

    def create_or_break(spec: ServerSpec) -> Server:
        if threading.current_thread() is not threading.main_thread() and not broken.is_set():
            broken.set()
            raise OperationalError("the line to the database is lost")
        return create(spec)

    monkeypatch.setattr(cloud, "create", create_or_break)

    driving.take_due(cloud, rows=3 * DUE)

    assert "a step failed" in caplog.text
    assert Instance.objects.filter(server_id__isnull=False).count() == DUE - 1
