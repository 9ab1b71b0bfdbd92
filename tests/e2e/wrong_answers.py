"""The table of docs/wrong-answers.md: what a caller gets, and what its row says, when a backend answers wrongly.

`python -m tests.e2e.wrong_answers` runs the stack and prints it.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.wire.media_types import EVENTS, JSON, accepted_type
from gateway.wire.surfaces import BY_NAME, SURFACES, AnswerShape, Dialect, Surface
from tests.e2e.ledger_view import tenant_rows
from tests.e2e.one_worker import ONLY, OneWorker, one_worker
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

INTERNAL = "http://10.9.8.7:9000/x"
_MESSAGE = {"role": "assistant", "content": "Hi"}
# The first frame of a stream, or a whole answer.
_WHOLE: dict[AnswerShape, dict[str, Any]] = {
    AnswerShape.NATIVE_CHAT: {"model": "m", "message": _MESSAGE, "done": True, "done_reason": "stop", "eval_count": 1},
    AnswerShape.NATIVE_GENERATE: {"model": "m", "response": "Hi", "done": True, "done_reason": "stop", "eval_count": 1},
    AnswerShape.NATIVE_EMBED: {"model": "m", "embeddings": [[0.1]], "prompt_eval_count": 1},
    AnswerShape.NATIVE_EMBEDDINGS: {"embedding": [0.1]},
    AnswerShape.OPENAI_CHAT: {"model": "m", "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}]},
    AnswerShape.OPENAI_COMPLETIONS: {"model": "m", "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]},
    AnswerShape.OPENAI_EMBEDDINGS: {"model": "m", "data": [{"index": 0, "embedding": [0.1]}]},
    AnswerShape.OPENAI_RESPONSES: {"model": "m", "status": "completed", "output": []},
    AnswerShape.ANTHROPIC_MESSAGES: {"model": "m", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "x"},
}
_FIRST_FRAMES: dict[AnswerShape, dict[str, Any]] = {
    AnswerShape.OPENAI_CHAT: {"model": "m", "choices": [{"index": 0, "delta": _MESSAGE}]},
    AnswerShape.OPENAI_RESPONSES: {"type": "response.created", "sequence_number": 0, "response": {"output": []}},
    AnswerShape.ANTHROPIC_MESSAGES: {"type": "message_start", "message": {"content": []}},
}
_FOREIGN = {Dialect.NATIVE: AnswerShape.OPENAI_CHAT, Dialect.OPENAI: AnswerShape.NATIVE_CHAT}


@dataclass(frozen=True)
class Answer:
    """What a backend sends: status, headers, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def as_fault(self, path: str) -> dict[str, Any]:
        """The simulator's fault that gives this answer to every request for `path`."""
        body = base64.b64encode(self.body).decode()
        return {"kind": "verbatim", "paths": [path], "status": self.status, "headers": self.headers, "body": body}


@dataclass(frozen=True)
class Endpoint:
    """A surface with or without streaming."""

    surface: Surface
    stream: bool

    @property
    def media_type(self) -> str:
        """The media type of its answers."""
        return accepted_type(self.surface, stream=self.stream)

    def framed(self, text: str) -> bytes:
        """`text` as a whole body, or as one frame of a stream."""
        return f"data: {text}\n\n".encode() if self.media_type == EVENTS else f"{text}\n".encode()

    def answer(self, shape: AnswerShape | None = None) -> str:
        """A right answer or first frame, or one of another shape."""
        shape = shape or self.surface.answer_shape
        document = _FIRST_FRAMES.get(shape, _WHOLE[shape]) if self.media_type == EVENTS else _WHOLE[shape]
        return json.dumps(document)

    def request(self, model: str) -> dict[str, Any]:
        """The body of a request."""
        body: dict[str, Any] = {"model": model, "stream": self.stream}
        match self.surface.answer_shape:
            case AnswerShape.NATIVE_EMBED | AnswerShape.OPENAI_EMBEDDINGS:
                return {"model": model, "input": "Hello"}
            case AnswerShape.NATIVE_EMBEDDINGS:
                return {"model": model, "prompt": "Hello"}
            case AnswerShape.NATIVE_GENERATE | AnswerShape.OPENAI_COMPLETIONS:
                return {**body, "prompt": "Hello"}
            case AnswerShape.OPENAI_RESPONSES:
                return {**body, "input": "Hello"}
            case _:
                return {**body, "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}


ENDPOINTS = [Endpoint(surface, stream) for stream in (False, True) for surface in SURFACES
             if not stream or surface.streams_by_default is not None]  # fmt: skip


def ways(endpoint: Endpoint) -> dict[str, Answer]:
    """The ways to answer wrongly, by name."""
    head, right = {"content-type": endpoint.media_type}, endpoint.answer()
    error: object = (
        f"dial {INTERNAL}" if endpoint.surface.dialect is Dialect.NATIVE else {"message": f"dial {INTERNAL}"}
    )
    foreign = _FOREIGN.get(endpoint.surface.dialect, AnswerShape.OPENAI_CHAT)
    if endpoint.surface.dialect is Dialect.ANTHROPIC:
        own_500: object = {"type": "error", "error": {"type": "api_error", "message": "out of memory"}}
    else:
        is_native = endpoint.surface.dialect is Dialect.NATIVE
        own_500 = {"error": "out of memory" if is_native else {"message": "out of memory", "type": "api_error"}}
    return {
        "an HTML page": Answer(200, {"content-type": "text/html"}, f"<html>{INTERNAL}</html>".encode()),
        "an error object": Answer(200, head, endpoint.framed(json.dumps({"error": error}))),
        "`null`": Answer(200, head, endpoint.framed("null")),
        "a list": Answer(200, head, endpoint.framed("[]")),
        "an empty body": Answer(200, head, b""),
        "204": Answer(204, {}, b""),
        "unreadable gzip": Answer(200, {**head, "content-encoding": "gzip"}, b"\x1f\x8b\x08\x00junk"),
        "truncated JSON": Answer(200, head, endpoint.framed(right)[: len(right) // 2]),
        "an answer of another surface": Answer(200, head, endpoint.framed(endpoint.answer(foreign))),
        "another content type": Answer(200, {"content-type": "text/plain"}, endpoint.framed(right)),
        "its own 500": Answer(500, {"content-type": JSON}, json.dumps(own_500).encode()),
    }


@dataclass(frozen=True)
class Case:
    """One request to a wrong backend: the caller's response, and the audit row."""

    way: str
    endpoint: Endpoint
    model: str
    response: httpx.Response
    row: dict[str, Any]


@dataclass
class WrongBackend:
    """A running stack whose first backend can answer wrongly."""

    wrong: Simulator
    stack: Stack
    client: httpx.Client

    def cases(self, model: str) -> list[Case]:
        """Sends a request for each way and endpoint, and reads the rows."""
        sent: list[tuple[str, Endpoint, httpx.Response]] = []
        for stream in (False, True):
            endpoints = [endpoint for endpoint in ENDPOINTS if endpoint.stream is stream]
            for way in ways(endpoints[0]):
                faults = [ways(endpoint)[way].as_fault(endpoint.surface.path) for endpoint in endpoints]
                self.wrong.behave(faults=faults)
                sent += [(way, each, self._send(each, model)) for each in endpoints]
        self.wrong.behave()
        rows = eventually(lambda: self._rows({response.headers["x-request-id"] for _, _, response in sent}), 60)
        return [Case(way, each, model, got, rows[got.headers["x-request-id"]]) for way, each, got in sent]

    def _send(self, endpoint: Endpoint, model: str) -> httpx.Response:
        return self.client.post(endpoint.surface.path, json=endpoint.request(model))

    def _rows(self, wanted: set[str]) -> dict[str, dict[str, Any]] | None:
        by_id = {row["request_id"]: row for row in tenant_rows(self.stack, "wrong")}
        return by_id if by_id.keys() >= wanted else None


@contextmanager
def wrong_backend(one_worker: OneWorker) -> Iterator[WrongBackend]:
    """Its stack, with a new tenant."""
    headers = {"x-api-key": one_worker.stack.new_key("wrong")}
    with httpx.Client(base_url=one_worker.stack.url, timeout=60, headers=headers) as client:
        yield WrongBackend(one_worker.wrong, one_worker.stack, client)


def render_table(cases: list[Case]) -> str:
    """The table in Markdown: a row for each way, a column for each surface, `whole` and `streamed` in a cell."""
    cells: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        cells.setdefault((case.way, case.endpoint.surface.name), []).append(_cell(case))
    head = ["the backend answers", *(f"`{surface.path}`" for surface in SURFACES)]
    rows = [
        [way, *(" / ".join(cells[way, surface.name]) for surface in SURFACES)]
        for way in ways(Endpoint(BY_NAME["chat"], stream=False))
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _cell(case: Case) -> str:
    row, code = case.row, case.response.headers.get("x-gateway-error")
    status = case.response.status_code
    tokens = row["input_tokens"] + row["output_tokens"]
    as_expected = (row["status"], row["code"], row["outcome"], tokens) == (status, code, "upstream_error", 0)
    return f"{status}" if as_expected and code == "backend_error" else f"{status} {code}, row: {row}"


def main() -> None:
    """Prints the table."""
    with (
        tempfile.TemporaryDirectory() as directory,
        one_worker(Path(directory)) as started,
        wrong_backend(started) as running,
    ):
        sys.stdout.write(render_table(running.cases(ONLY)) + "\n")


if __name__ == "__main__":
    main()
