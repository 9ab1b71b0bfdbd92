"""Ollama's own surfaces, `/api/chat` and `/api/generate`: newline-delimited JSON."""

from __future__ import annotations

import datetime
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import (
    JSON_UTF8,
    NDJSON,
    Dialect,
    Encoder,
    Refusal,
    Said,
    bind,
    log_probabilities,
    native_refusal,
    read_keep_alive,
    read_options,
)
from ops.simulator.dialects.gojson import ANY, BOOL, INT, MAP, OPTIONAL_BOOL, STRING, Array, Kind, Struct
from ops.simulator.generation.events import Delta, Finish, ToolCall
from ops.simulator.generation.request import GenerationRequest, Tool, Turn
from ops.simulator.generation.text import tokenise
from ops.simulator.models.descriptions import format_time

_FUNCTION = Struct("ToolFunction", {"name": STRING, "description": STRING, "parameters": ANY})
TOOL = Struct("Tool", {"type": STRING, "function": _FUNCTION})
_MESSAGE = Struct(
    "Message",
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "images": Array(STRING, "[]api.ImageData"),
        "tool_calls": Array(ANY, "[]api.ToolCall"),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
)
_SHARED: dict[str, Kind] = {
    "model": STRING,
    "stream": OPTIONAL_BOOL,
    "format": ANY,
    "keep_alive": ANY,
    "options": MAP,
    "think": ANY,
    "logprobs": BOOL,
    "top_logprobs": INT,
}
CHAT = Struct(
    "ChatRequest",
    {**_SHARED, "messages": Array(_MESSAGE, "[]api.Message"), "tools": Array(TOOL, "api.Tools")},
)
GENERATE = Struct(
    "GenerateRequest",
    {
        **_SHARED,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": Array(INT, "[]int"),
        "raw": BOOL,
        "images": Array(STRING, "[]api.ImageData"),
    },
)


class _NativeEncoder(Encoder):
    @abstractmethod
    def shown(self, said: Said) -> dict[str, Any]:
        """The part of a frame that carries what was said."""

    def context(self, said: Said) -> dict[str, Any]:  # noqa: ARG002
        """What the last frame has before its counts."""
        return {}

    def piece(self, delta: Delta) -> Iterator[bytes]:
        """One line."""
        yield gojson.dump(self._frame(_said(delta), done=False)) + b"\n"

    def finish(self, finish: Finish) -> Iterator[bytes]:
        """The line with the counts."""
        said = _said(finish.tail)
        frame = self._frame(said, done=True, reason=finish.reason)
        yield gojson.dump({**frame, **self.context(said), **self.timing.metrics(finish)}) + b"\n"

    def broken(self, message: str) -> Iterator[bytes]:
        """An `error` line."""
        yield gojson.dump({"error": message}) + b"\n"

    def whole(self, said: Said, finish: Finish | None) -> bytes:
        """One object of the same shape."""
        if finish is None:
            return gojson.dump(self._frame(said, done=False))
        frame = self._frame(said, done=True, reason=finish.reason)
        return gojson.dump({**frame, **self.context(said), **self.timing.metrics(finish)})

    def idle(self, reason: str) -> tuple[str, list[bytes]]:
        """One object without counts, streaming or not."""
        return JSON_UTF8, [gojson.dump(self._frame(Said(), done=True, reason=reason))]

    def _frame(self, said: Said, *, done: bool, reason: str = "") -> dict[str, Any]:
        now = format_time(datetime.datetime.now(datetime.UTC))
        frame = {"model": self.request.model, "created_at": now, **self.shown(said), "done": done}
        if reason:
            frame["done_reason"] = reason
        if self.request.top_logprobs is not None and said.tokens:
            frame["logprobs"] = log_probabilities(said.tokens, self.request.top_logprobs)
        return frame


class _ChatEncoder(_NativeEncoder):
    def shown(self, said: Said) -> dict[str, Any]:
        """The `message`."""
        message: dict[str, Any] = {"role": "assistant", "content": said.content}
        if said.thinking:
            message["thinking"] = said.thinking
        if said.calls:
            message["tool_calls"] = [_tool_call(at, call) for at, call in enumerate(said.calls)]
        return {"message": message}


class _GenerateEncoder(_NativeEncoder):
    def shown(self, said: Said) -> dict[str, Any]:
        """`response`, and `thinking` when there is some."""
        return {"response": said.content, **({"thinking": said.thinking} if said.thinking else {})}

    def context(self, said: Said) -> dict[str, Any]:
        """The tokens of prompt and answer as numbers, unless the request was raw."""
        if self.request.raw:
            return {}
        tokens = [token for turn in self.request.turns for token in tokenise(turn.content)] + said.tokens
        return {"context": [zlib.crc32(token.encode()) % 150_000 for token in tokens]}


class Chat(Dialect):
    """`POST /api/chat`."""

    stream_type = NDJSON
    whole_type = JSON_UTF8
    encoder = _ChatEncoder

    def read(self, body: bytes) -> GenerationRequest:
        """Raises Refusal."""
        bound = bind(body, CHAT, empty="missing request body")
        if not bound.get("model"):
            raise Refusal(400, "model is required")
        turns = tuple(
            Turn((m.get("role") or "").lower(), m.get("content") or "", len(m.get("images") or ()))
            for m in (item or {} for item in bound.get("messages") or ())
        )
        functions = [(tool or {}).get("function") or {} for tool in bound.get("tools") or ()]
        tools = tuple(Tool(f.get("name") or "", f.get("parameters")) for f in functions)
        return GenerationRequest(endpoint="chat", turns=turns, tools=tools, load_only=not turns, **_shared(bound))

    def refusal(self, refusal: Refusal) -> tuple[str, bytes]:
        """`{"error": text}`."""
        return native_refusal(refusal)


class Generate(Dialect):
    """`POST /api/generate`."""

    stream_type = NDJSON
    whole_type = JSON_UTF8
    encoder = _GenerateEncoder

    def read(self, body: bytes) -> GenerationRequest:
        """Raises Refusal."""
        bound = bind(body, GENERATE, empty="missing request body")
        prompt, raw = bound.get("prompt") or "", bool(bound.get("raw"))
        system = () if raw or not bound.get("system") else (Turn("system", bound["system"]),)
        suffix = bound.get("suffix") or ""
        return GenerationRequest(
            endpoint="generate",
            turns=(*system, Turn("user", prompt + suffix, len(bound.get("images") or ()))),
            load_only=not prompt,
            raw=raw,
            context_tokens=len(bound.get("context") or ()),
            **_shared(bound),
        )

    def refusal(self, refusal: Refusal) -> tuple[str, bytes]:
        """`{"error": text}`."""
        return native_refusal(refusal)


def read_think(value: Any) -> bool | None:
    """On, off or the model's habit. Raises Refusal for another word than low, medium, high or max."""
    if value is None or isinstance(value, bool):
        return value
    if value in ("low", "medium", "high", "max"):
        return True
    raise Refusal(400, 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)', bound=True)


def _shared(bound: dict[str, Any]) -> dict[str, Any]:
    top = bound.get("top_logprobs") or 0
    if not 0 <= top <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")
    return {
        "model": bound.get("model") or "",
        "stream": bound.get("stream") is not False,
        "think": read_think(bound.get("think")),
        "format": bound.get("format") or None,
        "top_logprobs": top if bound.get("logprobs") else None,
        "keep_alive_s": read_keep_alive(bound.get("keep_alive")),
        **read_options(bound.get("options")),
    }


def _said(delta: Delta | None) -> Said:
    said = Said()
    said.add(delta)
    return said


def _tool_call(at: int, call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"index": at, "name": call.name, "arguments": call.arguments}}
