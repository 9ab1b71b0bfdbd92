"""A prompt log that is redacted and encrypted."""

from __future__ import annotations

import json

import httpx

from tests.e2e.ledger_view import prompt_log
from tests.e2e.one_worker import OneWorker
from tests.polling import eventually


def test_a_meter_redacts_and_encrypts_rows_which_only_the_private_key_reads(one_worker: OneWorker) -> None:
    stack = one_worker.stack
    key = stack.new_key("acme", "--log-prompts")
    body = {"model": "llama3.2", "prompt": "I am ada@example.com and pay with 4111 1111 1111 1111"}
    answer = httpx.post(f"{stack.url}/api/generate", json=body, headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    request_id = answer.headers["x-request-id"]
    (row,) = eventually(lambda: prompt_log(stack, [request_id]), failure="the prompt log has no row")
    assert row["request"].startswith("encrypted:1:")
    assert row["response"] == ""
    shown = ("show-prompts", "--request-id", request_id)
    (closed,), (read,) = stack.cli(*shown), stack.cli(*shown, "--key-file", str(one_worker.private_key))
    assert (closed["request"], closed["response"]) == (None, None)
    assert json.loads(read["request"])["prompt"] == "I am [redacted: email] and pay with [redacted: card]"
    assert read["response"] == answer.text
