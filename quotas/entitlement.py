"""Which limits a person is entitled to. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quotas.arithmetic import Resources


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who is asked about: the person's key and the roles the person holds."""

    person: str
    roles: frozenset[str]


def limit_for(
    subject: Subject, *, everyone: Resources, roles: Mapping[str, Resources], people: Mapping[str, Resources]
) -> Resources:
    """The limits of one person: their own where they have one, else the largest of everyone's and their roles'."""
    own = people.get(subject.person)
    if own is not None:
        return own
    return _largest(everyone, (roles[role] for role in sorted(subject.roles) if role in roles))


def _largest(start: Resources, others: Iterable[Resources]) -> Resources:
    for other in others:
        start = start.largest(other)
    return start
