"""Continuous chats while the project changes, and their results."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.compose.project import Project, eventually

MODEL = "adopted-model:latest"


def chat_body(tokens: int = 8) -> dict[str, object]:
    """The body of a streamed chat of at most `tokens` tokens."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Write a story."}],
        "options": {"num_predict": tokens},
    }


def complete_chat(project: Project, key: str) -> str:
    """Sends chats until one is answered completely. Returns the id of that request."""

    def chat() -> str:
        with project.client(key) as client:
            answer = client.post("/api/chat", json=chat_body())
        assert answer.status_code == 200, answer.text
        return str(answer.headers["x-request-id"])

    return eventually(chat, "a chat is answered")


@dataclass
class LoadResult:
    """The ids of the requests that were answered completely, and the failures of the others."""

    complete: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextmanager
def load(project: Project, key: str, callers: int = 3) -> Iterator[LoadResult]:
    """Sends chats from `callers` threads, one after another, until the context ends. Yields the growing result."""
    result, stop = LoadResult(), threading.Event()

    def call() -> None:
        with project.client(key) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/api/chat", json=chat_body())
                except httpx.TransportError as error:
                    result.failed.append(repr(error))
                    continue
                if answer.status_code == 200 and '"done":true' in answer.text:
                    result.complete.append(answer.headers["x-request-id"])
                else:
                    result.failed.append(f"{answer.status_code} {answer.text[-200:]}")

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        stop.set()
        for thread in threads:
            thread.join()
