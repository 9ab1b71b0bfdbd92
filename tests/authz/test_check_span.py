import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from authz.admit import Admitted, Denial
from authz.check_span import check_span
from authz.checked_request import Body, CheckedRequest
from gateway.errors import Code, Denied
from gateway.record import grant
from gateway.record.request import RequestRecord
from gateway.tracing.span import SpanKind

SECRET, BODY = SecretStr("nz_secret"), Body(b"a prompt")
CHECKED = CheckedRequest("r-1", "POST", "/api/chat", SECRET, "192.0.2.1", "agent", "", BODY)
RECORD = RequestRecord(
    "r-1", 1, "acme", 2, "nz_123456789", "192.0.2.1", "agent", "POST", "/api/chat", "chat", "m:latest", True, 8
)
MS = 1_000_000


def admitted(**fields: Any) -> Admitted:
    draft = grant.draft(RECORD, strip_usage=False, runner_options=False, show_backend=False, log_prompts=False)
    return Admitted("/api/chat", ("backend:a",), grant.seal(draft, 5, 11, 22), {}, **fields)


def test_an_admitted_request_has_its_caller_and_its_share() -> None:
    span = check_span(CHECKED, admitted(), 1, 2)
    assert (span.name, span.kind, span.start_ns, span.end_ns) == ("admission", SpanKind.SERVER, 1, 2)
    assert (span.error, span.children) == (None, ())
    assert span.attributes == {
        "neuronetz.request_id": "r-1",
        "url.path": "/api/chat",
        "neuronetz.tenant": "acme",
        "neuronetz.key_prefix": "nz_123456789",
        "neuronetz.surface": "chat",
        "neuronetz.input_estimate": 11,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "m:latest",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 22,
    }


@pytest.mark.parametrize(
    "decision",
    [admitted(queued_ms=3), Denial(Denied(Code.QUEUE_TIMEOUT), queued_ms=3, record=RECORD)],
    ids=["admitted", "denied"],
)
def test_a_wait_is_a_child_that_ends_with_the_check(decision: Admitted | Denial) -> None:
    (wait,) = check_span(CHECKED, decision, 1 * MS, 9 * MS).children
    assert (wait.name, wait.kind, wait.start_ns, wait.end_ns) == ("queue", SpanKind.INTERNAL, 6 * MS, 9 * MS)


def test_a_denial_has_its_code_its_status_and_what_was_known() -> None:
    unknown = replace(RECORD, tenant=None, tenant_id=None, surface=None, model=None)
    span = check_span(CHECKED, Denial(Denied(Code.INVALID_API_KEY), record=unknown), 1, 2)
    assert span.error == "invalid_api_key"
    assert span.attributes == {
        "neuronetz.request_id": "r-1",
        "url.path": "/api/chat",
        "neuronetz.key_prefix": "nz_123456789",
        "http.response.status_code": 401,
    }


def test_a_check_without_a_decision_has_the_class_of_its_error() -> None:
    assert check_span(CHECKED, asyncio.CancelledError(), 1, 2).error == "CancelledError"


def test_the_check_of_a_head_is_marked() -> None:
    assert check_span(CHECKED, Admitted.unconditionally("{}"), 1, 2).attributes["neuronetz.stage"] == "head"
