"""The JSON encoding of OTLP, field by field."""

from __future__ import annotations

import json
from typing import Any

from gateway import __version__
from gateway.tracing import otlp_json
from gateway.tracing.histogram import Histogram
from gateway.tracing.span import TEXT_CHARACTERS_MAX, FinishedSpan, SpanKind, TraceContext, Value

PARENT = TraceContext(0xA1, 0xB2)
SCOPE = {"name": "neuronetz-gateway", "version": __version__}
RESOURCE = {"attributes": [{"key": "service.name", "value": {"stringValue": "g"}}]}


def test_a_span_and_its_child() -> None:
    values: dict[str, Value] = {"text": "é" * 1000, "yes": True, "number": 2**53, "share": 0.5}
    wait = FinishedSpan("queue", SpanKind.INTERNAL, 20, 30, {})
    span = FinishedSpan("admission", SpanKind.SERVER, 10, 2**60, values, "queue_timeout", (("event", 15),), (wait,))
    request = json.loads(otlp_json.traces({"service.name": "g"}, [otlp_json.spans(PARENT, span)]))
    (resource_spans,) = request.pop("resourceSpans")
    assert request == {}
    assert resource_spans["resource"] == RESOURCE
    (scope_spans,) = resource_spans["scopeSpans"]
    assert scope_spans["scope"] == SCOPE
    parent, child = scope_spans["spans"]
    assert parent == {
        "traceId": f"{0xA1:032x}",
        "spanId": child["parentSpanId"],
        "parentSpanId": f"{0xB2:016x}",
        "name": "admission",
        "kind": 2,
        "startTimeUnixNano": "10",
        "endTimeUnixNano": str(2**60),
        "attributes": [
            {"key": "text", "value": {"stringValue": "é" * TEXT_CHARACTERS_MAX}},
            {"key": "yes", "value": {"boolValue": True}},
            {"key": "number", "value": {"intValue": str(2**53)}},
            {"key": "share", "value": {"doubleValue": 0.5}},
            {"key": "error.type", "value": {"stringValue": "queue_timeout"}},
        ],
        "events": [{"name": "event", "timeUnixNano": "15"}],
        "status": {"code": 2},
    }
    assert (child["traceId"], child["kind"], len(child["spanId"])) == (parent["traceId"], 1, 16)
    assert child["spanId"] != parent["spanId"]


def test_a_histogram_is_cumulative_and_has_a_point_for_each_set_of_attributes() -> None:
    histogram = Histogram("tokens", "{token}", "Tokens.", (1.0, 10.0))
    for value, kind in ((1, "input"), (10.5, "input"), (3, "output")):
        histogram.record(value, {"kind": kind})
    body = otlp_json.metrics({"service.name": "g"}, [histogram], 5, 9)
    assert body is not None
    (resource_metrics,) = json.loads(body)["resourceMetrics"]
    assert resource_metrics["resource"] == RESOURCE

    def point(kind: str, counts: list[str], total: float) -> dict[str, Any]:
        return {
            "attributes": [{"key": "kind", "value": {"stringValue": kind}}],
            "startTimeUnixNano": "5",
            "timeUnixNano": "9",
            "count": str(sum(map(int, counts))),
            "sum": total,
            "bucketCounts": counts,
            "explicitBounds": [1.0, 10.0],
        }

    points = [point("input", ["1", "0", "1"], 11.5), point("output", ["0", "1", "0"], 3)]
    described = {"name": "tokens", "unit": "{token}", "description": "Tokens."}
    metric = {**described, "histogram": {"aggregationTemporality": 2, "dataPoints": points}}
    assert resource_metrics["scopeMetrics"] == [{"scope": SCOPE, "metrics": [metric]}]


def test_there_is_no_request_without_a_value() -> None:
    assert otlp_json.metrics({}, [Histogram("tokens", "{token}", "Tokens.", (1.0,))], 5, 9) is None
