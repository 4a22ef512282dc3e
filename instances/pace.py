"""How fast this site goes: the one `Pace` of this process, from the settings."""

from datetime import timedelta
from functools import cache

from django.conf import settings

from instances.lifecycle import Pace


def pace() -> Pace:
    """The times of this site. Tests may shorten all of them by one factor (VISA_TEST_SCALE)."""
    environment = settings.ENVIRONMENT
    quiet = environment.cloud.quiet_seconds if environment.cloud is not None else None
    return _pace(quiet, environment.tests.scale)


@cache
def _pace(quiet_seconds: int | None, scale: float) -> Pace:
    usual = Pace() if quiet_seconds is None else Pace(quiet=timedelta(seconds=quiet_seconds))
    return usual.scaled(scale)
