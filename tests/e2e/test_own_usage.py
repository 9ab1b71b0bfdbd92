"""`GET /v1/usage` and `POST /v1/messages/count_tokens`: what a caller can find out about its own key."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from gateway.wire.timeouts import CHECK_TIMEOUT_S
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

MODEL = "llama3.2:latest"
MESSAGE = {"model": MODEL, "messages": [{"role": "user", "content": "Hello " * 50}], "max_tokens": 9}


def usage(stack: Stack, key: str) -> dict[str, Any]:
    answer = httpx.get(f"{stack.url}/v1/usage", headers={"Authorization": f"Bearer {key}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_caller_sees_its_limits_windows_budgets_and_tokens_of_today(stack: Stack) -> None:
    key = stack.new_key("watcher", "--rpm", "50")
    stack.cli("set-budget", "--prefix", key[:12], "--daily", "5000", "--total", "9000")
    fresh = usage(stack, key)
    assert fresh["key"]["limits"] == {
        "rpm": 50, "tpm": 10_000_000, "concurrent": 8, "max_output": 4096, "max_body": 8_388_608,
    }  # fmt: skip
    assert fresh["key"]["window"] == {"requests_remaining": 50, "tokens_remaining": 10_000_000, "resets_in_s": 0}
    assert [(each["period"], each["used"], each["remaining"]) for each in fresh["key"]["budgets"]] == [
        ("day", 0, 5000), ("total", 0, 9000),
    ]  # fmt: skip
    assert fresh["queue"] == {"running": 0, "waiting": 0, "position": None, "oldest_wait_ms": 0}
    assert (fresh["tenant"]["name"], fresh["tenant"]["budgets"], fresh["today"]) == ("watcher", [], [])
    assert (
        httpx.post(f"{stack.url}/v1/messages", json=MESSAGE, headers={"x-api-key": key}, timeout=30).status_code == 200
    )
    seen = eventually(lambda: (found := usage(stack, key))["today"] and found)
    (today,) = seen["today"]
    used = today["input_tokens"] + today["output_tokens"]
    assert (today["model"], today["requests"]) == (MODEL, 1)
    day, total = seen["key"]["budgets"]
    assert (day["used"], day["reserved"], day["remaining"], total["used"]) == (used, 0, 5000 - used, used)
    assert day["resets_at"].endswith("T00:00:00+00:00")
    assert total["resets_at"] is None
    assert seen["key"]["window"]["requests_remaining"] == 49
    assert 0 < seen["key"]["window"]["resets_in_s"] <= 60
    assert httpx.get(f"{stack.url}/v1/usage").status_code == 401


def test_tokens_are_counted_without_a_backend_and_without_a_budget(stack: Stack, ollama: Simulator) -> None:
    key = stack.new_key("counter", "--scopes", "chat")
    before = usage(stack, key)["key"]["window"]
    url = f"{stack.url}/v1/messages/count_tokens"
    document = {name: value for name, value in MESSAGE.items() if name != "max_tokens"}
    answer = httpx.post(url, json=document, headers={"x-api-key": key})
    assert answer.status_code == 200, answer.text
    assert 60 <= answer.json()["input_tokens"] <= 200
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert usage(stack, key)["key"]["window"] == before
    assert ollama.requests(answer.headers["x-request-id"]) == []
    for body, status in (({"model": "no-such", "messages": []}, 403), ({"messages": []}, 400)):
        refused = httpx.post(url, json=body, headers={"x-api-key": key})
        assert (refused.status_code, refused.json()["type"]) == (status, "error")
    embedder = stack.new_key("embedder", "--scopes", "embeddings")
    refused = httpx.post(url, json=document, headers={"x-api-key": embedder})
    assert (refused.status_code, refused.headers["x-gateway-error"]) == (403, "scope_denied")
    assert httpx.post(url, json=document).status_code == 401


def test_a_body_that_is_counted_may_arrive_slowly_and_not_be_longer_than_the_key_may_send(stack: Stack) -> None:
    key = stack.new_key("slow counter", "--max-body", "100000")

    def count(pieces: Iterable[bytes]) -> httpx.Response:
        url, headers = f"{stack.url}/v1/messages/count_tokens", {"x-api-key": key}
        return httpx.post(url, content=pieces, headers=headers, timeout=30)

    def slowly() -> Iterator[bytes]:
        text = json.dumps(MESSAGE).encode()
        yield text[:20]
        time.sleep(CHECK_TIMEOUT_S + 0.5)
        yield text[20:]

    assert count(slowly()).status_code == 200
    refused = count([b" " * 60_000, b" " * 60_000])
    assert (refused.status_code, refused.headers["x-gateway-error"]) == (413, "request_too_large")
    assert "more than 100000 bytes" in refused.json()["error"]["message"]
