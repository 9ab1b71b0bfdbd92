"""The prompt log records requests and answers of keys with `--log-prompts`, and of no other key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from gateway.settings import load
from tests.e2e.ledger_view import audit_row
from tests.e2e.stack import Stack
from tests.polling import eventually

BODY = '{"model": "llama3.2", "messages": [{"role": "user", "content": "Grüß mich"}]}'


def prompt_log(stack: Stack) -> list[Any]:
    async def read() -> list[Any]:
        connection = await asyncpg.connect(load(Path(stack.ready["env_file"])).database_url.get_secret_value())
        try:
            rows: list[Any] = await connection.fetch("SELECT * FROM gateway.prompt_log")
            return rows
        finally:
            await connection.close()

    return asyncio.run(read())


def test_only_prompts_and_answers_of_a_key_with_log_prompts_are_recorded(stack: Stack, key: str) -> None:
    logged, request_ids = stack.new_key("logged", "--log-prompts"), []
    for each in (key, logged):
        headers = {"Authorization": f"Bearer {each}", "Content-Type": "application/json"}
        answer = httpx.post(f"{stack.url}/api/chat", content=BODY.encode(), headers=headers)
        assert answer.status_code == 200
        request_ids.append(answer.headers["x-request-id"])
        audit_row(stack, request_ids[-1])
    (row,) = eventually(lambda: [row for row in prompt_log(stack) if row["request_id"] in request_ids])
    assert row["request_id"] == request_ids[-1]
    assert (row["request"], row["response"], row["model"]) == (BODY, answer.text, "llama3.2:latest")
