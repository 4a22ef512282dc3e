"""Every address of the site, as the resolver knows it, and how to fill its parameters."""

import re
from collections.abc import Iterator, Mapping, Sequence

from django.urls import URLPattern, URLResolver, get_resolver

#: a parameter of a path or of a regular expression: `<uuid:instance_id>`, `(?P<url>.*)`
_PARAMETER = re.compile(r"\(\?P<(\w+)>[^)]*\)|<(?:\w+:)?(\w+)>")


def every_route() -> dict[str, str]:
    """The name of each address by its pattern, such as `/machines/<uuid:instance_id>/`: pages, REST and the admin."""
    return dict(_walk(get_resolver().url_patterns))


def every_socket() -> list[str]:
    """The patterns of the websockets."""
    from instances.urls import websocket_urlpatterns

    return [f"/{one.pattern}" for one in websocket_urlpatterns]


def _walk(
    patterns: Sequence[URLPattern | URLResolver], before: str = "/", spaces: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    for one in patterns:
        route = before + str(one.pattern)
        if isinstance(one, URLPattern):
            yield route, ":".join([*spaces, one.name or ""])
        else:
            yield from _walk(one.url_patterns, route, (*spaces, one.namespace) if one.namespace else spaces)


def filled(route: str, values: Mapping[str, object]) -> str:
    """The path of a route with its parameters replaced."""
    path = _PARAMETER.sub(lambda found: str(values[found[1] or found[2]]), route)
    return re.sub(r"[\^$]|\(\?:[^)]*\)", "", path)


def parameters(route: str) -> list[str]:
    """The names of a route's parameters."""
    return [one or other for one, other in _PARAMETER.findall(route)]
