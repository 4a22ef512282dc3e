"""Whom a public id names, for the page people read. Whoever has the names registers how to find them."""

from collections.abc import Callable, Collection, Mapping

Names = Callable[[Collection[str]], Mapping[str, str]]

_finders: dict[str, Names] = {}


def tell(kind: str, names: Names) -> None:
    """Registers how ids of this kind are named: ids to names, in one query, without those that have none."""
    _finders[kind] = names


def of(kind: str, ids: Collection[str]) -> Mapping[str, str]:
    """The names of these ids; empty where nobody has any."""
    finder = _finders.get(kind)
    return finder(ids) if finder and ids else {}
