"""What happens before the first byte of an answer stays between the gateway and its backends."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.stack import Simulator, Stack

MODEL = "llama3.2:latest"


def chat(stack: Stack, key: str, *, stream: bool) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    return httpx.post(f"{stack.url}/api/chat", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 502},
        {"kind": "status", "status": 503},
        {"kind": "reset"},
        {"kind": "close"},
        {"kind": "reset", "after_frames": 0},
    ],
    ids=["502", "503", "reset", "close", "headers-then-reset"],
)
def test_a_backend_that_fails_before_its_first_byte_is_replaced_by_the_next(
    stack: Stack, ollama: Simulator, spare: Simulator, key: str, fault: dict[str, Any], stream: bool
) -> None:
    ollama.behave(faults=[fault])
    answer = chat(stack, key, stream=stream)
    assert answer.status_code == 200
    assert '"done":true' in answer.text.splitlines()[-1]
    request_id = answer.headers["x-request-id"]
    (served,) = spare.requests(request_id)
    assert "authorization" not in served["headers"], "a token went to a backend that is not its own"
    row = stack.row(request_id)
    assert (row["backend"], row["outcome"], row["output_tokens"]) == ("spare", "complete", served["output_tokens"])


def test_when_every_backend_fails_the_caller_is_told_and_nothing_is_held(
    stack: Stack, ollama: Simulator, spare: Simulator
) -> None:
    key = stack.new_key("unlucky")
    stack.cli("set-budget", "--tenant", "unlucky", "--total", "100000")
    for backend in (ollama, spare):
        backend.behave(faults=[{"kind": "status", "status": 503}])
    answer = chat(stack, key, stream=False)
    assert (answer.status_code, answer.headers["x-gateway-error"]) == (503, "backend_unavailable")
    row = stack.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("upstream_error", 0, 0)
    (budget,) = stack.cli("show-usage", "--tenant", "unlucky")["budgets"]
    assert (budget["used"], budget["reserved"]) == (0, 0)
