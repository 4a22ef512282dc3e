"""The variables of a test run, and its own PostgreSQL and Redis; loaded with `-p tests.environment`, before Django.

Each run has a directory, a cluster, a Redis and keys of its own, so several runs can go on at once. All of it ends
with the run, and with the process that runs it.
"""

import atexit
import base64
import os
import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

from deploy import prepare
from deploy.processes import Missing, NotReady, Running, start_postgres, start_redis

#: this run's directory; nothing outside it is written
DIRECTORY = Path(tempfile.mkdtemp(prefix="visa-test-"))
_running: list[Running] = []


def _end() -> None:
    while _running:
        _running.pop().stop()
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def _begin() -> dict[str, str]:
    """Start the neighbours of the run and say how they are reached."""
    prepare.translations()
    DIRECTORY.chmod(0o711)  # PostgreSQL, which is not root, has to walk through
    database = start_postgres(DIRECTORY / "postgres", log=DIRECTORY / "log" / "postgres.log", durable=False)
    _running.append(database)
    redis = start_redis(DIRECTORY / "redis", log=DIRECTORY / "log" / "redis.log")
    _running.append(redis)
    for name in ("data", "software", "machines"):
        (DIRECTORY / name).mkdir()
    return {
        "VISA_PROCESS": "command",
        # the name by which Django's test client asks
        "VISA_SITE_URL": "http://testserver",
        "VISA_SITE_NAME": "VISA",
        "VISA_SITE_STATIC_ROOT": str(DIRECTORY / "static"),
        "VISA_DATABASE_HOST": database.facts["host"],
        "VISA_DATABASE_NAME": database.facts["name"],
        "VISA_DATABASE_USER": database.facts["user"],
        "VISA_REDIS_URL": redis.facts["url"],
        "VISA_SIGNING_KEY": secrets.token_urlsafe(50),
        "VISA_MACHINE_KEYS": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "VISA_DESKTOP_RANGES": "127.0.0.0/8",
        # nobody listens there: a test that signs in starts a provider and names it
        "VISA_OIDC_PROVIDERS": "demo",
        "VISA_OIDC_DEMO_LABEL": "Demo",
        "VISA_OIDC_DEMO_PRESET": "generic",
        "VISA_OIDC_DEMO_ISSUER": "http://127.0.0.1:9",
        "VISA_OIDC_DEMO_CLIENT_ID": "visa",
        "VISA_OIDC_DEMO_CLIENT_SECRET": secrets.token_urlsafe(24),
        "VISA_ROLES_ADMINISTRATOR": "subject:http://127.0.0.1:9#administrator",
        "VISA_CLOUD_KIND": "memory",
        "VISA_CLOUD_ENVIRONMENT": f"test-{secrets.token_hex(4)}",
        "VISA_CLOUD_DIRECTORY": str(DIRECTORY / "machines"),
        "VISA_DATA_SOURCE": f"{DIRECTORY}/data/{{path}}",
        "VISA_DATA_FSTYPE": "none",
        "VISA_SOFTWARE_SOURCE": str(DIRECTORY / "software"),
        "VISA_SOFTWARE_FSTYPE": "none",
    }


for _name in [name for name in os.environ if name.startswith("VISA_") and not name.startswith("VISA_TEST_")]:
    del os.environ[_name]
atexit.register(_end)
try:
    os.environ.update(_begin())
except (Missing, NotReady) as error:
    raise pytest.UsageError(str(error)) from error
os.environ["DJANGO_SETTINGS_MODULE"] = "visa.settings"


def pytest_unconfigure() -> None:
    """The run is over."""
    _end()
