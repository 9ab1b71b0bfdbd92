"""Callers of all kinds at once, and what each of them saw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import aiohttp

MODEL = "llama3.2:latest"
# A request that takes this long hangs, which nothing excuses.
REQUEST_TIMEOUT_S = 30.0
UNREACHABLE_PAUSE_S = 0.05
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One kind of request: `words` is how long an answer it wishes for, `output_max` the cap it asks for; with
    `leaves_after` its caller disconnects when so many frames with content have come."""

    path: str
    key: str
    stream: bool = True
    words: int = 10
    model: str = MODEL
    output_max: int = 4096
    leaves_after: int | None = None

    @property
    def body(self) -> Document:
        """The request in the words of its surface."""
        wish = f"Answer in {self.words} words."
        turns = [{"role": "user", "content": wish}]
        capped: dict[str, Document] = {
            "/api/chat": {"messages": turns, "options": {"num_predict": self.output_max}},
            "/api/generate": {"prompt": wish, "options": {"num_predict": self.output_max}},
            "/v1/chat/completions": {"messages": turns, "max_tokens": self.output_max},
            "/v1/completions": {"prompt": wish, "max_tokens": self.output_max},
            "/v1/responses": {"input": wish, "max_output_tokens": self.output_max},
            "/v1/messages": {"messages": turns, "max_tokens": self.output_max},
        }
        return {"model": self.model, "stream": self.stream, **capped[self.path]}

    @property
    def headers(self) -> dict[str, str]:
        """Who asks."""
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(slots=True)
class Seen:
    """What a caller saw: no `request_id` when no headers came, `frames` with content, and whether the answer was
    `whole`, that is a 200 that ended as its surface ends."""

    ask: Ask
    request_id: str | None = None
    status: int = 0
    code: str | None = None
    frames: int = 0
    whole: bool = False


@asynccontextmanager
async def client(url: str, user_agent: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with as many connections as it has requests. `user_agent` marks their audit rows."""
    async with aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        headers={"User-Agent": user_agent},
    ) as session:
        yield session


@asynccontextmanager
async def load(url: str, asks: Sequence[Ask], connections: int, user_agent: str) -> AsyncIterator[list[Seen]]:
    """Sends the requests over and over on so many connections for as long as the context lasts, then lets those that
    run come to their end. Raises TimeoutError when one hangs."""
    seen: list[Seen] = []
    mix, stop = cycle(asks), asyncio.Event()

    async def caller() -> None:
        while not stop.is_set():
            one = Seen(next(mix))
            seen.append(one)
            await send(session, one)
            if one.request_id is None:
                await asyncio.sleep(UNREACHABLE_PAUSE_S)

    async with client(url, user_agent) as session, asyncio.TaskGroup() as callers:
        for _ in range(connections):
            callers.create_task(caller())
        try:
            yield seen
        finally:
            stop.set()


async def send(session: aiohttp.ClientSession, seen: Seen) -> None:
    """Sends one request and notes what comes. A connection that is refused or breaks is an end like any other."""
    ask = seen.ask
    try:
        async with session.post(ask.path, json=ask.body, headers=ask.headers) as answer:
            seen.request_id = answer.headers.get("x-request-id")
            seen.status, seen.code = answer.status, answer.headers.get("x-gateway-error")
            if answer.status != 200:
                await answer.read()
            elif not ask.stream:
                seen.whole = "error" not in json.loads(await answer.read())
            else:
                await _read_stream(answer, seen)
    except aiohttp.ClientError:
        return


async def _read_stream(answer: aiohttp.ClientResponse, seen: Seen) -> None:
    has_content, is_end = _FRAMES[seen.ask.path]
    async for line in answer.content:
        text = line.strip().removeprefix(b"data: ")
        if text == b"[DONE]":
            seen.whole = True
        if not text.startswith(b"{"):
            continue
        frame = json.loads(text)
        seen.frames += bool(has_content(frame))
        seen.whole = seen.whole or is_end(frame)
        if seen.ask.leaves_after is not None and seen.frames >= seen.ask.leaves_after:
            answer.close()
            return


def _never(_: Document) -> bool:
    """The end is no JSON frame there."""
    return False


# Per streaming surface: whether a frame says something, and whether it is the last.
_FRAMES: dict[str, tuple[Callable[[Document], object], Callable[[Document], bool]]] = {
    "/api/chat": (lambda frame: frame.get("message", {}).get("content"), lambda frame: bool(frame.get("done"))),
    "/api/generate": (lambda frame: frame.get("response"), lambda frame: bool(frame.get("done"))),
    "/v1/chat/completions": (lambda frame: any(c["delta"].get("content") for c in frame.get("choices", [])), _never),
    "/v1/completions": (lambda frame: any(c.get("text") for c in frame.get("choices", [])), _never),
    "/v1/responses": (
        lambda frame: frame["type"] == "response.output_text.delta",
        lambda frame: frame["type"] == "response.completed",
    ),
    "/v1/messages": (
        lambda frame: frame["type"] == "content_block_delta",
        lambda frame: frame["type"] == "message_stop",
    ),
}
STREAMS = tuple(_FRAMES)
