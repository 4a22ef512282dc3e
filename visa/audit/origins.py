"""From where something is being done: the request or the step, and the address behind it.

A middleware says so for requests and workers for their steps; `visa.audit.trail` writes it on every row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Origin:
    """`correlation` names one request or step, at most 64 characters; `source` is the address the front proxy saw."""

    correlation: str = ""
    source: str = ""


_NOWHERE = Origin()
_origin: ContextVar[Origin] = ContextVar("visa_audit_origin", default=_NOWHERE)


def current() -> Origin:
    """The origin of what is being done now; an empty one outside of requests and steps."""
    return _origin.get()


@contextmanager
def within(*, correlation: str, source: str = "") -> Iterator[Origin]:
    """Everything recorded inside is of this origin."""
    origin = Origin(correlation=correlation[:64], source=source[:45])
    token = _origin.set(origin)
    try:
        yield origin
    finally:
        _origin.reset(token)
