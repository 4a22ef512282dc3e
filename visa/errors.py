"""Refusals: what a person asked for and does not get, with the reason in words and in numbers.

Pure. A refusal is an answer, not a failure: the rooms below raise one, `visa.responses` turns it into a page or JSON,
and nothing else renders it. Anything that is not a Refusal is a fault of ours and is logged as one.
"""

from collections.abc import Mapping
from typing import ClassVar


def gettext_noop(words: str) -> str:
    """Marks words for the translators, as Django's function of this name does; the page translates them."""
    return words


class Refusal(Exception):
    """A no, as an answer.

    `code` is stable and machine-readable, `status` is the HTTP status, `str(refusal)` is one sentence for the person,
    `way_out` one sentence saying what would work instead, and `detail` holds the numbers (JSON values only).
    `field` names the input at fault, where there is one. `title` stands above it on its page, which translates it.
    """

    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 409
    title: ClassVar[str] = gettext_noop("That did not work")

    def __init__(
        self, message: str, *, way_out: str = "", field: str = "", detail: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.way_out = way_out
        self.field = field
        self.detail: dict[str, object] = dict(detail or {})


class NotFound(Refusal):
    """There is no such thing, or none that this person may know of: both look the same."""

    code, status, title = "not_found", 404, gettext_noop("Not found")


class NotAllowed(Refusal):
    """The person may see it, but not do this."""

    code, status, title = "not_allowed", 403, gettext_noop("Not allowed")


class Invalid(Refusal):
    """The input cannot be understood; `field` says which part."""

    code, status, title = "invalid", 400, gettext_noop("We could not read that")


class TooLarge(Invalid):
    """The input is longer than anything that is read here."""

    code, status, title = "body_too_large", 413, gettext_noop("Too much at once")


class Conflict(Refusal):
    """It cannot be done in the state things are in now."""

    code, status, title = "conflict", 409, gettext_noop("Not possible right now")


class Unavailable(Refusal):
    """A neighbour we need does not answer; trying again later is the way out."""

    code, status, title = "unavailable", 503, gettext_noop("Not available right now")
