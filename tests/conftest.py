"""Index of fixtures

  the cast       owner, member, support, stranger, scientist, administrator: a `User` each (needs the database)
  browsers       browse_as(person) -> a Django test client that is signed in, without the way through the provider
  offers         flavour, image, limit: one of each, enough for a launch
  vnc            a real VNC server on loopback, for machines whose desktop has to answer
  platform       a whole platform of the demo in real processes, shared by all tests of the run that ask for it

Things to test with are made by tests/factories.py; real processes are started by tests/processes.py; clouds with one
trait each are in tests/clouds.py.
"""

from collections.abc import Callable, Iterator

import pytest
from django.conf import settings
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import translation
from hypothesis import settings as hypothesis_settings
from pytest_django.plugin import DjangoDbBlocker

from deploy.demo_platform import DemoPlatform
from instances.cloud.protocol import Desktop
from instances.models import Image
from quotas.models import Flavour, Limit
from tests import factories, people, processes
from visa.accounts.models import User

# How long an example takes says how busy the machine is, and nothing of the code.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")

#: fixtures of a test that may render pages or use the cache
_DJANGO = {"db", "transactional_db", "client", "async_client", "live_server"}


def _uses_django(item: pytest.Item) -> bool:
    names = set(getattr(item, "fixturenames", ()))
    return bool(names & _DJANGO) or item.get_closest_marker("django_db") is not None


@pytest.fixture(scope="session", autouse=True)
def _page_parts(request: pytest.FixtureRequest) -> None:
    """The pages' parts under their hashed names, as a page links them; once, and only if something may render one."""
    if any(_uses_django(item) for item in request.session.items):
        call_command("collectstatic", interactive=False, verbosity=0)
        # each test client loads the middleware anew, and WhiteNoise would list all the parts again each time
        settings.WHITENOISE_AUTOREFRESH = True


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """A test that commits ends by emptying all tables; of the audit trail's triggers one alone stands in its way."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        for table in ("auditevent", "auditseal", "audithead", "audittext"):
            cursor.execute(f"ALTER TABLE audit_{table} DISABLE TRIGGER audit_no_truncate")
    connection.close()


@pytest.fixture(autouse=True)
def _nothing_remembered(request: pytest.FixtureRequest) -> Iterator[None]:
    """What one test put into the cache is not there for the next, nor the language of the last page it asked for."""
    yield
    if _uses_django(request.node):
        cache.clear()
    translation.deactivate()


@pytest.fixture
def owner(db: None) -> User:
    return factories.make_figure(people.OWNER)


@pytest.fixture
def member(db: None) -> User:
    return factories.make_figure(people.MEMBER)


@pytest.fixture
def support(db: None) -> User:
    return factories.make_figure(people.SUPPORT)


@pytest.fixture
def stranger(db: None) -> User:
    return factories.make_figure(people.STRANGER)


@pytest.fixture
def scientist(db: None) -> User:
    return factories.make_figure(people.SCIENTIST)


@pytest.fixture
def administrator(db: None) -> User:
    return factories.make_figure(people.ADMINISTRATOR)


@pytest.fixture
def browse_as(db: None) -> Callable[[User], Client]:
    """A client that is signed in as the given person."""

    def browse(person: User) -> Client:
        client = Client()
        client.force_login(person, backend="visa.accounts.oidc.Backend")
        return client

    return browse


@pytest.fixture
def flavour(db: None) -> Flavour:
    return factories.make_flavour()


@pytest.fixture
def image(db: None) -> Image:
    return factories.make_image()


@pytest.fixture
def limit(db: None) -> Limit:
    return factories.make_limit()


@pytest.fixture(scope="session")
def platform() -> Iterator[DemoPlatform]:
    """Tests share it: each cleans up the machines it made."""
    with processes.whole_platform() as running:
        yield running


@pytest.fixture(scope="session")
def vnc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desktop]:
    """A real Xvnc."""
    with processes.vnc_server(tmp_path_factory.mktemp("vnc") / "log") as (desktop, _server):
        yield desktop
