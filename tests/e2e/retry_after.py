"""Clients that are refused with 429, wait as long as `Retry-After` says and send the request again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.e2e.load import GenerationRequest
from tests.e2e.stack import Stack

OUTPUT_TOKENS = 20
# The limit admits one request of OUTPUT_TOKENS a minute, and not a second one.
TOKENS_PER_MINUTE = 40
ADDRESS = "203.0.113.77"


def repeated_request(stack: Stack, code: str) -> Callable[[], httpx.Response]:
    """Creates the key, and returns a function that sends a request, which is refused with `code` when it is repeated.

    Call it in the main thread, as all commands.
    """
    return _REQUESTS[code](stack)


def retry_after_refusal(send: Callable[[], httpx.Response]) -> tuple[httpx.Response, httpx.Response]:
    """Sends a request until it is refused with 429, waits, and sends it again.

    Returns the refusal and the answer to the last request.
    """
    while (refused := send()).status_code != 429:
        pass
    time.sleep(int(refused.headers["retry-after"]))
    return refused, send()


def _over_request_rate(stack: Stack) -> Callable[[], httpx.Response]:
    return _chat(stack, stack.new_key("retry-requests", "--rpm", "1"))


def _over_token_rate(stack: Stack) -> Callable[[], httpx.Response]:
    return _chat(stack, stack.new_key("retry-tokens", "--tpm", str(TOKENS_PER_MINUTE)))


def _with_invalid_key(stack: Stack) -> Callable[[], httpx.Response]:
    return _chat(stack, "nz_malformed", ADDRESS)


def _chat(stack: Stack, key: str, address: str = "203.0.113.1") -> Callable[[], httpx.Response]:
    request = GenerationRequest("/api/chat", key, stream=False, words=OUTPUT_TOKENS, output_tokens_max=OUTPUT_TOKENS)
    headers = {**request.headers, "X-Forwarded-For": address}
    # The requests are sent in threads, and a command in the main thread may change the environment meanwhile.
    options: dict[str, Any] = {"json": request.body, "headers": headers, "timeout": 30, "trust_env": False}
    return lambda: httpx.post(f"{stack.url}{request.path}", **options)


_REQUESTS: dict[str, Callable[[Stack], Callable[[], httpx.Response]]] = {
    "rate_limit_exceeded": _over_request_rate,
    "token_rate_exceeded": _over_token_rate,
    "auth_throttled": _with_invalid_key,
}
CODES = tuple(_REQUESTS)
"""The error codes that a retry is tested for."""
