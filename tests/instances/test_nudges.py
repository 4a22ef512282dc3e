"""What becomes due is said over PostgreSQL, and whoever drives machines hears it; asking stays the truth."""

import threading
from collections.abc import Callable, Iterator

import pytest
from django.conf import settings
from django.db import connection, transaction

from experiments.models import Dataset
from instances import actions, nudges, pacing, transitions
from instances.actions import Launch
from instances.cloud.memory import MemoryCloud
from instances.models import Image
from quotas.models import Flavour, Limit
from tests import factories
from tests.machines import settle
from visa.accounts.models import User

pytestmark = pytest.mark.django_db(transaction=True)

#: a busy machine may take so long to hand on one message
PATIENCE = 20.0


@pytest.fixture
def heard() -> Iterator[threading.Event]:
    """Set whenever a driver hears something; it listens already."""
    event, stopping = threading.Event(), threading.Event()
    ears = threading.Thread(target=nudges.listen, args=(stopping, event.set))
    ears.start()
    assert event.wait(PATIENCE)
    event.clear()
    yield event
    stopping.set()
    ears.join(PATIENCE)
    assert not ears.is_alive()


@pytest.fixture
def dataset(flavour: Flavour, image: Image, limit: Limit) -> Dataset:
    return factories.make_dataset()


def test_whatever_a_person_asks_for_is_heard(
    heard: threading.Event, owner: User, dataset: Dataset, cloud: MemoryCloud
) -> None:
    launched = actions.launch(Launch(doi=dataset.minted), by=owner).instance_id
    assert heard.wait(PATIENCE)

    def is_heard(ask: Callable[[], object]) -> bool:
        heard.clear()
        ask()
        return heard.wait(PATIENCE)

    assert is_heard(pacing.admit)
    settle(cloud, launched)
    assert is_heard(lambda: actions.reboot(launched, by=owner))
    settle(cloud, launched)
    assert is_heard(lambda: transitions.look_again(launched))
    assert is_heard(lambda: actions.stop(launched, by=owner))


def test_nothing_is_heard_of_what_is_not_committed(heard: threading.Event) -> None:
    """Heard too early, the row would not be there yet, and the nudge would be spent."""
    with transaction.atomic():
        nudges.say()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.5)")
        assert not heard.is_set()
    assert heard.wait(PATIENCE)


def test_a_line_that_is_lost_is_taken_up_again(heard: threading.Event) -> None:
    ears = f"visa-{settings.ENVIRONMENT.process}-ears"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s", [ears]
        )
        assert cursor.fetchone() == (1,)
    assert heard.wait(PATIENCE), "whoever was deaf asks at once"
    heard.clear()

    nudges.say()

    assert heard.wait(PATIENCE)
