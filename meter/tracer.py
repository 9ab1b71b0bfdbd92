"""The traced requests of this process, from their first message until their ledger entry is final."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.record.entry import Entry
from gateway.record.grant import Grant
from gateway.tracing.span import SpanExporter, TraceContext, sampled_context
from meter.stream_span import stream_span


class StreamTracer:
    """Exports one span per sampled request. `now_ns` returns nanoseconds since the epoch."""

    def __init__(self, exporter: SpanExporter, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._exporter = exporter
        self._now_ns = now_ns
        self._running: dict[str, tuple[TraceContext, Grant, int]] = {}

    def begin(self, grant: Grant, traceparent: str) -> None:
        """The request runs from now on, as a part of the caller's trace."""
        if (parent := sampled_context(traceparent)) is not None:
            self._running[grant.request_id] = parent, grant, self._now_ns()

    def finish(self, entry: Entry) -> None:
        """The entry of a request is final. Entries of other requests are ignored."""
        if (running := self._running.pop(entry.request_id, None)) is not None:
            parent, grant, opened_ns = running
            self._exporter.export(parent, lambda: stream_span(grant, entry, opened_ns))

    def finishing(self, submit: Callable[[Entry], None]) -> Callable[[Entry], None]:
        """A function that submits an entry that has become final, and then finishes its request."""

        def submit_and_finish(entry: Entry) -> None:
            submit(entry)
            self.finish(entry)

        return submit_and_finish
