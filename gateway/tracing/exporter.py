"""Exports spans and histograms to an OTLP collector over HTTP, next to the requests.

The event loop only appends to a bounded queue. A background task encodes what is queued in small steps, so that it does
not delay requests. What the queue cannot take is dropped and counted.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice

import structlog

from gateway import __version__
from gateway.loops import Backoff, forever
from gateway.metrics.tracing import SPANS_DROPPED
from gateway.settings import Settings
from gateway.settings.telemetry import read_pairs
from gateway.tracing import otlp_json
from gateway.tracing.collector import Collector, CollectorError, RequestRefused
from gateway.tracing.histogram import Histogram
from gateway.tracing.span import FinishedSpan, TraceContext, Value

log = structlog.get_logger()

QUEUED_SPANS_MAX = 2048
BATCH_SPANS_MAX = 512
# What a stopping process waits for its last export.
SHUTDOWN_TIMEOUT_S = 3.0
BACKOFF = Backoff(first_s=1.0, max_s=60.0)
# Requests run after each step of the encoding, which takes less than a millisecond.
_STEP_SPANS = 16


@dataclass(frozen=True, slots=True)
class _Batch:
    """A request for the collector and the number of its spans."""

    body: bytes
    spans: int


class OtlpExporter:
    """See `gateway.tracing.span.SpanExporter`. Create it in a running event loop.

    `process` is authz or meter, and `instance` distinguishes its workers.
    """

    def __init__(self, settings: Settings, endpoint: str, process: str, instance: str) -> None:
        headers = read_pairs(settings.otel_exporter_otlp_headers.get_secret_value())
        self._collector = Collector(endpoint, headers, settings.otel_exporter_otlp_timeout / 1000)
        self._resource: dict[str, Value] = {
            **read_pairs(settings.otel_resource_attributes),
            "service.name": settings.otel_service_name,
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}:{instance}",
            "neuronetz.process": process,
        }
        self._delay_s = settings.otel_bsp_schedule_delay / 1000
        self._interval_s = settings.otel_metric_export_interval / 1000
        self._queue: deque[tuple[TraceContext, FinishedSpan]] = deque()
        self._queued_spans = 0
        self._unsent: _Batch | None = None
        self._wake = asyncio.Event()
        self._histograms: list[Histogram] = []
        self._start_ns = time.time_ns()

    def export(self, parent: TraceContext, build: Callable[[], FinishedSpan]) -> None:
        """See SpanExporter."""
        try:
            span = build()
        except Exception as error:  # noqa: BLE001 (a defect in a span must not end a request)
            SPANS_DROPPED.inc()
            log.error("span_not_built", reason=type(error).__name__)
            return
        spans = span.size
        if self._queued_spans + spans > QUEUED_SPANS_MAX:
            SPANS_DROPPED.inc(spans)
            return
        self._queued_spans += spans
        self._queue.append((parent, span))
        # A batch that could not be sent has a back-off, which more spans must not end.
        if self._queued_spans >= BATCH_SPANS_MAX and self._unsent is None:
            self._wake.set()

    def add(self, histograms: Iterable[Histogram]) -> None:
        """Exports these histograms too."""
        self._histograms += histograms

    async def run(self) -> None:
        """Exports until cancelled. An unavailable collector is retried with back-off."""
        loop = partial(forever, backoff=BACKOFF, errors=(CollectorError,))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(loop(self._export_spans, self._delay_s, on_error="spans_not_exported", wake=self._wake))
            tasks.create_task(loop(self._export_metrics, self._interval_s, on_error="metrics_not_exported"))

    async def aclose(self) -> None:
        """Exports what is queued, in at most SHUTDOWN_TIMEOUT_S. `run` has ended.

        A request that it did not complete is sent again, with the same span ids.
        """
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                await self._export_metrics()
                await self._export_spans()
        except (CollectorError, TimeoutError) as error:
            SPANS_DROPPED.inc(self._queued_spans)
            log.warning("spans_not_exported", reason=str(error) or f"no answer within {SHUTDOWN_TIMEOUT_S:g} s")
        finally:
            await self._collector.aclose()

    async def _export_spans(self) -> None:
        """Sends what is queued. Raises CollectorError. A batch that may be sent again is the first of the next call."""
        while self._unsent is not None or self._queue:
            batch = self._unsent = self._unsent or await self._next_batch()
            try:
                dropped = await self._collector.post("/v1/traces", batch.body)
            except RequestRefused:
                self._discard(batch, dropped=batch.spans)
                raise
            self._discard(batch, dropped)

    def _discard(self, batch: _Batch, dropped: int) -> None:
        SPANS_DROPPED.inc(dropped)
        self._queued_spans -= batch.spans
        self._unsent = None

    async def _next_batch(self) -> _Batch:
        """Encodes spans from the head of the queue and removes them when all are encoded."""
        encoded: list[str] = []
        spans = 0
        for parent, span in list(islice(self._queue, BATCH_SPANS_MAX)):
            if spans >= BATCH_SPANS_MAX:
                break
            encoded.append(otlp_json.spans(parent, span))
            spans += span.size
            if len(encoded) % _STEP_SPANS == 0:
                await asyncio.sleep(0)
        for _ in encoded:
            self._queue.popleft()
        return _Batch(otlp_json.traces(self._resource, encoded), spans)

    async def _export_metrics(self) -> None:
        body = otlp_json.metrics(self._resource, self._histograms, self._start_ns, time.time_ns())
        if body is not None:
            await self._collector.post("/v1/metrics", body)


@asynccontextmanager
async def exporting(settings: Settings, process: str, instance: str) -> AsyncIterator[OtlpExporter | None]:
    """The exporter of a process until the context ends, None without OTEL_EXPORTER_OTLP_ENDPOINT.

    The caller runs its `run` in the background.
    """
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        yield None
        return
    exporter = OtlpExporter(settings, endpoint, process, instance)
    try:
        yield exporter
    finally:
        await exporter.aclose()
