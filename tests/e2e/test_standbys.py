"""Envoy prefers some of the workers of authz. The others are standbys."""

from __future__ import annotations

import httpx

from tests.e2e.stack import Stack
from tests.polling import eventually

REQUESTS = 63
CHAT = {"model": "llama3.2:latest", "messages": [{"role": "user", "content": "Hello"}], "stream": False}


def served(stack: Stack) -> dict[str, int]:
    """The number of checks that each worker has got from Envoy."""
    return {
        name: sum(int(each.get("value", 0)) for each in host["stats"] if each["name"] == "rq_total")
        for name, host in stack.hosts("authz").items()
    }


def chat(stack: Stack, key: str) -> int:
    answer = httpx.post(f"{stack.url}/api/chat", json=CHAT, headers={"Authorization": f"Bearer {key}"}, timeout=30)
    return answer.status_code


def test_a_standby_serves_few_requests_until_no_preferred_worker_is_healthy(stack: Stack, key: str) -> None:
    before = served(stack)
    assert {chat(stack, key) for _ in range(REQUESTS)} == {200}
    preferred, standby = (served(stack)[name] - before[name] for name in ("authz-0", "authz-1"))
    assert preferred + standby == REQUESTS
    assert 0 < standby < preferred / 4
    with stack.frozen("authz-0"):
        eventually(lambda: stack.healthy_hosts("authz") == {"authz-1"})
        assert {chat(stack, key) for _ in range(5)} == {200}
    eventually(lambda: len(stack.healthy_hosts("authz")) == 2)
