"""Who carries which kind. The floors above register their couriers when they start, so that nothing here looks up."""

from collections.abc import Callable, Mapping

#: carries one thing: its key and its payload; returns why nothing had to be sent, or an empty string.
Courier = Callable[[str, Mapping[str, object]], str]

_couriers: dict[str, Courier] = {}


class Away(Exception):
    """Whoever takes this kind is not there: nothing of the kind can be carried now. The message names no secret."""


class Refused(Exception):
    """This one was not taken now, for a reason of its own; others of its kind may be."""


class Hopeless(Exception):
    """This one will never be taken: trying again is of no use."""


def register(kind: str, courier: Courier) -> None:
    """Says who carries what is put under `kind`. A courier may be called twice for one key, and must bear it."""
    if _couriers.setdefault(kind, courier) is not courier:
        raise ValueError(f"two couriers for {kind}")


def courier_of(kind: str) -> Courier:
    """Who carries this kind."""
    return _couriers[kind]


def known_kinds() -> tuple[str, ...]:
    """What this process can carry: during an upgrade another one may know more."""
    return tuple(sorted(_couriers))
