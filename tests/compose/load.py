"""Chats that go on while something happens to the project, and what came of each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.compose.project import Project, eventually

MODEL = "adopted-model:latest"


def chat(words: int = 8) -> dict[str, object]:
    """A streamed chat of at most so many tokens."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "options": {"num_predict": words},
    }


def answered(project: Project, key: str) -> str:
    """Chats until an answer is whole; gives the id of that request."""

    def look() -> str:
        with project.client(key) as client:
            answer = client.post("/api/chat", json=chat())
        assert answer.status_code == 200, answer.text
        return str(answer.headers["x-request-id"])

    return eventually(look, "a chat is answered")


@dataclass
class Seen:
    """Ids of the requests that were answered whole, and what went wrong with the others."""

    complete: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextmanager
def load(project: Project, key: str, callers: int = 3) -> Iterator[Seen]:
    """Lets `callers` chat one request after the other until the context ends."""
    seen, over = Seen(), threading.Event()

    def call() -> None:
        with project.client(key) as client:
            while not over.is_set():
                try:
                    answer = client.post("/api/chat", json=chat())
                except httpx.TransportError as error:
                    seen.failed.append(repr(error))
                    continue
                if answer.status_code == 200 and '"done":true' in answer.text:
                    seen.complete.append(answer.headers["x-request-id"])
                else:
                    seen.failed.append(f"{answer.status_code} {answer.text[-200:]}")

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()
