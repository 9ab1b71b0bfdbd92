"""The recordings in `tests/corpus/real`, and how they are requested again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "corpus" / "real"
FILES = sorted(FOLDER.glob("*.json"))

_CONTEXT = {"num_ctx": 2048}
MODELS: list[dict[str, Any]] = [
    {"name": "deepseek-r1:1.5b", "capabilities": ["completion", "thinking"], "parameters": _CONTEXT},
    {"name": "nomic-embed-text:latest", "capabilities": ["embedding"], "parameters": _CONTEXT},
    {"name": "codellama:7b-code", "capabilities": ["completion", "insert"], "parameters": _CONTEXT},
    {"name": "llama3.2:latest", "capabilities": ["completion", "tools"], "parameters": _CONTEXT},
    {"name": "gemma3:270m", "capabilities": ["completion"], "parameters": _CONTEXT},
]
"""The models of the recorded server, newest first."""


@dataclass(frozen=True)
class Answer:
    """An answer as received: `chunks` are those of the transfer coding, or the body alone if it had a length."""

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: tuple[str, ...]

    @property
    def body(self) -> str:
        """All chunks."""
        return "".join(self.chunks)


@dataclass(frozen=True)
class Recording:
    """A recorded request and its answer. `was_cut`: the caller disconnected before the answer ended."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    answer: Answer
    was_cut: bool

    @property
    def request(self) -> bytes:
        """The request as sent, on a separate connection."""
        fields = {"Host": "localhost", "Connection": "close", **self.headers, "Content-Length": str(len(self.body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.body


def read(file: Path) -> Recording:
    """The recording in a file."""
    document = json.loads(file.read_text(encoding="utf-8"))
    request = document["request"]
    body = request["body"]
    content = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    headers = tuple((name, value) for name, value in document["headers"])
    answer = Answer(document["status"], headers, tuple(text for _ms, text in document["chunks"]))
    was_cut = document["end"] == "cut by the caller"
    return Recording(file.stem, request["method"], request["path"], request["headers"], content, answer, was_cut)
