"""OTLP over HTTP by OpenTelemetry's SDK. The only module that imports opentelemetry, and imported only when it is used.

The SDK's threads export: the event loop only appends to a bounded queue, whose overflow is dropped. The SDK reads its
own variables for that (OTEL_BSP_*, OTEL_METRIC_EXPORT_INTERVAL, …) from the environment of the process.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export import SpanExporter as SdkSpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from gateway import __version__
from gateway.metrics.tracing import SPANS_DROPPED
from gateway.settings import Settings
from gateway.settings.telemetry import read_pairs
from gateway.tracing.span import TEXT_CHARACTERS_MAX, FinishedSpan, SpanKind, TraceContext, Value

log = structlog.get_logger()

QUEUED_SPANS_MAX = 2048
# What a stopping process waits for its last export.
SHUTDOWN_TIMEOUT_S = 3.0
_SCOPE = "neuronetz-gateway"
_KINDS = {
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
}


Record = Callable[[float, Mapping[str, Value]], None]
"""Records one value of a histogram with its attributes."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """An OTLP histogram: its name, its unit (UCUM), its description and the upper bounds of its buckets."""

    name: str
    unit: str
    description: str
    bounds: Sequence[float]


class _CountedExporter(SdkSpanExporter):
    """Counts the spans that the SDK's thread has taken from its queue, and those that the collector did not accept."""

    def __init__(self, exporter: SdkSpanExporter) -> None:
        self._exporter = exporter
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            SPANS_DROPPED.inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class OtlpExporter:
    """See `gateway.tracing.span.SpanExporter`. `process` is authz or meter, `instance` distinguishes its workers."""

    def __init__(self, settings: Settings, process: str, instance: str) -> None:
        self._endpoint = settings.otel_exporter_otlp_endpoint
        self._headers = read_pairs(settings.otel_exporter_otlp_headers.get_secret_value())
        self._resource = Resource.create(
            {
                **read_pairs(settings.otel_resource_attributes),
                "service.name": settings.otel_service_name,
                "service.version": __version__,
                "service.instance.id": f"{socket.gethostname()}:{instance}",
                "neuronetz.process": process,
            }
        )
        self._queued = 0
        self._exporter = _CountedExporter(OTLPSpanExporter(f"{self._endpoint}/v1/traces", headers=self._headers))
        self._tracers = TracerProvider(
            # Envoy has decided, and only sampled spans arrive here.
            sampler=ALWAYS_ON,
            resource=self._resource,
            span_limits=SpanLimits(max_attribute_length=TEXT_CHARACTERS_MAX),
            shutdown_on_exit=False,
        )
        self._tracers.add_span_processor(BatchSpanProcessor(self._exporter, max_queue_size=QUEUED_SPANS_MAX))
        self._tracer = self._tracers.get_tracer(_SCOPE, __version__)
        self._meters: MeterProvider | None = None

    def export(self, parent: TraceContext, span: FinishedSpan) -> None:
        """See SpanExporter. A span that does not fit is dropped here, because the SDK would log each one."""
        spans = 1 + len(span.children)
        if self._queued + spans - self._exporter.taken > QUEUED_SPANS_MAX:
            SPANS_DROPPED.inc(spans)
            return
        self._queued += spans
        context = trace.SpanContext(
            parent.trace_id, parent.span_id, is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
        )
        self._export(trace.NonRecordingSpan(context), span)

    def _export(self, parent: trace.Span, span: FinishedSpan) -> None:
        exported = self._tracer.start_span(
            span.name,
            trace.set_span_in_context(parent),
            _KINDS[span.kind],
            attributes=span.attributes,
            start_time=span.start_ns,
        )
        for name, time_ns in span.events:
            exported.add_event(name, timestamp=time_ns)
        if span.error is not None:
            exported.set_attribute("error.type", span.error)
            exported.set_status(trace.StatusCode.ERROR)
        for child in span.children:
            self._export(exported, child)
        exported.end(span.end_ns)

    def histograms(self, wanted: Sequence[Histogram]) -> list[Record]:
        """Creates these metrics, which are exported periodically. Call it once."""
        exporter = OTLPMetricExporter(f"{self._endpoint}/v1/metrics", headers=self._headers)
        reader = PeriodicExportingMetricReader(exporter)
        self._meters = MeterProvider([reader], resource=self._resource, shutdown_on_exit=False)
        meter = self._meters.get_meter(_SCOPE, __version__)
        return [
            meter.create_histogram(
                each.name, each.unit, each.description, explicit_bucket_boundaries_advisory=each.bounds
            ).record
            for each in wanted
        ]

    async def aclose(self) -> None:
        """Exports what is queued, in at most SHUTDOWN_TIMEOUT_S."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            try:
                self._tracers.shutdown()
                if self._meters is not None:
                    self._meters.shutdown(SHUTDOWN_TIMEOUT_S * 1000)
            finally:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(done.set)

        # A daemon, because the SDK waits for an export that the process must not wait for.
        threading.Thread(target=close, name="otlp-shutdown", daemon=True).start()
        try:
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                await done.wait()
        except TimeoutError:
            log.warning("spans_not_exported", reason=f"no answer within {SHUTDOWN_TIMEOUT_S:.0f} s")
