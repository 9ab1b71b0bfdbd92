"""Limits and budgets from the client's side, on the running stack."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.e2e.ledger_view import audit_row, open_ledger_view
from tests.e2e.load import GenerationRequest, client
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

MODEL = "llama3.2:latest"


def chat(stack: Stack, key: str, output: int | None = None) -> httpx.Response:
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    if output is not None:
        body["options"] = {"num_predict": output}
    return httpx.post(
        f"{stack.url}/api/chat",
        json=body,
        headers={"Authorization": f"Bearer {key}"},
        timeout=30,
    )


def test_a_refusal_over_the_request_limit_states_when_to_retry(stack: Stack) -> None:
    key = stack.new_key("rated")
    assert chat(stack, key).status_code == 200
    stack.cli("set-limits", "--tenant", "rated", "--rpm", "2")
    answers = [chat(stack, key) for _ in range(2)]
    refused = eventually(lambda: next((a for a in [*answers, chat(stack, key)] if a.status_code == 429), None))
    assert refused.headers["x-gateway-error"] == "rate_limit_exceeded"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(refused.headers["x-ratelimit-reset-requests"]) <= 60
    admitted = answers[0] if answers[0].status_code == 200 else chat(stack, stack.new_key("unrated"))
    assert {admitted.headers[f"x-ratelimit-reset-{kind}"] for kind in ("requests", "tokens")} == {"60"}
    assert audit_row(stack, refused.headers["x-request-id"])["code"] == "rate_limit_exceeded"


async def test_200_concurrent_requests_on_a_budget_for_20_never_overspend_and_none_is_refused_needlessly(
    stack: Stack, ollama: Simulator, key: str
) -> None:
    request = GenerationRequest("/api/chat", stack.new_key("budgeted"), stream=False, words=10, output_tokens_max=50)
    stack.cli("set-limits", "--tenant", "budgeted", "--concurrent", "1000")
    # Slow answers, so that many requests arrive while the first ones hold the whole budget.
    ollama.behave(tokens_per_s=5)
    async with client(stack.url, "budgeted") as session, open_ledger_view(stack) as ledger_view:

        async def send(key: str = request.key) -> tuple[str | None, str, int]:
            async with session.post(
                request.path, json=request.body, headers={"Authorization": f"Bearer {key}"}
            ) as answer:
                remaining = int(answer.headers.get("x-budget-tokens-remaining", -1))
                return answer.headers.get("x-gateway-error"), answer.headers["x-request-id"], remaining

        _, request_id, _ = await send(key)
        (typical,) = (await ledger_view.wait_for_rows([request_id]))[request_id]
        hold = typical["reserved_tokens"]
        budget, hold_min = 20 * hold, hold - 50 + 1
        stack.cli("set-budget", "--tenant", "budgeted", "--daily", str(budget))
        answers = await asyncio.gather(*(send() for _ in range(200)))
        # Redis on a slow machine may not answer all 200 concurrent requests in time.
        assert {code for code, _, _ in answers} <= {None, "budget_reserved", "budget_exhausted", "unavailable"}
        assert [code for code, _, _ in answers].count(None) >= 20
        # With `hold_min` tokens neither used nor held, the request would have been admitted.
        assert all(0 <= remaining < hold_min for code, _, remaining in answers if code not in (None, "unavailable"))

        found = await ledger_view.wait_for_rows([request_id for _, request_id, _ in answers])
        rows = [row for each in found.values() for row in each]
        assert len(rows) == len(answers)
        assert max(row["output_tokens"] for row in rows) <= 50
        used = sum(row["input_tokens"] + row["output_tokens"] for row in rows)
        assert used <= budget
        (state,) = stack.cli("show-usage", "--tenant", "budgeted")["budgets"]
        assert (state["used"], state["reserved"]) == (used, 0)
        code, _, _ = await send()
        assert code == (None if budget - used >= hold_min else "budget_exhausted")


def test_an_exhausted_budget_is_not_retried_by_the_openai_client(stack: Stack, ollama: Simulator) -> None:
    import openai

    key = stack.new_key("exhausted")
    stack.cli("set-budget", "--tenant", "exhausted", "--total", "20")
    eventually(lambda: chat(stack, key).headers.get("x-gateway-error") == "budget_exhausted")
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=2)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
    assert refused.value.code == "budget_exhausted"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert refused.value.response.headers["x-budget-period"] == "total"
    # A total budget has no reset time. The header keeps clients from retrying at once.
    assert refused.value.response.headers["retry-after"] == "86400"


def test_the_backend_receives_the_cap_of_a_request_and_stops_there(stack: Stack, ollama: Simulator, key: str) -> None:
    answer = chat(stack, key, 7)
    assert answer.json()["done_reason"] == "length"
    assert audit_row(stack, answer.headers["x-request-id"])["output_tokens"] == 7


def test_an_answer_that_ignores_the_cap_is_cut_with_an_error_frame(stack: Stack, ollama: Simulator, key: str) -> None:
    ollama.behave(faults=[{"kind": "over_cap"}])
    body = {"model": MODEL, "messages": [{"role": "user", "content": "in 300 words"}], "options": {"num_predict": 10}}
    with httpx.stream(
        "POST", f"{stack.url}/api/chat", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30
    ) as answer:
        lines: list[str] = []
        with suppress(httpx.RemoteProtocolError):
            # The stream is aborted after the error frame, so that no client mistakes it for a complete one.
            for line in answer.iter_lines():
                lines.append(line)  # noqa: PERF402 (the lines before the reset are kept)
    assert '"error":' in lines[-1]
    row = audit_row(stack, answer.headers["x-request-id"])
    assert (row["outcome"], row["output_tokens"]) == ("cut", 10)


def test_a_rotated_key_and_its_successor_spend_one_budget(stack: Stack) -> None:
    """The report: `--total 100`, `rotate-key --grace 1h`, and both keys spent 100 each."""
    old = stack.new_key("rotated")
    stack.cli("set-budget", "--prefix", old[:12], "--total", "100")
    stack.cli("set-limits", "--prefix", old[:12], "--rpm", "50")
    unrotated = chat(stack, old, 10)
    assert unrotated.status_code == 200
    new = stack.cli("rotate-key", "--prefix", old[:12], "--grace", "1h")["key"]
    first = chat(stack, new, 10)
    assert first.status_code == 200
    assert int(first.headers["x-ratelimit-remaining-requests"]) == 48
    answers = [chat(stack, key, 10) for _ in range(6) for key in (old, new)]
    assert {answer.status_code for answer in answers[-2:]} == {429}
    assert {answer.headers["x-gateway-error"] for answer in answers[-2:]} == {"budget_exhausted"}

    def budget_of(key: str) -> dict[str, Any]:
        (budget,) = [row for row in stack.cli("show-usage", "--prefix", key[:12])["budgets"] if row["scope"] == "key"]
        return dict(budget)

    served = [each.json() for each in (unrotated, first, *answers) if each.status_code == 200]
    used = sum(each["prompt_eval_count"] + each["eval_count"] for each in served)
    assert used <= 100
    # The ledger has the last rows a moment later.
    eventually(lambda: budget_of(new)["used"] == used)
    assert budget_of(new) == budget_of(old)
    row = eventually(lambda: audit_row(stack, first.headers["x-request-id"]))
    assert row["key_prefix"] == new[:12]
