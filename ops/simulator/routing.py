"""Matches a request line with a table of routes, as the two routers of the real server do.

The outer one redirects paths that are not clean (`//`, `..`). The inner one matches the decoded path and redirects a
trailing slash. Both matter to a filter in front of the server.
"""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ops.simulator.dialects.errors import ApiError, native_error
from ops.simulator.handlers.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Route:
    """A handler, the format of its errors, and whether it runs a model."""

    handler: Callable[[Exchange], Awaitable[None]]
    encode_error: Callable[[ApiError], tuple[str, bytes]] = native_error
    runs_model: bool = False


# Routes by method, by path. The last segment `:` stands for any one segment.
RouteTable = Mapping[str, Mapping[str, Route]]


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a request, the decoded path that matched it, and the last segment of that path."""

    route: Route
    path: str
    path_parameter: str


@dataclass(frozen=True, slots=True)
class NoRoute:
    """The request has no route: a 404, a 405 with the allowed methods, or a redirect to `location`."""

    status: int
    allow: tuple[str, ...] = ()
    location: str = ""


def match(table: RouteTable, method: str, target: str) -> Match | NoRoute:
    """Finds the route of a request line. `target` is its raw target: a path with a query, or an absolute URL."""
    path = unquote(path_of(target))
    clean = _clean(path)
    if clean != path:
        return NoRoute(307, location=clean)
    routes = _routes_of(table, path)
    if method in routes:
        return Match(routes[method], path, path.rpartition("/")[2])
    if not routes and path.endswith("/") and method in _routes_of(table, path.rstrip("/")):
        return NoRoute(301 if method == "GET" else 307, location=path.rstrip("/"))
    return NoRoute(405, allow=tuple(routes)) if routes else NoRoute(404)


def path_of(target: str) -> str:
    """The path of a raw request target, still encoded and without its query."""
    return (urlsplit(target).path if "://" in target.partition("?")[0] else target.partition("?")[0]) or "/"


def _routes_of(table: RouteTable, path: str) -> Mapping[str, Route]:
    if path in table:
        return table[path]
    parent, _, segment = path.rpartition("/")
    return table.get(f"{parent}/:", {}) if segment else {}


def _clean(path: str) -> str:
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned
