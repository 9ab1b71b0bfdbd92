"""Ollama's route table and how a path finds its way into it. Everything that is not listed is a 404 or a 405.

Two routers stand in a row in the real server: the outer one redirects paths that are not clean (`//`, `..`), the
inner one matches the decoded path and redirects a trailing slash. Both matter to whoever filters in front of it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote, urlsplit

from ops.simulator.dialects import anthropic, native, openai, responses
from ops.simulator.dialects.base import Dialect, Refusal, native_refusal
from ops.simulator.handlers import embedding, listing, management, transcription
from ops.simulator.handlers.exchange import Exchange
from ops.simulator.handlers.generation import answer

Handler = Callable[[Exchange], Awaitable[None]]
RefusalWriter = Callable[[Refusal], tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Route:
    """A handler, how its errors look, and whether it runs a model."""

    handler: Handler
    refusal: RefusalWriter
    runs_model: bool


@dataclass(frozen=True, slots=True)
class Match:
    """A request's way in: the route, the path it was found by, and what a last `:parameter` was."""

    route: Route
    path: str
    segment: str


@dataclass(frozen=True, slots=True)
class Stray:
    """No way in: a 404, a 405 with the methods that would do, or a redirect to `location`."""

    status: int
    allow: tuple[str, ...] = ()
    location: str = ""


def find(method: str, target: str) -> Match | Stray:
    """Where a request line leads. `target` is its raw target: a path with a query, or an absolute URL."""
    path = unquote(path_of(target))
    clean = _clean(path)
    if clean != path:
        return Stray(307, location=clean)
    found = _methods(path)
    if method in found:
        return Match(found[method], path, path.rpartition("/")[2])
    if not found and path.endswith("/") and method in _methods(path.rstrip("/")):
        return Stray(301 if method == "GET" else 307, location=path.rstrip("/"))
    return Stray(405, allow=tuple(found)) if found else Stray(404)


def path_of(target: str) -> str:
    """The path of a raw request target, still encoded and without its query."""
    return (urlsplit(target).path if "://" in target.partition("?")[0] else target.partition("?")[0]) or "/"


def _methods(path: str) -> dict[str, Route]:
    if path in _TABLE:
        return _TABLE[path]
    parent, _, segment = path.rpartition("/")
    return _TABLE.get(f"{parent}/:", {}) if segment else {}


def _clean(path: str) -> str:
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned


def _plain(handler: Handler, refusal: RefusalWriter = native_refusal) -> Route:
    return Route(handler, refusal, runs_model=False)


def _model(handler: Handler, refusal: RefusalWriter = native_refusal) -> Route:
    return Route(handler, refusal, runs_model=True)


_TABLE: dict[str, dict[str, Route]] = {
    "/": {"GET": _plain(listing.root), "HEAD": _plain(listing.root)},
    "/api/version": {"GET": _plain(listing.version), "HEAD": _plain(listing.version)},
    "/api/status": {"GET": _plain(listing.status)},
    "/api/tags": {"GET": _plain(listing.tags), "HEAD": _plain(listing.tags)},
    "/api/ps": {"GET": _plain(listing.ps)},
    "/api/show": {"POST": _plain(listing.show)},
    "/api/experimental/model-recommendations": {"GET": _plain(listing.recommendations)},
    "/v1/models": {"GET": _plain(listing.openai_models, openai.openai_refusal)},
    "/v1/models/:": {"GET": _plain(listing.openai_model, openai.openai_refusal)},
    "/api/embed": {"POST": _model(embedding.embed)},
    "/api/embeddings": {"POST": _model(embedding.legacy)},
    "/v1/embeddings": {"POST": _model(embedding.openai, openai.openai_refusal)},
    "/v1/audio/transcriptions": {"POST": _model(transcription.transcribe, openai.openai_refusal)},
    "/api/pull": {"POST": _plain(management.pull)},
    "/api/push": {"POST": _plain(management.push)},
    "/api/create": {"POST": _plain(management.create)},
    "/api/copy": {"POST": _plain(management.copy)},
    "/api/delete": {"DELETE": _plain(management.delete)},
    "/api/blobs/:": {"POST": _plain(management.store_blob), "HEAD": _plain(management.has_blob)},
    "/api/me": {"POST": _plain(management.me)},
    "/api/signout": {"POST": _plain(management.signout)},
    "/api/user/keys/:": {"DELETE": _plain(management.signout)},
    "/api/experimental/web_search": {"POST": _plain(management.web)},
    "/api/experimental/web_fetch": {"POST": _plain(management.web)},
}
_GENERATING: dict[str, Dialect] = {
    "/api/chat": native.Chat(),
    "/api/generate": native.Generate(),
    "/v1/chat/completions": openai.ChatCompletions(),
    "/v1/completions": openai.Completions(),
    "/v1/responses": responses.Responses(),
    "/v1/messages": anthropic.Messages(),
}
for _path, _dialect in _GENERATING.items():
    _TABLE[_path] = {"POST": _model(partial(answer, dialect=_dialect), _dialect.refusal)}
