"""The exporter with a collector, and without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gateway.loops import Backoff
from gateway.metrics.registry import REGISTRY
from gateway.settings import Settings
from gateway.tracing import exporter as module
from gateway.tracing.exporter import BATCH_SPANS_MAX, QUEUED_SPANS_MAX, OtlpExporter, exporting
from gateway.tracing.histogram import Histogram
from gateway.tracing.span import FinishedSpan, SpanKind, TraceContext
from tests.http_servers import servers
from tests.otlp_collector import Collector, collector
from tests.polling import eventually
from tests.ports import free_port

PARENT = TraceContext(0xA1, 0xB2)
WAIT = FinishedSpan("queue", SpanKind.INTERNAL, 20, 30, {})
SPAN = FinishedSpan("admission", SpanKind.SERVER, 10, 30, {}, children=(WAIT,))
WAIT_S = 10.0


@pytest.fixture
def collected() -> Iterator[Collector]:
    with collector() as running:
        yield running


def settings(endpoint: str, **fields: object) -> Settings:
    return Settings.model_validate({"otel_exporter_otlp_endpoint": endpoint, **fields})


@asynccontextmanager
async def running(configured: Settings) -> AsyncIterator[OtlpExporter]:
    """An exporter that runs until the context ends."""
    async with exporting(configured, "authz", "a") as exporter:
        assert exporter is not None
        task = asyncio.create_task(exporter.run())
        yield exporter
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def arrived(found: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, found, WAIT_S)


def dropped() -> float:
    return REGISTRY.get_sample_value("neuronetz_spans_dropped_total") or 0.0


async def test_without_an_endpoint_there_is_no_exporter() -> None:
    async with exporting(Settings(), "authz", "a") as exporter:
        assert exporter is None


async def test_spans_arrive_after_the_delay_with_the_resource_and_the_headers(collected: Collector) -> None:
    fields = {
        "otel_bsp_schedule_delay": 1,
        "otel_exporter_otlp_headers": "x-key=a%20b",
        "otel_service_name": "gate",
        "otel_resource_attributes": "deployment.environment.name=test",
    }
    async with running(settings(collected.url, **fields)) as exporter:
        exporter.export(PARENT, lambda: SPAN)
        await arrived(lambda: len(collected.spans) == 2)
    resource = collected.spans[0].resource
    assert (resource["service.name"], resource["neuronetz.process"]) == ("gate", "authz")
    assert resource["deployment.environment.name"] == "test"
    assert collected.headers["x-key"] == "a b"


async def test_a_span_that_cannot_be_built_is_dropped_counted_and_logged(
    collected: Collector, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dropped()
    async with exporting(settings(collected.url), "authz", "a") as exporter:
        assert exporter is not None
        no_surfaces: dict[str, FinishedSpan] = {}
        exporter.export(PARENT, lambda: no_surfaces["chat"])
        exporter.export(PARENT, lambda: SPAN)
    assert len(collected.spans) == 2
    assert dropped() == before + 1
    assert "span_not_built" in capsys.readouterr().out


async def test_a_full_batch_does_not_wait_for_the_delay(collected: Collector) -> None:
    before = dropped()
    async with running(settings(collected.url, otel_bsp_schedule_delay=3_600_000)) as exporter:
        await asyncio.sleep(0)
        for _ in range(BATCH_SPANS_MAX):
            exporter.export(PARENT, lambda: SPAN)
        await arrived(lambda: len(collected.spans) == 2 * BATCH_SPANS_MAX)
    # A request that the end of `run` interrupts is sent again, with the same span ids.
    assert len(set(collected.bodies)) == 2
    assert dropped() == before


async def test_what_is_queued_is_exported_at_the_end(collected: Collector) -> None:
    async with exporting(settings(collected.url), "authz", "a") as exporter:
        assert exporter is not None
        histogram = Histogram("tokens", "{token}", "Tokens.", (1.0, 10.0))
        exporter.add([histogram])
        histogram.record(10, {"kind": "input"})
        histogram.record(11, {"kind": "input"})
        exporter.export(PARENT, lambda: SPAN)
    assert len(collected.spans) == 2
    (point,) = collected.metrics["tokens"]
    assert (point.count, point.sum, list(point.bucket_counts)) == (2, 21, [0, 1, 1])
    assert list(point.explicit_bounds) == [1.0, 10.0]


async def test_without_a_collector_spans_beyond_the_queue_are_dropped_and_counted_and_nothing_blocks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SHUTDOWN_TIMEOUT_S", 0.5)
    before = dropped()
    async with running(settings(f"http://127.0.0.1:{free_port()}", otel_bsp_schedule_delay=1)) as exporter:
        await asyncio.sleep(0)
        for _ in range(QUEUED_SPANS_MAX):
            exporter.export(PARENT, lambda: SPAN)
        assert dropped() - before == QUEUED_SPANS_MAX
        await arrived(lambda: "spans_not_exported" in capsys.readouterr().out)
    assert dropped() - before == 2 * QUEUED_SPANS_MAX


@pytest.mark.parametrize(("status", "lost"), [(503, 0), (429, 0), (400, 2)])
async def test_a_request_is_sent_again_only_if_the_protocol_permits_it(
    monkeypatch: pytest.MonkeyPatch, status: int, lost: int
) -> None:
    monkeypatch.setattr(module, "BACKOFF", Backoff(0.001, 0.001))
    bodies: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.json_response({}, status=status if len(bodies) == 1 else 200)

    before = dropped()
    with servers() as own:
        application = web.Application()
        application.add_routes([web.post("/v1/traces", answer)])
        async with running(settings(own.serve(application), otel_bsp_schedule_delay=1)) as exporter:
            exporter.export(PARENT, lambda: SPAN)
            await arrived(lambda: bodies)
            exporter.export(PARENT, lambda: WAIT)
            await arrived(lambda: len(bodies) == (3 if lost == 0 else 2))
    assert (bodies[0] == bodies[1]) is (lost == 0)
    assert dropped() - before == lost


async def test_spans_that_the_collector_rejects_are_counted() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"partialSuccess": {"rejectedSpans": "1", "errorMessage": "too old"}})

    before = dropped()
    with servers() as own:
        application = web.Application()
        application.add_routes([web.post("/v1/traces", answer)])
        async with exporting(settings(own.serve(application)), "authz", "a") as exporter:
            assert exporter is not None
            exporter.export(PARENT, lambda: SPAN)
    assert dropped() - before == 1
