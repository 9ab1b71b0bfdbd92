"""Limits and budgets as a caller meets them, on the running stack."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.stack import Simulator, Stack, eventually

MODEL = "llama3.2:latest"


def chat(stack: Stack, key: str, output: int | None = None) -> httpx.Response:
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    if output is not None:
        body["options"] = {"num_predict": output}
    return httpx.post(f"{stack.url}/api/chat", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)


def test_requests_over_the_limit_are_told_when_to_come_back(stack: Stack) -> None:
    key = stack.new_key("rated")
    assert chat(stack, key).status_code == 200
    stack.cli("set-limits", "--tenant", "rated", "--rpm", "2")
    answers = [chat(stack, key) for _ in range(2)]
    refused = eventually(lambda: next((a for a in [*answers, chat(stack, key)] if a.status_code == 429), None))
    assert refused.headers["x-gateway-error"] == "rate_limit_exceeded"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert stack.row(refused.headers["x-request-id"])["code"] == "rate_limit_exceeded"


def test_parallel_requests_never_overspend_the_output_of_a_budget(stack: Stack, ollama: Simulator) -> None:
    """Each asks for 50 tokens of output, and all of them together may use 400 tokens of input and output."""
    key = stack.new_key("budgeted")
    stack.cli("set-budget", "--tenant", "budgeted", "--daily", "400")
    with ThreadPoolExecutor(40) as callers:
        answers = list(callers.map(lambda _: chat(stack, key, 50), range(40)))
    codes = {answer.headers.get("x-gateway-error", "none") for answer in answers}
    assert codes <= {"none", "budget_reserved", "budget_exhausted", "concurrency_exceeded"}
    served = [stack.row(answer.headers["x-request-id"]) for answer in answers if answer.status_code == 200]
    assert served
    assert sum(row["output_tokens"] for row in served) <= 400

    def budget() -> dict[str, Any] | None:
        (found,) = stack.cli("show-usage", "--tenant", "budgeted")["budgets"]
        return found if found["used"] == sum(r["input_tokens"] + r["output_tokens"] for r in served) else None

    assert eventually(budget)["reserved"] == 0


def test_an_exhausted_budget_is_not_retried_by_the_openai_client(stack: Stack, ollama: Simulator) -> None:
    key = stack.new_key("exhausted")
    stack.cli("set-budget", "--tenant", "exhausted", "--total", "20")
    eventually(lambda: chat(stack, key).headers.get("x-gateway-error") == "budget_exhausted")
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=2)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
    assert refused.value.code == "budget_exhausted"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert refused.value.response.headers["x-budget-period"] == "total"


def test_the_cap_of_a_request_reaches_the_backend_and_ends_the_answer_there(
    stack: Stack, ollama: Simulator, key: str
) -> None:
    answer = chat(stack, key, 7)
    assert answer.json()["done_reason"] == "length"
    assert stack.row(answer.headers["x-request-id"])["output_tokens"] == 7


def test_a_backend_that_ignores_the_cap_is_cut_with_an_error_frame(stack: Stack, ollama: Simulator, key: str) -> None:
    ollama.behave(faults=[{"kind": "over_cap"}])
    body = {"model": MODEL, "messages": [{"role": "user", "content": "in 300 words"}], "options": {"num_predict": 10}}
    with httpx.stream(
        "POST", f"{stack.url}/api/chat", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30
    ) as answer:
        lines: list[str] = []
        with suppress(httpx.RemoteProtocolError):
            # The stream is broken off behind the error frame, so that nobody takes it for a whole one.
            for line in answer.iter_lines():
                lines.append(line)  # noqa: PERF402 (what came before the break counts)
    assert '"error":' in lines[-1]
    row = stack.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["output_tokens"]) == ("cut", 10)
