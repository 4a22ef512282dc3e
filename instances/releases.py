"""Whether this code may drive machines on the tables there are: old code that a migration has outrun takes no step.

A migration that old code can work with (almost all) says nothing. One that needs new code writes its number into
`Release`; code that does not know the number claims nothing and orders nothing. See docs/decisions/0014.
"""

import logging
import time
from dataclasses import dataclass
from typing import Final

from instances.models import Release

log = logging.getLogger(__name__)

#: the newest `Release` this code was written for: raised with the migration that writes the row, and never without it
KNOWN: Final = 1
#: for so many seconds an answer is believed; a claim asks anew in any case
BELIEVED: Final = 10.0


@dataclass(kw_only=True)
class _Remembered:
    until: float = 0.0
    newer: Release | None = None


_remembered = _Remembered()


def newer() -> Release | None:
    """The newest release the tables need and this code does not know, asked now; None where all is well."""
    found = Release.objects.filter(number__gt=KNOWN).order_by("-number").first()
    before, _remembered.newer = _remembered.newer, found
    _remembered.until = time.monotonic() + BELIEVED
    if found is not None and before is None:
        log.error(
            "the tables need release %d (%s), this code knows %d: it takes no step", found.number, found.why, KNOWN
        )
    elif found is None and before is not None:
        log.warning("the tables need nothing any more that this code does not know: it takes steps again")
    return found


def outdated() -> bool:
    """Whether this code is too old for the tables, as of the last seconds. Says so once, when it begins."""
    if time.monotonic() >= _remembered.until:
        newer()
    return _remembered.newer is not None
