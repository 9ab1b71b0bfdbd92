"""All surfaces and modes with the official clients: the client's usage and the audit row equal the backend's count."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.wire.surfaces import BY_NAME, SURFACES
from tests.e2e import client_results
from tests.e2e.client_results import ClientResult
from tests.e2e.ledger_view import audit_row
from tests.e2e.official_clients import Clients
from tests.e2e.stack import Simulator, Stack
from tests.e2e.surface_cases import EMBEDDING_CASES, GENERATION_CASES, HELLO, LLAMA, PNG, SurfaceCase
from tests.polling import eventually

CALLS: dict[str, Callable[..., ClientResult]] = {
    "chat": client_results.native_chat,
    "generate": client_results.native_generate,
    "embed": client_results.native_embed,
    "embeddings": client_results.native_embeddings,
    "v1_chat": client_results.v1_chat,
    "v1_completions": client_results.v1_completions,
    "v1_embeddings": client_results.v1_embeddings,
    "v1_responses": client_results.v1_responses,
    "v1_messages": client_results.v1_messages,
}


def check_content(case: SurfaceCase, answer: ClientResult) -> None:
    """Checks that the answer has the content of its mode."""
    match case.mode:
        case "thinking":
            assert answer.thinking
            assert answer.text
        case "tools":
            assert answer.tool_calls == ("get_weather",)
        case "json":
            assert isinstance(json.loads(answer.text), dict)
        case "logprobs":
            assert answer.logprobs
        case _:
            assert answer.text


def backend_record(ollama: Simulator, request_id: str) -> dict[str, Any]:
    """The backend's record of this request, when it has ended. Fails unless there is exactly one."""
    (record,) = eventually(lambda: [each for each in ollama.requests(request_id) if each["ended_at"]])
    return record


@pytest.fixture(scope="module")
def clients(stack: Stack) -> Clients:
    return Clients.of(stack, stack.new_key("surfaces"), max_retries=0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", GENERATION_CASES, ids=lambda case: f"{case.surface}-{case.mode}")
def test_the_client_and_the_row_have_the_usage_that_the_backend_counted(
    stack: Stack, ollama: Simulator, clients: Clients, case: SurfaceCase, stream: bool
) -> None:
    answer = CALLS[case.surface](clients, stream, **case.arguments)
    check_content(case, answer)
    record, row = backend_record(ollama, answer.request_id), audit_row(stack, answer.request_id)
    counted = (record["prompt_tokens"], record["output_tokens"])
    assert counted[1] > 0
    assert (row["input_tokens"], row["output_tokens"]) == counted
    assert answer.usage == (counted if case.usage[stream] else None)
    assert (row["surface"], row["stream"], row["model"]) == (case.surface, stream, case.arguments["model"])
    assert (row["usage_source"], row["outcome"], row["status"], row["code"]) == ("exact", "complete", 200, None)
    assert (row["backend"], row["tenant"]) == ("sim", "surfaces")
    assert (PNG in record["body"]) == (case.mode == "image")


@pytest.mark.parametrize("case", EMBEDDING_CASES, ids=lambda case: case.surface)
def test_embeddings_are_charged_with_the_tokens_of_their_prompt(
    stack: Stack, ollama: Simulator, clients: Clients, case: SurfaceCase
) -> None:
    answer = CALLS[case.surface](clients, False, **case.arguments)
    assert answer.text.count(", ") > 700
    record, row = backend_record(ollama, answer.request_id), audit_row(stack, answer.request_id)
    if case.usage[0]:
        assert answer.usage == (row["input_tokens"], row["output_tokens"]) == (record["prompt_tokens"], 0)
        assert row["usage_source"] == "exact"
    else:
        # The older route reports no usage, so the input is the estimate of the admission.
        assert (row["usage_source"], row["output_tokens"]) == ("estimated", 0)
        assert row["input_tokens"] >= record["prompt_tokens"]
    assert (row["surface"], row["outcome"], row["stream"]) == (case.surface, "complete", False)


def test_a_stream_contains_the_usage_report_that_was_requested(
    stack: Stack, ollama: Simulator, clients: Clients
) -> None:
    arguments = {"model": LLAMA, "stream_options": {"include_usage": True}}
    for answer in (
        client_results.v1_chat(clients, True, messages=HELLO, **arguments),
        client_results.v1_completions(clients, True, prompt="Once upon a time", **arguments),
    ):
        record = backend_record(ollama, answer.request_id)
        assert answer.usage == (record["prompt_tokens"], record["output_tokens"])


def test_every_surface_has_its_cases() -> None:
    tested = {case.surface for case in (*GENERATION_CASES, *EMBEDDING_CASES)}
    assert tested == set(BY_NAME) == {surface.name for surface in SURFACES}
