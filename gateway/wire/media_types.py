"""The media types of answers. Pure."""

from __future__ import annotations

from gateway.wire.surfaces import Dialect, Surface

JSON, NDJSON, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"


def accepted_type(surface: Surface, *, stream: bool) -> str:
    """The media type of an answer of `surface`. Ollama may answer a stream of NDJSON with one JSON object as well."""
    if not stream or surface.streams_by_default is None:
        return JSON
    return NDJSON if surface.dialect is Dialect.NATIVE else EVENTS
