"""Failures of single components, and what must not happen then."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
import pytest

from tests.e2e.ledger_view import audit_row, open_ledger_view
from tests.e2e.load import STREAMING_PATHS, CallResult, GenerationRequest, client, send
from tests.e2e.stack import Simulator, Stack
from tests.e2e.trial import output_tokens_max
from tests.polling import eventually

MODEL = "llama3.2:latest"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}


def chat(stack: Stack, key: str, timeout_s: float = 30.0) -> httpx.Response:
    return httpx.post(
        f"{stack.url}/api/chat",
        json=CHAT,
        headers={"Authorization": f"Bearer {key}"},
        timeout=timeout_s,
    )


def test_without_a_meter_nothing_reaches_a_backend(stack: Stack, ollama: Simulator, key: str) -> None:
    assert chat(stack, key).status_code == 200
    before = len(ollama.requests())
    with stack.frozen("meter-"):
        answer = chat(stack, key)
        assert (answer.status_code, answer.headers["x-gateway-error"]) == (503, "unavailable")
        assert len(ollama.requests()) == before
    eventually(lambda: chat(stack, key).status_code == 200)


def test_without_authz_the_answer_is_503(stack: Stack, ollama: Simulator, key: str) -> None:
    before = len(ollama.requests())
    with stack.frozen("authz-"):
        answer = chat(stack, key)
        assert (answer.status_code, answer.headers["x-gateway-error"]) == (503, "unavailable")
        assert len(ollama.requests()) == before
    eventually(lambda: chat(stack, key).status_code == 200)


def test_without_postgresql_verified_keys_are_served_and_others_get_503(stack: Stack, key: str) -> None:
    unverified = stack.new_key("unverified")
    # Enough requests for both authz workers to verify the key, so that either of them may answer below.
    assert {chat(stack, key).status_code for _ in range(6)} == {200}
    with stack.frozen("postgres"):
        answer = chat(stack, unverified)
        assert (answer.status_code, answer.headers["x-gateway-error"]) == (503, "unavailable")
        served = chat(stack, key)
        assert served.status_code == 200
    assert audit_row(stack, served.headers["x-request-id"])["outcome"] == "complete"
    eventually(lambda: chat(stack, unverified).status_code == 200)


def test_without_redis_the_answer_is_503(stack: Stack, ollama: Simulator, key: str) -> None:
    assert chat(stack, key).status_code == 200
    before = len(ollama.requests())
    with stack.frozen("redis"):
        answer = chat(stack, key)
        assert (answer.status_code, answer.headers["x-gateway-error"]) == (503, "unavailable")
        assert len(ollama.requests()) == before
    eventually(lambda: chat(stack, key).status_code == 200)


async def send_and_get_row(stack: Stack, request: GenerationRequest) -> tuple[CallResult, dict[str, Any]]:
    """Sends a request. Returns its result and its audit row."""
    result = CallResult(request)
    async with client(stack.url, "faults") as session, open_ledger_view(stack) as ledger_view:
        await send(session, result)
        assert result.request_id
        rows = await ledger_view.wait_for_rows([result.request_id])
        (row,) = rows[result.request_id]
    return result, row


@pytest.mark.parametrize("path", STREAMING_PATHS)
async def test_a_disconnect_cancels_the_backend_request_and_charges_what_was_delivered(
    stack: Stack, ollama: Simulator, key: str, path: str
) -> None:
    # The complete answer would take minutes, and without a cancellation the row is written only after it.
    ollama.behave(tokens_per_s=20)
    result, row = await send_and_get_row(stack, GenerationRequest(path, key, words=3000, disconnect_after_frames=5))
    (record,) = ollama.requests(result.request_id)
    assert record["finished"] == "cancelled"
    assert row["outcome"] == "client_gone"
    assert result.content_frames <= row["output_tokens"] <= output_tokens_max(row, record["output_tokens"])
    assert row["input_tokens"] > 0


@pytest.mark.parametrize(("path", "kind"), [*((path, "reset") for path in STREAMING_PATHS), ("/api/chat", "close")])
async def test_a_backend_failure_in_mid_answer_is_not_recorded_as_a_client_disconnect(
    stack: Stack, ollama: Simulator, key: str, path: str, kind: str
) -> None:
    ollama.behave(tokens_per_s=50, faults=[{"kind": kind, "after_frames": 12}])
    result, row = await send_and_get_row(stack, GenerationRequest(path, key, words=300))
    (record,) = ollama.requests(result.request_id)
    assert record["finished"] == "failed"
    assert result.content_frames
    assert not result.complete
    assert (row["outcome"], row["code"]) == ("upstream_error", "backend_error")
    assert result.content_frames <= row["output_tokens"] <= output_tokens_max(row, record["output_tokens"])
    assert row["input_tokens"] > 0


def test_a_stream_that_the_backend_aborts_ends_with_an_error_frame(stack: Stack, ollama: Simulator, key: str) -> None:
    ollama.behave(faults=[{"kind": "repeat_guard"}])
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx.post(f"{stack.url}/api/chat", json=body, headers={"Authorization": f"Bearer {key}"})
    assert '"error":' in answer.text.splitlines()[-1]
    row = audit_row(stack, answer.headers["x-request-id"])
    assert (row["outcome"], row["usage_source"]) == ("upstream_error", "counted")
    assert row["output_tokens"] > 0


def test_a_request_that_envoy_refuses_before_authz_decides_has_a_row(stack: Stack, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    large = httpx.post(
        f"{stack.url}/v1/chat/completions", content=(b"x" * (1 << 20) for _ in range(40)), headers=headers
    )
    with stack.frozen("authz-"):
        unchecked = chat(stack, key)
    for answer, code in ((large, "request_too_large"), (unchecked, "unavailable")):
        row = audit_row(stack, answer.headers["x-request-id"])
        assert (row["outcome"], row["status"], row["code"]) == ("denied", answer.status_code, code)
    eventually(lambda: chat(stack, key).status_code == 200)


def test_a_killed_worker_is_replaced_and_the_other_worker_serves(stack: Stack, key: str) -> None:
    for service in ("authz-", "meter-"):
        victim = stack.pids(service)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: chat(stack, key).status_code == 200)
        eventually(lambda service=service, victim=victim: victim not in stack.pids(service))  # type: ignore[misc]
