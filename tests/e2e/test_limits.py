"""Limits and budgets as a caller meets them, on the running stack."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from tests.e2e import retry_after
from tests.e2e.ledger_view import opened, row_of
from tests.e2e.load import Ask, client
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

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
    assert row_of(stack, refused.headers["x-request-id"])["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("kind", retry_after.KINDS)
def test_who_waits_as_long_as_retry_after_says_is_let_in(
    comebacks: dict[str, Future[tuple[httpx.Response, httpx.Response]]], kind: str
) -> None:
    refused, answer = comebacks[kind].result(timeout=120)
    assert refused.headers["x-gateway-error"] == kind
    # What was throttled is let in to the question whether its key is valid.
    assert answer.status_code == (401 if kind == "auth_throttled" else 200), answer.text


async def test_200_at_once_on_a_budget_for_20_overspend_nothing_and_none_is_refused_needlessly(
    stack: Stack, ollama: Simulator, key: str
) -> None:
    ask = Ask("/api/chat", stack.new_key("budgeted"), stream=False, words=10, output_max=50)
    stack.cli("set-limits", "--tenant", "budgeted", "--concurrent", "1000")
    # So slow that many are there while the first ones hold everything.
    ollama.behave(tokens_per_s=5)
    async with client(stack.url, "budgeted") as session, opened(stack) as books:

        async def once(key: str = ask.key) -> tuple[str | None, str, int]:
            async with session.post(ask.path, json=ask.body, headers={"Authorization": f"Bearer {key}"}) as answer:
                left = int(answer.headers.get("x-budget-tokens-remaining", -1))
                return answer.headers.get("x-gateway-error"), answer.headers["x-request-id"], left

        _, request_id, _ = await once(key)
        (usual,) = (await books.rows_once_there([request_id]))[request_id]
        hold = usual["reserved_tokens"]
        budget, least = 20 * hold, hold - 50 + 1
        stack.cli("set-budget", "--tenant", "budgeted", "--daily", str(budget))
        answers = await asyncio.gather(*(once() for _ in range(200)))
        # So many at once may be too many for a slow machine's Redis to answer each in time.
        assert {code for code, _, _ in answers} <= {None, "budget_reserved", "budget_exhausted", "unavailable"}
        assert [code for code, _, _ in answers].count(None) >= 20
        # With so many tokens neither used nor held it would have been let in.
        assert all(0 <= left < least for code, _, left in answers if code not in (None, "unavailable"))

        found = await books.rows_once_there([request_id for _, request_id, _ in answers])
        rows = [row for each in found.values() for row in each]
        assert len(rows) == len(answers)
        assert max(row["output_tokens"] for row in rows) <= 50
        used = sum(row["input_tokens"] + row["output_tokens"] for row in rows)
        assert used <= budget
        (state,) = stack.cli("show-usage", "--tenant", "budgeted")["budgets"]
        assert (state["used"], state["reserved"]) == (used, 0)
        code, _, _ = await once()
        assert code == (None if budget - used >= least else "budget_exhausted")


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
    # It has no time at which it begins anew, and still nobody comes back at once.
    assert refused.value.response.headers["retry-after"] == "86400"


def test_the_cap_of_a_request_reaches_the_backend_and_ends_the_answer_there(
    stack: Stack, ollama: Simulator, key: str
) -> None:
    answer = chat(stack, key, 7)
    assert answer.json()["done_reason"] == "length"
    assert row_of(stack, answer.headers["x-request-id"])["output_tokens"] == 7


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
    row = row_of(stack, answer.headers["x-request-id"])
    assert (row["outcome"], row["output_tokens"]) == ("cut", 10)
