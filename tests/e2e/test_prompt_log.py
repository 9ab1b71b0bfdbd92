"""The prompt log records requests and answers of keys with `--log-prompts`, and of no other key."""

from __future__ import annotations

import httpx

from tests.e2e.ledger_view import audit_row, prompt_log
from tests.e2e.stack import Stack
from tests.polling import eventually

BODY = '{"model": "llama3.2", "messages": [{"role": "user", "content": "Grüß mich"}]}'


def test_only_prompts_and_answers_of_a_key_with_log_prompts_are_recorded(stack: Stack, key: str) -> None:
    logged, request_ids = stack.new_key("logged", "--log-prompts"), []
    for each in (key, logged):
        headers = {"Authorization": f"Bearer {each}", "Content-Type": "application/json"}
        answer = httpx.post(f"{stack.url}/api/chat", content=BODY.encode(), headers=headers)
        assert answer.status_code == 200
        request_ids.append(answer.headers["x-request-id"])
        audit_row(stack, request_ids[-1])
    (row,) = eventually(lambda: prompt_log(stack, request_ids))
    assert row["request_id"] == request_ids[-1]
    assert (row["request"], row["response"], row["model"]) == (BODY, answer.text, "llama3.2:latest")
