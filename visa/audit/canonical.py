"""Pure: the one spelling of a row, and the hashes over it (RFC 8785, SHA-256)."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import rfc8785

#: what stands before the first row of all
GENESIS = "0" * 64


def moment(at: datetime) -> str:
    """A moment as the chain spells it: UTC, to the microsecond."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def sealed(event: Mapping[str, Any], *, number: int, day: date, sealed_at: datetime, previous: str) -> str:
    """The hash of an event in its place. Raises ValueError where its detail has no canonical spelling."""
    row: dict[str, Any] = {
        "number": number,
        "day": day.isoformat(),
        "sealed_at": moment(sealed_at),
        "previous": previous,
        "event": {**event, "at": moment(event["at"])},
    }
    return hashlib.sha256(rfc8785.dumps(row)).hexdigest()


def text_digest(salt: str, source: str, text: str) -> str:
    """What an event keeps of its personal texts."""
    return hashlib.sha256(rfc8785.dumps({"salt": salt, "source": source, "text": text})).hexdigest()


def check(detail: Mapping[str, Any]) -> None:
    """Raises ValueError for a detail that could not be sealed: numbers beyond 2^53, fractions, lone surrogates."""
    # The database gives fractions back in a spelling of its own.
    json.loads(rfc8785.dumps(dict(detail)), parse_float=_no_fraction)


def _no_fraction(text: str) -> float:
    raise ValueError(f"{text} is a fraction: the trail holds whole numbers and texts")
