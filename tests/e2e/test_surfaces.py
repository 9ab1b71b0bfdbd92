"""Every surface and mode, streamed and not, by the official clients: what they read is true, and so is the row."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.wire.surfaces import BY_NAME, SURFACES
from tests.e2e import client_results
from tests.e2e.client_results import Said
from tests.e2e.ledger_view import row_of
from tests.e2e.official_clients import Clients
from tests.e2e.stack import Simulator, Stack
from tests.e2e.surface_cases import CASES, HELLO, LLAMA, PNG, VECTORS, Case
from tests.polling import eventually

CALLS: dict[str, Callable[..., Said]] = {
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


def check_shown(case: Case, answer: Said) -> None:
    """The client got what this mode is about."""
    match case.mode:
        case "thinking":
            assert answer.thinking
            assert answer.text
        case "tools":
            assert answer.calls == ("get_weather",)
        case "json":
            assert isinstance(json.loads(answer.text), dict)
        case "logprobs":
            assert answer.logprobs
        case _:
            assert answer.text


def truth_of(ollama: Simulator, request_id: str) -> dict[str, Any]:
    """What the backend itself counted for this request, when it is over; there was only one."""
    (truth,) = eventually(lambda: [each for each in ollama.requests(request_id) if each["ended_at"]])
    return truth


@pytest.fixture(scope="module")
def clients(stack: Stack) -> Clients:
    return Clients.of(stack, stack.new_key("surfaces"), max_retries=0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.surface}-{case.mode}")
def test_what_the_client_reads_and_what_the_row_says_is_what_the_backend_counted(
    stack: Stack, ollama: Simulator, clients: Clients, case: Case, stream: bool
) -> None:
    answer = CALLS[case.surface](clients, stream, **case.asked)
    check_shown(case, answer)
    truth, row = truth_of(ollama, answer.request_id), row_of(stack, answer.request_id)
    counted = (truth["prompt_tokens"], truth["output_tokens"])
    assert counted[1] > 0
    assert (row["input_tokens"], row["output_tokens"]) == counted
    assert answer.usage == (counted if case.usage[stream] else None)
    assert (row["surface"], row["stream"], row["model"]) == (case.surface, stream, case.asked["model"])
    assert (row["usage_source"], row["outcome"], row["status"], row["code"]) == ("exact", "complete", 200, None)
    assert (row["backend"], row["tenant"]) == ("sim", "surfaces")
    assert (PNG in truth["body"]) == (case.mode == "image")


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case.surface)
def test_vectors_are_counted_as_the_backend_counts_their_prompt(
    stack: Stack, ollama: Simulator, clients: Clients, case: Case
) -> None:
    answer = CALLS[case.surface](clients, False, **case.asked)
    assert answer.text.count(", ") > 700
    truth, row = truth_of(ollama, answer.request_id), row_of(stack, answer.request_id)
    if case.usage[0]:
        assert answer.usage == (row["input_tokens"], row["output_tokens"]) == (truth["prompt_tokens"], 0)
        assert row["usage_source"] == "exact"
    else:
        # The older route reports nothing, so the input is what was reckoned at admission.
        assert (row["usage_source"], row["output_tokens"]) == ("estimated", 0)
        assert row["input_tokens"] >= truth["prompt_tokens"]
    assert (row["surface"], row["outcome"], row["stream"]) == (case.surface, "complete", False)


def test_a_usage_report_that_was_asked_for_is_in_the_stream(stack: Stack, ollama: Simulator, clients: Clients) -> None:
    asked = {"model": LLAMA, "stream_options": {"include_usage": True}}
    for answer in (
        client_results.v1_chat(clients, True, messages=HELLO, **asked),
        client_results.v1_completions(clients, True, prompt="Once upon a time", **asked),
    ):
        truth = truth_of(ollama, answer.request_id)
        assert answer.usage == (truth["prompt_tokens"], truth["output_tokens"])


def test_every_surface_has_its_cases() -> None:
    assert {case.surface for case in (*CASES, *VECTORS)} == set(BY_NAME) == {surface.name for surface in SURFACES}
