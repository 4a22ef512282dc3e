"""Claims to a person: pure. Filled in by the sign-in's owner."""

from enum import StrEnum


class Role(StrEnum):
    """What a person is to this site, besides being somebody who signed in."""

    ADMINISTRATOR = "administrator"
    SUPPORT = "support"
    INSTRUMENT_SCIENTIST = "instrument_scientist"
