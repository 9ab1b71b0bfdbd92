"""Callers that send streamed chats, and the answers that they get."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `took_s` is the time from the request to the last byte, `queued_ms` the announced wait."""

    request_id: str
    status: int
    code: str | None
    took_s: float
    queued_ms: int
    has_retry_after: bool


class Callers:
    """A client with the user agent `name`, which marks the rows and the records of its requests."""

    def __init__(self, session: aiohttp.ClientSession, name: str) -> None:
        self._session = session
        self.name = name
        self.sent = 0

    async def chat(self, key: str, model: str, words: int) -> Answer:
        """Sends a chat that is answered with `words` tokens, and reads the answer. Raises aiohttp.ClientError."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": f"Answer in {words} words."}],
            "options": {"num_predict": words},
        }
        self.sent += 1
        began = time.monotonic()
        async with self._session.post("/api/chat", json=body, headers={"Authorization": f"Bearer {key}"}) as response:
            await response.read()
        headers = response.headers
        return Answer(
            headers["x-request-id"],
            response.status,
            headers.get("x-gateway-error"),
            time.monotonic() - began,
            int(headers.get("x-queue-wait-ms", 0)),
            "retry-after" in headers,
        )


@asynccontextmanager
async def open_callers(url: str, name: str) -> AsyncIterator[Callers]:
    """A client without limits on connections and times."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        url, connector=connector, timeout=timeout, headers={"User-Agent": name}
    ) as session:
        yield Callers(session, name)
