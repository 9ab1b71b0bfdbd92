"""Concurrent clients that send generation requests, and the result of each request."""

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
# A request that takes longer hangs, and hanging is always a defect.
REQUEST_TIMEOUT_S = 30.0
UNREACHABLE_PAUSE_S = 0.05
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One kind of generation request.

    The prompt requests an answer of `words` words, and the request sets `output_tokens_max` as its cap. With
    `disconnect_after_frames`, the client disconnects after that number of frames with content.
    """

    path: str
    key: str
    stream: bool = True
    words: int = 10
    model: str = MODEL
    output_tokens_max: int = 4096
    disconnect_after_frames: int | None = None

    @property
    def body(self) -> Document:
        """The JSON body that the surface at `path` expects."""
        prompt = f"Answer in {self.words} words."
        turns = [{"role": "user", "content": prompt}]
        capped: dict[str, Document] = {
            "/api/chat": {"messages": turns, "options": {"num_predict": self.output_tokens_max}},
            "/api/generate": {"prompt": prompt, "options": {"num_predict": self.output_tokens_max}},
            "/v1/chat/completions": {"messages": turns, "max_tokens": self.output_tokens_max},
            "/v1/completions": {"prompt": prompt, "max_tokens": self.output_tokens_max},
            "/v1/responses": {"input": prompt, "max_output_tokens": self.output_tokens_max},
            "/v1/messages": {"messages": turns, "max_tokens": self.output_tokens_max},
        }
        return {"model": self.model, "stream": self.stream, **capped[self.path]}

    @property
    def headers(self) -> dict[str, str]:
        """The credential."""
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(slots=True)
class CallResult:
    """What the client received.

    `request_id` is None if no headers arrived. `content_frames` counts the frames with content. `complete` means that
    the answer had status 200 and ended with the end marker of its surface.
    """

    request: GenerationRequest
    request_id: str | None = None
    status: int = 0
    code: str | None = None
    content_frames: int = 0
    complete: bool = False


@asynccontextmanager
async def client(url: str, user_agent: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session without a limit on connections. `user_agent` marks the audit rows of its requests."""
    async with aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        headers={"User-Agent": user_agent},
    ) as session:
        yield session


@asynccontextmanager
async def load(
    url: str, requests: Sequence[GenerationRequest], connections: int, user_agent: str
) -> AsyncIterator[list[CallResult]]:
    """Repeats `requests` on `connections` connections until the context ends, then waits for the running ones.

    Yields the list of results, which grows meanwhile. Raises TimeoutError if a request hangs.
    """
    results: list[CallResult] = []
    mix, stop = cycle(requests), asyncio.Event()

    async def caller() -> None:
        while not stop.is_set():
            result = CallResult(next(mix))
            results.append(result)
            await send(session, result)
            if result.request_id is None:
                await asyncio.sleep(UNREACHABLE_PAUSE_S)

    async with client(url, user_agent) as session, asyncio.TaskGroup() as callers:
        for _ in range(connections):
            callers.create_task(caller())
        try:
            yield results
        finally:
            stop.set()


async def send(session: aiohttp.ClientSession, result: CallResult) -> None:
    """Sends the request of `result` and fills in the rest. A refused or broken connection raises nothing."""
    request = result.request
    try:
        async with session.post(request.path, json=request.body, headers=request.headers) as answer:
            result.request_id = answer.headers.get("x-request-id")
            result.status, result.code = answer.status, answer.headers.get("x-gateway-error")
            if answer.status != 200:
                await answer.read()
            elif not request.stream:
                result.complete = "error" not in json.loads(await answer.read())
            else:
                await _read_stream(answer, result)
    except aiohttp.ClientError:
        return


async def _read_stream(answer: aiohttp.ClientResponse, result: CallResult) -> None:
    has_content, is_end = _FRAMES[result.request.path]
    async for line in answer.content:
        text = line.strip().removeprefix(b"data: ")
        if text == b"[DONE]":
            result.complete = True
        if not text.startswith(b"{"):
            continue
        frame = json.loads(text)
        result.content_frames += bool(has_content(frame))
        result.complete = result.complete or is_end(frame)
        disconnect_after = result.request.disconnect_after_frames
        if disconnect_after is not None and result.content_frames >= disconnect_after:
            answer.close()
            return


def _never(_: Document) -> bool:
    """For surfaces whose end marker is not a JSON frame."""
    return False


# Per streaming surface: whether a frame has content, and whether it is the last one.
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
STREAMING_PATHS = tuple(_FRAMES)
