"""Callers who wait exactly as long as Retry-After says, and then ask again."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from tests.e2e.load import Ask
from tests.e2e.stack import Stack

OUTPUT_TOKENS = 20
# One such request fits into it, and a second does not.
TOKENS_PER_MINUTE = 40
ADDRESS = "203.0.113.77"


def come_back(stack: Stack, kind: str) -> tuple[httpx.Response, httpx.Response]:
    """Asks until the answer is 429, waits, asks once more: the refusal and the answer after it."""
    ask = _ASKS[kind](stack)
    while (refused := ask()).status_code != 429:
        pass
    time.sleep(int(refused.headers["retry-after"]))
    return refused, ask()


def _by_requests(stack: Stack) -> Callable[[], httpx.Response]:
    return _chat(stack, stack.new_key("patient-requests", "--rpm", "1"))


def _by_tokens(stack: Stack) -> Callable[[], httpx.Response]:
    return _chat(stack, stack.new_key("patient-tokens", "--tpm", str(TOKENS_PER_MINUTE)))


def _by_failures(stack: Stack) -> Callable[[], httpx.Response]:
    return _chat(stack, "nz_malformed", ADDRESS)


def _chat(stack: Stack, key: str, address: str = "203.0.113.1") -> Callable[[], httpx.Response]:
    ask = Ask("/api/chat", key, stream=False, words=OUTPUT_TOKENS, output_max=OUTPUT_TOKENS)
    headers = {**ask.headers, "X-Forwarded-For": address}
    return lambda: httpx.post(f"{stack.url}{ask.path}", json=ask.body, headers=headers, timeout=30)


_ASKS: dict[str, Callable[[Stack], Callable[[], httpx.Response]]] = {
    "rate_limit_exceeded": _by_requests,
    "token_rate_exceeded": _by_tokens,
    "auth_throttled": _by_failures,
}
KINDS = tuple(_ASKS)
