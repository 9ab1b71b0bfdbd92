"""A stack with one worker per service, for tests that need unusual backends and disturb no other test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.stack import SLOTS, Simulator, Stack, simulator, up
from tests.gateway.record.test_encrypted_transcript import write_key
from tests.ports import free_port

# The models of the two backends that test_wrong_answers.py uses: the first one is hosted by `wrong` alone.
ONLY, BOTH = "only:latest", "both:latest"
# The models of the backend `limited`, of which some have parameters of their Modelfiles.
CAPPED, CAP, CONTEXT = "capped:latest", 12, 2048
LIMITED_MODELS: list[dict[str, Any]] = [
    {"name": CAPPED, "parameters": {"num_predict": CAP, "num_ctx": CONTEXT}},
    {"name": "embedder", "capabilities": ["embedding"], "parameters": {"num_ctx": CONTEXT}},
    {"name": "paced"},
]
# The model of the backend that closes its connections.
CLOSING = "closing:latest"
_CLOSING_ANSWER = {"model": CLOSING, "message": {"role": "assistant", "content": "Hi"}, "done": True,
                   "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 1}  # fmt: skip
_CLOSING_PAGES = {
    "/api/version": {"version": "0.33.0"},
    "/api/tags": {"models": [{"name": CLOSING, "model": CLOSING, "digest": "d", "size": 1}]},
    "/api/ps": {"models": []},
    "/api/show": {"capabilities": ["completion"], "details": {}, "model_info": {}},
    "/api/chat": _CLOSING_ANSWER,
}
REQUEST_ID_HEADER = "X-Correlation-ID"


@dataclass(frozen=True)
class OneWorker:
    """The running stack, its backends, and the private key that reads its prompt log.

    `wrong` precedes `right` in priority order. `right` also hosts the model of `tests.e2e.load`.
    """

    stack: Stack
    wrong: Simulator
    right: Simulator
    limited: Simulator
    private_key: Path


@contextmanager
def one_worker(directory: Path) -> Iterator[OneWorker]:
    """Runs the stack. It refuses prompts that exceed a context, and encrypts the prompt log."""
    private, public = write_key(directory)
    with (
        simulator("--models", f"{ONLY},{BOTH}") as wrong,
        simulator("--models", f"{BOTH}+embedding,llama3.2:latest") as right,
        simulator() as limited,
        _closing_backend() as closing,
    ):
        limited.install(*LIMITED_MODELS, {"name": "doomed"}, {"name": "listed"}, {"name": "silent"})
        urls = {"wrong": wrong.url, "right": right.url, "limited": limited.url}
        backends = [{"name": name, "base_url": url, "slots": SLOTS} for name, url in urls.items()]
        settings = {
            "OLLAMA_BACKENDS": json.dumps([*backends, {"name": "closing", "base_url": closing}]),
            # Envoy waits that much longer for a body.
            "QUEUE_MAX_WAIT_S": "1",
            "CONTEXT_OVERFLOW": "refuse",
            "PROMPT_LOG_REDACT": "email,card",
            "PROMPT_LOG_PUBLIC_KEY_FILE": str(public),
            "GATEWAY_REQUEST_ID_HEADER": REQUEST_ID_HEADER,
            "DEFAULT_RPM": "100000",
            "DEFAULT_TPM": "100000000",
        }
        here = ("--listen", f"127.0.0.1:{free_port()}", "--workers", "1")
        with up(directory / "state", *here, **settings) as stack:
            yield OneWorker(stack, wrong, right, limited, private)


@contextmanager
def _closing_backend() -> Iterator[str]:
    """A backend that closes a connection just as the next request goes out on it. Yields its URL."""
    port, loop, stop = free_port(), asyncio.new_event_loop(), asyncio.Event()
    with ThreadPoolExecutor(1) as backend:
        served = backend.submit(loop.run_until_complete, _serve(port, stop))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            loop.call_soon_threadsafe(stop.set)
            served.result()
            loop.close()


async def _serve(port: int, stop: asyncio.Event) -> None:
    async with await asyncio.start_server(_serve_connection, "127.0.0.1", port):
        await stop.wait()


async def _serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
            body = json.dumps(_CLOSING_PAGES[path]).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # Envoy has closed the connection.
    finally:
        writer.close()
