"""The requests of OTLP in its JSON encoding. Pure.

Source: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding. Names are in lower camel case, ids are
hexadecimal, 64-bit integers are strings, and enumerations are numbers.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway import __version__
from gateway.tracing.histogram import Histogram
from gateway.tracing.span import TEXT_CHARACTERS_MAX, FinishedSpan, SpanKind, TraceContext, Value

_KINDS = {SpanKind.INTERNAL: 1, SpanKind.SERVER: 2, SpanKind.CLIENT: 3}
_STATUS_ERROR = 2
_CUMULATIVE = 2
_SCOPE = {"name": "neuronetz-gateway", "version": __version__}


def attributes(values: Mapping[str, Value]) -> list[dict[str, Any]]:
    """Attributes as key-value pairs. Texts are cut after TEXT_CHARACTERS_MAX characters."""
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def spans(parent: TraceContext, span: FinishedSpan) -> str:
    """A span and its children as JSON objects, separated by commas. Each call creates new span ids."""
    return ",".join(map(_dumps, _spans(f"{parent.trace_id:032x}", f"{parent.span_id:016x}", span)))


def traces(resource: Mapping[str, Value], encoded_spans: Iterable[str]) -> bytes:
    """An ExportTraceServiceRequest with the results of `spans`."""
    head = f'{{"resourceSpans":[{{"resource":{_resource(resource)},"scopeSpans":[{{"scope":{_dumps(_SCOPE)},"spans":['
    return f"{head}{','.join(encoded_spans)}]}}]}}]}}".encode()


def metrics(
    resource: Mapping[str, Value], histograms: Iterable[Histogram], start_ns: int, time_ns: int
) -> bytes | None:
    """An ExportMetricsServiceRequest with all values since `start_ns`, None when there are none.

    Times are nanoseconds since the epoch.
    """
    encoded = [_histogram(each, start_ns, time_ns) for each in histograms if each.series]
    if not encoded:
        return None
    scope_metrics = _dumps([{"scope": _SCOPE, "metrics": encoded}])
    return f'{{"resourceMetrics":[{{"resource":{_resource(resource)},"scopeMetrics":{scope_metrics}}}]}}'.encode()


def _spans(trace_id: str, parent_id: str, span: FinishedSpan) -> Iterator[dict[str, Any]]:
    span_id = secrets.token_hex(8)
    encoded: dict[str, Any] = {
        "traceId": trace_id,
        "spanId": span_id,
        "parentSpanId": parent_id,
        "name": span.name,
        "kind": _KINDS[span.kind],
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": attributes(span.attributes),
    }
    if span.events:
        encoded["events"] = [{"name": name, "timeUnixNano": str(time_ns)} for name, time_ns in span.events]
    if span.error is not None:
        encoded["attributes"] += attributes({"error.type": span.error})
        encoded["status"] = {"code": _STATUS_ERROR}
    yield encoded
    for child in span.children:
        yield from _spans(trace_id, span_id, child)


def _histogram(histogram: Histogram, start_ns: int, time_ns: int) -> dict[str, Any]:
    points = [
        {
            "attributes": attributes(dict(values)),
            "startTimeUnixNano": str(start_ns),
            "timeUnixNano": str(time_ns),
            "count": str(sum(series.counts)),
            "sum": series.total,
            "bucketCounts": list(map(str, series.counts)),
            "explicitBounds": histogram.bounds,
        }
        for values, series in histogram.series.items()
    ]
    described = {"name": histogram.name, "unit": histogram.unit, "description": histogram.description}
    return {**described, "histogram": {"aggregationTemporality": _CUMULATIVE, "dataPoints": points}}


def _resource(values: Mapping[str, Value]) -> str:
    return _dumps({"attributes": attributes(values)})


def _value(value: Value) -> dict[str, Any]:
    match value:
        case str():
            return {"stringValue": value[:TEXT_CHARACTERS_MAX]}
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
