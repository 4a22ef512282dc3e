"""From where something is being done: the request or the step, and the address behind it.

A middleware says so for requests and workers for their steps; `visa.audit.trail` writes it on every row.
"""

import ipaddress
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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


def named(what: str) -> str:
    """A new correlation: `what` it is, and a number nobody had before."""
    return f"{what}-{secrets.token_hex(8)}"


def each(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorates what a worker does: each call is an origin of its own."""

    def decorate(work: Callable[P, T]) -> Callable[P, T]:
        @wraps(work)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with within(correlation=named(what)):
                return work(*args, **kwargs)

        return call

    return decorate


def of_sockets(sockets: Any, *, behind_proxy: bool) -> Any:
    """An ASGI application of websockets, each an origin of its own."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        told = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-real-ip"), "")
        peer = (scope.get("client") or ("",))[0]
        source = source_of(told, peer, behind_proxy=behind_proxy)
        with within(correlation=named("socket"), source=source):
            await sockets(scope, receive, send)

    return application


def source_of(told: str, peer: str, *, behind_proxy: bool) -> str:
    """The address somebody comes from: what the front proxy told, the peer where there is none, empty where unknown.

    Behind a proxy the peer is the proxy; without one, anybody could tell anything.
    """
    try:
        return str(ipaddress.ip_address((told if behind_proxy else peer).strip()))
    except ValueError:
        return ""
