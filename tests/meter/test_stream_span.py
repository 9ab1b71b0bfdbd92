from collections.abc import Callable
from typing import Any

import pytest

from gateway.record import grant
from gateway.record.entry import Ending, settled_entry
from gateway.record.grant import Grant
from gateway.record.request import RequestRecord
from gateway.tracing.span import FinishedSpan, SpanKind, TraceContext
from gateway.values import Outcome, Usage, UsageSource
from meter.stream_span import stream_span
from meter.tracer import StreamTracer

OPENED_NS = 5_000_000_000
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def granted(surface: str = "chat", **fields: Any) -> Grant:
    record = RequestRecord(
        "r-1", 1, "acme", 2, "nz_123456789", "192.0.2.1", "agent", "POST", "/api/chat", surface, "m:latest", True, 8
    )
    values = {"strip_usage": False, "runner_options": False, "show_backend": False, "log_prompts": False, **fields}
    return Grant.from_json(grant.seal(grant.draft(record, **values), 5, 11, 22))


def ending(outcome: Outcome = Outcome.COMPLETE, status: int = 200, **fields: Any) -> Ending:
    usage = Usage(3, 4, UsageSource.EXACT)
    values: dict[str, Any] = {"backend": "near", "usage": usage, "ttft_ms": 7, "duration_ms": 9, **fields}
    return Ending(outcome, status, **values)


def span_of(given: Grant, how: Ending) -> FinishedSpan:
    return stream_span(given, settled_entry(given, how), OPENED_NS)


def test_a_stream_has_the_usage_and_the_times_of_its_entry() -> None:
    span = span_of(granted(requested_model="M", hosted_model="m:latest"), ending(queued_ms=40))
    assert (span.name, span.kind, span.error) == ("chat M", SpanKind.CLIENT, None)
    assert (span.start_ns, span.end_ns) == (OPENED_NS, OPENED_NS + 9_000_000)
    assert span.events == (("first_token", OPENED_NS + 7_000_000),)
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "M",
        "gen_ai.response.model": "m:latest",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 22,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.time_to_first_chunk": 0.007,
        "http.response.status_code": 200,
        "neuronetz.request_id": "r-1",
        "neuronetz.tenant": "acme",
        "neuronetz.key_prefix": "nz_123456789",
        "neuronetz.surface": "chat",
        "neuronetz.backend": "near",
        "neuronetz.outcome": "complete",
        "neuronetz.usage_source": "exact",
        "neuronetz.queued_ms": 40,
    }


@pytest.mark.parametrize(
    ("how", "error"),
    [
        (ending(Outcome.UPSTREAM_ERROR, 502, code="backend_error"), "backend_error"),
        (ending(Outcome.CLIENT_GONE, 499), "client_gone"),
        (ending(Outcome.COMPLETE, 400), "400"),
    ],
)
def test_an_answer_that_failed_has_an_error_type(how: Ending, error: str) -> None:
    assert span_of(granted(), how).error == error


def test_a_request_without_a_first_byte_has_no_event() -> None:
    span = span_of(granted(), ending(Outcome.CLIENT_GONE, 499, ttft_ms=None))
    assert span.events == ()
    assert "gen_ai.response.time_to_first_chunk" not in span.attributes


class Spans:
    """Keeps what is exported."""

    def __init__(self) -> None:
        self.exported: list[tuple[TraceContext, FinishedSpan]] = []

    def export(self, parent: TraceContext, build: Callable[[], FinishedSpan]) -> None:
        self.exported.append((parent, build()))


def test_a_request_is_exported_once_when_its_entry_is_final() -> None:
    spans = Spans()
    tracer = StreamTracer(spans, lambda: OPENED_NS)
    given = granted()
    entry = settled_entry(given, ending())
    tracer.begin(given, TRACEPARENT)
    submitted: list[str] = []
    submit = tracer.finishing(lambda entry: submitted.append(entry.request_id))
    submit(entry)
    submit(entry)
    assert submitted == ["r-1", "r-1"]
    ((parent, span),) = spans.exported
    assert parent.span_id == 0xB7AD6B7169203331
    assert span.start_ns == OPENED_NS


def test_a_request_that_is_not_sampled_is_not_exported() -> None:
    spans = Spans()
    tracer = StreamTracer(spans)
    tracer.begin(granted(), TRACEPARENT.removesuffix("01") + "00")
    tracer.finish(settled_entry(granted(), ending()))
    assert spans.exported == []
