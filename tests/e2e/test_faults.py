"""What fails, and what then must not happen."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.ledger_view import opened, row_of
from tests.e2e.load import STREAMS, Ask, Seen, client, send
from tests.e2e.stack import Simulator, Stack, free_port, up
from tests.polling import eventually

MODEL = "llama3.2:latest"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": False}


def chat(stack: Stack, key: str, timeout_s: float = 30.0) -> httpx.Response:
    return httpx.post(f"{stack.url}/api/chat", json=CHAT, headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s)


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


def test_without_postgresql_verified_keys_go_on_and_others_get_503(stack: Stack, key: str) -> None:
    fresh = stack.new_key("not-seen-yet")
    # Both authz workers verify the key, so that either may answer below.
    assert {chat(stack, key).status_code for _ in range(6)} == {200}
    with stack.frozen("postgres"):
        answer = chat(stack, fresh)
        assert (answer.status_code, answer.headers["x-gateway-error"]) == (503, "unavailable")
        served = chat(stack, key)
        assert served.status_code == 200
    assert row_of(stack, served.headers["x-request-id"])["outcome"] == "complete"
    eventually(lambda: chat(stack, fresh).status_code == 200)


def test_without_redis_the_answer_is_503(stack: Stack, ollama: Simulator, key: str) -> None:
    assert chat(stack, key).status_code == 200
    before = len(ollama.requests())
    with stack.frozen("redis"):
        answer = chat(stack, key)
        assert (answer.status_code, answer.headers["x-gateway-error"]) == (503, "unavailable")
        assert len(ollama.requests()) == before
    eventually(lambda: chat(stack, key).status_code == 200)


async def ask(stack: Stack, what: Ask) -> tuple[Seen, dict[str, Any]]:
    """Sends a request: what its caller saw, and its row."""
    seen = Seen(what)
    async with client(stack.url, "faults") as session, opened(stack) as books:
        await send(session, seen)
        assert seen.request_id
        rows = await books.rows_once_there([seen.request_id])
        (row,) = rows[seen.request_id]
    return seen, row


@pytest.mark.parametrize("path", STREAMS)
async def test_a_client_that_leaves_cancels_the_backend_and_pays_what_was_delivered(
    stack: Stack, ollama: Simulator, key: str, path: str
) -> None:
    # The whole answer would take minutes, and there is no row before its end.
    ollama.behave(tokens_per_s=20)
    seen, row = await ask(stack, Ask(path, key, words=3000, leaves_after=5))
    (truth,) = ollama.requests(seen.request_id)
    assert truth["finished"] == "cancelled"
    assert row["outcome"] == "client_gone"
    assert seen.frames <= row["output_tokens"] <= truth["output_tokens"]
    assert row["input_tokens"] > 0


@pytest.mark.parametrize(("path", "kind"), [*((path, "reset") for path in STREAMS), ("/api/chat", "close")])
async def test_a_backend_that_dies_in_mid_answer_is_told_from_a_caller_who_left(
    stack: Stack, ollama: Simulator, key: str, path: str, kind: str
) -> None:
    ollama.behave(tokens_per_s=50, faults=[{"kind": kind, "after_frames": 12}])
    seen, row = await ask(stack, Ask(path, key, words=300))
    (truth,) = ollama.requests(seen.request_id)
    assert truth["finished"] == "failed"
    assert seen.frames
    assert not seen.whole
    assert (row["outcome"], row["code"]) == ("upstream_error", "backend_error")
    assert seen.frames <= row["output_tokens"] <= truth["output_tokens"]
    assert row["input_tokens"] > 0


def test_a_stream_that_its_backend_breaks_off_ends_with_an_error_frame(
    stack: Stack, ollama: Simulator, key: str
) -> None:
    ollama.behave(faults=[{"kind": "repeat_guard"}])
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx.post(f"{stack.url}/api/chat", json=body, headers={"Authorization": f"Bearer {key}"})
    assert '"error":' in answer.text.splitlines()[-1]
    row = row_of(stack, answer.headers["x-request-id"])
    assert (row["outcome"], row["usage_source"]) == ("upstream_error", "counted")
    assert row["output_tokens"] > 0


def test_what_envoy_refuses_before_authz_decided_has_its_row(stack: Stack, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    large = httpx.post(f"{stack.url}/v1/chat/completions", content=b"x" * 300_000, headers=headers)
    with stack.frozen("authz-"):
        unchecked = chat(stack, key)
    for answer, code in ((large, "request_too_large"), (unchecked, "unavailable")):
        row = row_of(stack, answer.headers["x-request-id"])
        assert (row["outcome"], row["status"], row["code"]) == ("denied", answer.status_code, code)
    eventually(lambda: chat(stack, key).status_code == 200)


def test_a_killed_worker_is_replaced_and_the_other_one_serves(stack: Stack, key: str) -> None:
    for service in ("authz-", "meter-"):
        victim = stack.pids(service)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: chat(stack, key).status_code == 200)
        eventually(lambda service=service, victim=victim: victim not in stack.pids(service))  # type: ignore[misc]


def test_nothing_is_left_when_up_is_killed(ollama: Simulator, tmp_path: Path) -> None:
    port = free_port()
    with up(tmp_path / "state", "--listen", f"127.0.0.1:{port}", "--backend", f"sim={ollama.url}") as stack:
        pids = stack.pids("")
        assert len(pids) >= 6
        stack.process.kill()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
        except httpx.ConnectError:
            return
        raise AssertionError("something still listens")
