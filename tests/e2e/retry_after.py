"""Callers who take their time: who wait as long as Retry-After says and ask again, or send a body byte by byte."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

import httpx

from tests.e2e.load import Ask
from tests.e2e.sockets import Answer, connected, read_answer
from tests.e2e.stack import Stack

OUTPUT_TOKENS = 20
# One such request fits into it, and a second does not.
TOKENS_PER_MINUTE = 40
ADDRESS = "203.0.113.77"
# One a second, so that the body is whole long after the minute that it may take.
TRICKLE_BYTES = 120


def come_back(stack: Stack, kind: str) -> tuple[httpx.Response, httpx.Response]:
    """Asks until the answer is 429, waits, asks once more: the refusal and the answer after it."""
    ask = _ASKS[kind](stack)
    while (refused := ask()).status_code != 429:
        pass
    time.sleep(int(refused.headers["retry-after"]))
    return refused, ask()


def trickle(stack: Stack, key: str) -> Answer:
    """Sends a body that is never silent and never whole, and gives up when there is an answer."""
    head = f"POST /v1/messages HTTP/1.1\r\nHost: gateway.example\r\nx-api-key: {key}\r\n"
    with connected(stack.url) as connection:
        connection.sendall(f"{head}Content-Length: {TRICKLE_BYTES}\r\n\r\n".encode())
        for _ in range(TRICKLE_BYTES):
            connection.sendall(b" ")
            answered, _, _ = select.select([connection], [], [], 1.0)
            if answered:
                break
        return read_answer(connection)


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
