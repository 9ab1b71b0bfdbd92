"""A finished span as a plain value, and the trace context that it continues. Pure.

A span is built when its work is over, from values that the request has anyway, so a request that is not traced costs
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

Value = str | bool | int | float

TEXT_CHARACTERS_MAX = 256
"""The length to which the exporter cuts the text of an attribute."""

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 0x01


class SpanKind(StrEnum):
    """The kinds of spans that the services create."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The span of the caller: the id of its trace and its own id, as numbers."""

    trace_id: int
    span_id: int


@dataclass(frozen=True, slots=True)
class FinishedSpan:
    """A span with its children. Times are nanoseconds since the epoch.

    `error` is the class of an error (`error.type`), None for success. `events` are names with times.
    """

    name: str
    kind: SpanKind
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    error: str | None = None
    events: tuple[tuple[str, int], ...] = ()
    children: tuple[FinishedSpan, ...] = field(default=())

    @property
    def size(self) -> int:
        """The number of spans: this one and those below it."""
        return 1 + sum(child.size for child in self.children)


class SpanExporter(Protocol):
    """Accepts finished spans. `gateway.tracing.exporter` has the implementation."""

    def export(self, parent: TraceContext, build: Callable[[], FinishedSpan]) -> None:
        """Queues the span that `build` returns, and its children. It neither blocks nor raises.

        A full queue drops the span, and so does an exception of `build`.
        """
        ...


def sampled_context(traceparent: str) -> TraceContext | None:
    """The context of a `traceparent` header, None when it is malformed or its trace is not sampled."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or not int(match[3], 16) & _SAMPLED:
        return None
    trace_id, span_id = int(match[1], 16), int(match[2], 16)
    return TraceContext(trace_id, span_id) if trace_id and span_id else None
