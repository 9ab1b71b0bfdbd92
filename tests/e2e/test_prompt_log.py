"""The prompt log records requests and answers of keys with `--log-prompts`, and of no other key."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from gateway.settings import load
from tests.e2e.ledger_view import audit_row
from tests.e2e.stack import Stack, simulator, up
from tests.gateway.record.test_encrypted_transcript import write_key
from tests.polling import eventually
from tests.ports import free_port

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


def test_a_meter_redacts_and_encrypts_rows_which_only_the_private_key_reads(tmp_path: Path) -> None:
    private, public = write_key(tmp_path)
    settings = {"PROMPT_LOG_REDACT": "email,card", "PROMPT_LOG_PUBLIC_KEY_FILE": str(public)}
    with simulator() as backend:
        listen = ("--listen", f"127.0.0.1:{free_port()}", "--backend", f"sim={backend.url}", "--workers", "1")
        with up(tmp_path / "state", *listen, **settings) as stack:
            key = stack.new_key("acme", "--log-prompts")
            body = {"model": "llama3.2", "prompt": "I am ada@example.com and pay with 4111 1111 1111 1111"}
            answer = httpx.post(f"{stack.url}/api/generate", json=body, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200
            (row,) = eventually(lambda: prompt_log(stack))
            assert row["request"].startswith("encrypted:1:")
            assert row["response"] == ""
            shown = ("show-prompts", "--request-id", answer.headers["x-request-id"])
            (closed,), (read,) = stack.cli(*shown), stack.cli(*shown, "--key-file", str(private))
    assert (closed["request"], closed["response"]) == (None, None)
    assert json.loads(read["request"])["prompt"] == "I am [redacted: email] and pay with [redacted: card]"
    assert read["response"] == answer.text
