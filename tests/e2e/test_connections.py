"""A backend that closes a connection just as the next request goes out on it: no request fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.e2e.stack import up
from tests.ports import free_port

MODEL = "llama3.2:latest"
ANSWER = {"model": MODEL, "message": {"role": "assistant", "content": "Hi"}, "done": True, "done_reason": "stop",
          "prompt_eval_count": 3, "eval_count": 1}  # fmt: skip
PAGES = {
    "/api/version": {"version": "0.33.0"},
    "/api/tags": {"models": [{"name": MODEL, "model": MODEL, "digest": "d", "size": 1}]},
    "/api/ps": {"models": []},
    "/api/show": {"capabilities": ["completion"], "details": {}, "model_info": {}},
    "/api/chat": ANSWER,
}


async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one chat, and closes the connection without an answer when a second one arrives on it."""
    chats = 0
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = head.partition("content-length:")[2].split("\r\n")[0].strip()
            await reader.readexactly(int(length or 0))
            path = head.split()[1]
            chats += path == "/api/chat"
            if chats > 1:
                return
            body = json.dumps(PAGES[path]).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # Envoy has closed the connection.
    finally:
        writer.close()


async def run_backend(port: int, stop: asyncio.Event) -> None:
    async with await asyncio.start_server(serve_connection, "127.0.0.1", port):
        await stop.wait()


@dataclass(frozen=True)
class Running:
    """A stack in front of that backend, and a key."""

    url: str
    key: str


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    port, loop, stop = free_port(), asyncio.new_event_loop(), asyncio.Event()
    state_dir = tmp_path_factory.mktemp("connections") / "state"
    with ThreadPoolExecutor(1) as backend:
        served = backend.submit(loop.run_until_complete, run_backend(port, stop))
        try:
            with up(
                state_dir, "--workers", "1", "--listen", f"127.0.0.1:{free_port()}",
                OLLAMA_BASE_URL=f"http://127.0.0.1:{port}",
            ) as stack:  # fmt: skip
                yield Running(stack.url, stack.new_key("t", "--rpm", "1000"))
        finally:
            loop.call_soon_threadsafe(stop.set)
            served.result()
            loop.close()


@pytest.mark.parametrize("at_once", [1, 6])
def test_a_backend_that_closes_a_connection_it_has_used_fails_no_request(running: Running, at_once: int) -> None:
    body = {"model": MODEL, "stream": False, "messages": [{"role": "user", "content": "Hi"}]}

    def chat(_: int) -> int:
        return httpx.post(f"{running.url}/api/chat", json=body, headers={"x-api-key": running.key}).status_code

    with ThreadPoolExecutor(at_once) as callers:
        assert list(callers.map(chat, range(24))) == [200] * 24
