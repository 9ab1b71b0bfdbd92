"""A varied load of two tenants: streams, whole answers, embeddings, refusals and a burst that waits in the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

_TIMEOUT_S = 60.0
_CHAT = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
_QWEN, _LLAMA, _EMBEDDER = "qwen3:8b", "llama3.2", "nomic-embed-text"


@dataclass(frozen=True, slots=True)
class Caller:
    """Sends one request after the other from `from_s` to `until_s`, with a pause between two.

    `key` is the name of a key, and `callers` the number of concurrent callers of this kind. With `disconnects`, the
    caller closes the connection after the first bytes of an answer.
    """

    key: str
    path: str
    body: Mapping[str, Any]
    pause_s: float = 0.3
    callers: int = 1
    from_s: float = 0.0
    until_s: float = 1e9
    disconnects: bool = False


_CALLERS = (
    Caller("laptop", "/v1/chat/completions", {"model": _QWEN, **_CHAT, "max_tokens": 120, "stream": True}),
    Caller(
        "laptop", "/api/chat", {"model": _LLAMA, **_CHAT, "options": {"num_predict": 60}, "stream": False}, pause_s=0.8
    ),
    Caller("laptop", "/api/embed", {"model": _EMBEDDER, "input": ["How a river", "finds the sea"]}, pause_s=1.0),
    Caller("codex", "/v1/messages", {"model": _LLAMA, **_CHAT, "max_tokens": 90, "stream": True}, pause_s=0.5),
    Caller(
        "codex", "/v1/responses", {"model": _LLAMA, "input": "Why?", "max_output_tokens": 50}, pause_s=1.5, from_s=15
    ),
    Caller(
        "codex",
        "/v1/messages",
        {"model": _LLAMA, **_CHAT, "max_tokens": 70, "stream": True},
        pause_s=0.2,
        callers=7,
        from_s=35,
        until_s=62,
    ),
    Caller("laptop", "/api/generate", {"model": _QWEN, "prompt": "Why?"}, pause_s=7.0, disconnects=True),
    Caller("unknown", "/api/chat", {"model": _LLAMA, **_CHAT}, pause_s=5.0, from_s=8),
    Caller(
        "limited",
        "/api/chat",
        {"model": _LLAMA, **_CHAT, "options": {"num_predict": 5}},
        pause_s=2.5,
        from_s=12,
        until_s=70,
    ),
    Caller("codex", "/api/chat", {"model": _QWEN, **_CHAT}, pause_s=3.0, from_s=25),
    Caller("laptop", "/v1/chat/completions", {"messages": 5}, pause_s=4.0, from_s=4),
    Caller("laptop", "/api/pull", {"model": _LLAMA}, pause_s=6.0, from_s=30),
)


async def send_load(url: str, keys: Mapping[str, str], duration_s: float) -> None:
    """Sends the load to the gateway at `url` for this time. `keys` has the API key of each name of a key."""
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as client:
        work = [_call(client, keys[caller.key], caller) for caller in _CALLERS for _ in range(caller.callers)]
        try:
            async with asyncio.timeout(duration_s):
                await asyncio.gather(*work)
        except TimeoutError:
            # The time is over, and the requests that run end with their connections.
            pass


async def _call(client: httpx.AsyncClient, key: str, caller: Caller) -> None:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    await asyncio.sleep(caller.from_s)
    headers = {"Authorization": f"Bearer {key}"}
    while loop.time() - started_s < caller.until_s:
        async with client.stream("POST", caller.path, json=caller.body, headers=headers) as answer:
            async for _ in answer.aiter_raw():
                if caller.disconnects:
                    break
        await asyncio.sleep(caller.pause_s)
