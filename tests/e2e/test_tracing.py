"""Traces of a running stack: each request is one trace over Envoy, authz and meter, in a real OTLP collector."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ops.embedded.state import open_state
from tests.e2e.ledger_view import open_ledger_view
from tests.e2e.stack import Simulator, Stack, set_env, simulator, up
from tests.otlp_collector import CollectedSpan, Collector, collector
from tests.polling import eventually
from tests.ports import free_port

COLLECTOR_KEY = "a-key-of-the-collector"
CALLER_SPAN = "b7ad6b7169203331"
MODEL = "llama3.2:latest"
PROMPT = "a prompt that no span contains"
CHECK = "async envoy.service.auth.v3.Authorization.Check egress"
PROCESS = "async envoy.service.ext_proc.v3.ExternalProcessor.Process egress"
WAIT_S = 20.0


@pytest.fixture(scope="module")
def backend() -> Iterator[Simulator]:
    with simulator("--tokens-per-s", "100") as running:
        yield running


@pytest.fixture(scope="module")
def collected() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def stack(backend: Simulator, collected: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with one slot, so that a second request waits."""
    state_dir = tmp_path_factory.mktemp("tracing") / "state"
    with open_state(state_dir) as state:
        state.env_file.touch(mode=0o600)
    backends = [{"name": "sim", "base_url": backend.url, "slots": 1}]
    set_env(state_dir, OLLAMA_BACKENDS=json.dumps(backends), QUEUE_MAX_WAIT_S="20")
    set_env(state_dir, OTEL_EXPORTER_OTLP_ENDPOINT=collected.url, OTEL_SERVICE_NAME="gateway-of-the-test")
    set_env(state_dir, OTEL_EXPORTER_OTLP_HEADERS=f"x-collector-key={COLLECTOR_KEY}")
    set_env(state_dir, OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test")
    set_env(state_dir, OTEL_BSP_SCHEDULE_DELAY="200", OTEL_METRIC_EXPORT_INTERVAL="500")
    with up(state_dir, "--listen", f"127.0.0.1:{free_port()}", "--workers", "1") as running:
        yield running


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    return stack.new_key("traced")


def chat(stack: Stack, key: str, trace_id: str, *, flags: str = "01", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "traceparent": f"00-{trace_id}-{CALLER_SPAN}-{flags}"}
    headers["tracestate"] = "vendor=1"
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], **fields}
    return httpx.post(f"{stack.url}/api/chat?secret={key}", headers=headers, json=body, timeout=60)


def spans_of(collected: Collector, trace_id: str, count: int) -> dict[str, CollectedSpan]:
    """The spans of a trace by name, as soon as all `count` have arrived."""
    found = eventually(lambda: spans if len(spans := collected.trace(trace_id)) >= count else None, WAIT_S)
    assert len(found) == count, [each.span.name for each in found]
    return {each.span.name: each for each in found}


def row_of(stack: Stack, request_id: str) -> dict[str, Any]:
    async def read() -> dict[str, Any]:
        async with open_ledger_view(stack) as view:
            (row,) = (await view.wait_for_rows([request_id]))[request_id]
            return row

    return asyncio.run(read())


def test_a_streamed_chat_is_one_trace_with_the_tokens_of_its_ledger_row(
    stack: Stack, key: str, backend: Simulator, collected: Collector
) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    backend.clear_records()
    answer = chat(stack, key, trace_id, options={"num_predict": 20})
    assert answer.status_code == 200
    request_id = answer.headers["x-request-id"]
    assert request_id[14] == "4", "the request id is a UUID of version 4"
    spans = spans_of(collected, trace_id, 6)
    row = row_of(stack, request_id)

    inference, attempt = f"chat {MODEL}", "router backend:sim egress"
    parents = {name: each.parent_id for name, each in spans.items()}
    assert parents == {
        "ingress": CALLER_SPAN,
        CHECK: spans["ingress"].id,
        "admission": spans[CHECK].id,
        PROCESS: spans["ingress"].id,
        inference: spans[PROCESS].id,
        attempt: spans["ingress"].id,
    }
    assert {name: each.span.kind for name, each in spans.items()} == {
        "ingress": Span.SPAN_KIND_SERVER,
        CHECK: Span.SPAN_KIND_CLIENT,
        "admission": Span.SPAN_KIND_SERVER,
        PROCESS: Span.SPAN_KIND_CLIENT,
        inference: Span.SPAN_KIND_CLIENT,
        attempt: Span.SPAN_KIND_CLIENT,
    }
    assert {each.span.status.code for each in spans.values()} == {Status.STATUS_CODE_UNSET}
    assert all(
        each.span.trace_state == "vendor=1" for each in spans.values() if each.resource["neuronetz.process"] == "envoy"
    )

    prefix = row["key_prefix"]
    assert spans["admission"].attributes == {
        "neuronetz.request_id": request_id,
        "url.path": "/api/chat",
        "neuronetz.tenant": "traced",
        "neuronetz.key_prefix": prefix,
        "neuronetz.surface": "chat",
        "neuronetz.input_estimate": spans["admission"].attributes["neuronetz.input_estimate"],
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 20,
    }
    assert spans[inference].attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.usage.input_tokens": row["input_tokens"],
        "gen_ai.usage.output_tokens": row["output_tokens"],
        "gen_ai.response.time_to_first_chunk": row["ttft_ms"] / 1000,
        "http.response.status_code": 200,
        "neuronetz.request_id": request_id,
        "neuronetz.tenant": "traced",
        "neuronetz.key_prefix": prefix,
        "neuronetz.surface": "chat",
        "neuronetz.backend": "sim",
        "neuronetz.outcome": "complete",
        "neuronetz.usage_source": "exact",
    }
    assert row["output_tokens"] > 0
    span = spans[inference].span
    assert span.end_time_unix_nano - span.start_time_unix_nano == row["duration_ms"] * 1_000_000
    (first_token,) = span.events
    assert first_token.name == "first_token"
    assert first_token.time_unix_nano - span.start_time_unix_nano == row["ttft_ms"] * 1_000_000

    (received,) = backend.requests(request_id)
    assert received["headers"]["traceparent"] == f"00-{trace_id}-{spans[attempt].id}-01"
    assert received["headers"]["tracestate"] == "vendor=1"
    resources = {each.resource["neuronetz.process"]: each.resource for each in spans.values()}
    assert set(resources) == {"envoy", "authz", "meter"}
    for resource in resources.values():
        assert resource["service.name"] == "gateway-of-the-test"
        assert resource["deployment.environment.name"] == "test"
    assert collected.headers["x-collector-key"] == COLLECTOR_KEY


def test_a_denial_has_its_status_and_its_code(stack: Stack, key: str, collected: Collector) -> None:
    limited = stack.new_key("limited", "--rpm", "1")
    assert chat(stack, limited, "1" * 31 + "a", options={"num_predict": 1}).status_code == 200
    denials = {
        "2" * 32: (chat(stack, key, "2" * 32, model="absent"), 403, "model_not_allowed", "traced"),
        "3" * 32: (chat(stack, limited, "3" * 32), 429, "rate_limit_exceeded", "limited"),
        "4" * 32: (chat(stack, "nz_wrong", "4" * 32), 401, "invalid_api_key", None),
    }
    for trace_id, (answer, status, code, tenant) in denials.items():
        assert answer.status_code == status
        spans = spans_of(collected, trace_id, 4)
        admission = spans["admission"]
        assert admission.span.status.code == Status.STATUS_CODE_ERROR
        assert admission.attributes["error.type"] == code
        assert admission.attributes["http.response.status_code"] == status
        assert admission.attributes.get("neuronetz.tenant") == tenant
        assert spans["ingress"].attributes["http.status_code"] == str(status)
        assert not any(name.startswith("chat ") for name in spans)


async def test_a_request_that_waited_has_a_span_of_its_wait(stack: Stack, key: str, collected: Collector) -> None:
    first, second = "5" * 32, "6" * 32
    answers = await asyncio.gather(
        asyncio.to_thread(chat, stack, key, first, options={"num_predict": 60}),
        asyncio.to_thread(chat, stack, key, second, options={"num_predict": 60}),
    )
    traces = dict(zip((first, second), answers, strict=True))
    (waited,) = [trace_id for trace_id, answer in traces.items() if "x-queue-wait-ms" in answer.headers]
    spans = await asyncio.to_thread(spans_of, collected, waited, 7)
    queue, admission = spans["queue"].span, spans["admission"].span
    assert spans["queue"].parent_id == spans["admission"].id
    assert queue.kind == Span.SPAN_KIND_INTERNAL
    assert admission.start_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == admission.end_time_unix_nano
    assert spans["queue"].attributes["neuronetz.queued_ms"] == pytest.approx(
        int(traces[waited].headers["x-queue-wait-ms"]), abs=1000
    )


def test_a_caller_that_is_not_sampled_has_no_spans_and_its_context_still_reaches_the_backend(
    stack: Stack, key: str, backend: Simulator, collected: Collector
) -> None:
    unsampled, sampled = "7" * 32, "8" * 32
    answer = chat(stack, key, unsampled, flags="00", options={"num_predict": 1})
    (received,) = backend.requests(answer.headers["x-request-id"])
    assert received["headers"]["traceparent"].startswith(f"00-{unsampled}-")
    assert received["headers"]["traceparent"].endswith("-00")
    chat(stack, key, sampled, options={"num_predict": 1})
    spans_of(collected, sampled, 6)
    assert collected.trace(unsampled) == []


def test_the_metrics_of_tokens_equal_the_ledger(stack: Stack, key: str, collected: Collector) -> None:
    answer = chat(stack, key, "9" * 32, options={"num_predict": 5})
    assert answer.status_code == 200

    def totals() -> tuple[int, int] | None:
        rows = stack.cli("show-usage")["totals"]
        points = collected.metrics.get("gen_ai.client.token.usage", ())
        wanted = rows["input_tokens"] + rows["output_tokens"]
        return (wanted, len(points)) if sum(point.sum for point in points) == wanted > 0 else None

    eventually(totals, WAIT_S)
    assert set(collected.metrics) >= {
        "gen_ai.client.token.usage",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
    }


def test_no_span_and_no_configuration_of_envoy_has_a_secret(stack: Stack, key: str, collected: Collector) -> None:
    chat(stack, key, "a" * 32, options={"num_predict": 1})
    spans_of(collected, "a" * 32, 6)
    sent = b"".join(collected.bodies)
    for secret in (key, key.rpartition("_")[2], PROMPT, COLLECTOR_KEY, "secret="):
        assert secret.encode() not in sent
    transport = httpx.HTTPTransport(uds=str(stack.state_dir / "run/envoy-admin.sock"))
    with httpx.Client(transport=transport, base_url="http://envoy") as admin:
        assert COLLECTOR_KEY not in admin.get("/config_dump").text
