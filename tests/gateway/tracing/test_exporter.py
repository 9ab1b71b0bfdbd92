"""The exporter with a real collector, and with none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from gateway.metrics.registry import REGISTRY
from gateway.settings import Settings
from gateway.tracing.exporter import QUEUED_SPANS_MAX, SHUTDOWN_TIMEOUT_S, OtlpExporter
from gateway.tracing.span import TEXT_CHARACTERS_MAX, FinishedSpan, SpanKind, TraceContext
from tests.otlp_collector import Collector, collector
from tests.ports import free_port

PARENT = TraceContext(0xA1, 0xB2)
WAIT = FinishedSpan("queue", SpanKind.INTERNAL, 20, 30, {})
SPAN = FinishedSpan(
    "admission", SpanKind.SERVER, 10, 30, {"text": "x" * 1000, "number": 7}, "queue_timeout", (("event", 15),), (WAIT,)
)


@pytest.fixture
def collected() -> Iterator[Collector]:
    with collector() as running:
        yield running


def settings(endpoint: str) -> Settings:
    return Settings(otel_exporter_otlp_endpoint=endpoint)


def dropped() -> float:
    return REGISTRY.get_sample_value("neuronetz_spans_dropped_total") or 0.0


async def test_a_span_arrives_with_its_children_and_with_bounded_attributes(collected: Collector) -> None:
    exporter = OtlpExporter(settings(collected.url), "authz", "a")
    exporter.export(PARENT, SPAN)
    await exporter.aclose()
    by_name = {each.span.name: each for each in collected.spans}
    admission, queue = by_name["admission"], by_name["queue"]
    assert admission.span.trace_id.hex().endswith("a1")
    assert admission.parent_id.endswith("b2")
    assert queue.parent_id == admission.id
    assert (admission.span.start_time_unix_nano, admission.span.end_time_unix_nano) == (10, 30)
    assert admission.attributes == {"text": "x" * TEXT_CHARACTERS_MAX, "number": 7, "error.type": "queue_timeout"}
    assert [(event.name, event.time_unix_nano) for event in admission.span.events] == [("event", 15)]


async def test_without_an_answer_of_the_collector_spans_are_counted_and_dropped_and_nothing_blocks() -> None:
    before = dropped()
    exporter = OtlpExporter(settings(f"http://127.0.0.1:{free_port()}"), "authz", "a")
    for _ in range(2 * QUEUED_SPANS_MAX):
        exporter.export(PARENT, SPAN)
    # Each export has two spans. What the SDK's thread took meanwhile made space in the queue.
    assert dropped() - before >= 2 * QUEUED_SPANS_MAX - 1024
    async with asyncio.timeout(SHUTDOWN_TIMEOUT_S + 5):
        await exporter.aclose()
