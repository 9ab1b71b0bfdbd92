"""The prompt log holds what keys that ask for it sent and got, and nothing of anybody else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from gateway.settings import load
from tests.e2e.ledger_view import row_of
from tests.e2e.stack import Stack
from tests.polling import eventually

BODY = '{"model": "llama3.2", "messages": [{"role": "user", "content": "Grüß mich"}]}'


def logged(stack: Stack) -> list[Any]:
    async def read() -> list[Any]:
        connection = await asyncpg.connect(load(Path(stack.ready["env_file"])).database_url.get_secret_value())
        try:
            rows: list[Any] = await connection.fetch("SELECT * FROM gateway.prompt_log")
            return rows
        finally:
            await connection.close()

    return asyncio.run(read())


def test_only_what_a_key_with_log_prompts_sends_and_gets_is_kept(stack: Stack, key: str) -> None:
    watched = stack.new_key("watched", "--log-prompts")
    for each in (key, watched):
        headers = {"Authorization": f"Bearer {each}", "Content-Type": "application/json"}
        answer = httpx.post(f"{stack.url}/api/chat", content=BODY.encode(), headers=headers)
        assert answer.status_code == 200
        row_of(stack, answer.headers["x-request-id"])
    (row,) = eventually(lambda: logged(stack))
    assert row["request_id"] == answer.headers["x-request-id"]
    assert (row["request"], row["response"], row["model"]) == (BODY, answer.text, "llama3.2:latest")
