"""Ollama's own surfaces, `/api/chat` and `/api/generate`: newline-delimited JSON."""

from __future__ import annotations

import datetime
import re
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import Completion, Dialect, Encoder
from ops.simulator.dialects.errors import ApiError, native_error
from ops.simulator.dialects.gojson import ANY, BASE64, BOOL, INT, MAP, OPTIONAL_BOOL, STRING, Array, GoType, Struct
from ops.simulator.dialects.log_probabilities import log_probabilities
from ops.simulator.dialects.media_types import JSON_UTF8, NDJSON
from ops.simulator.dialects.parameters import bind, read_functions, read_keep_alive, read_options
from ops.simulator.generation.events import Delta, Finish, ToolCall
from ops.simulator.generation.request import VOCABULARY_SIZE, GenerationRequest, Tool, Turn
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
        "images": Array(BASE64, "[]api.ImageData"),
        "tool_calls": Array(ANY, "[]api.ToolCall"),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
)
_COMMON: dict[str, GoType] = {
    "model": STRING,
    "stream": OPTIONAL_BOOL,
    "format": ANY,
    "keep_alive": ANY,
    "options": MAP,
    "think": ANY,
    "truncate": OPTIONAL_BOOL,
    "shift": OPTIONAL_BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
    "_debug_render_only": BOOL,
}
_BLOCK = re.compile(r"\{\{-?\s*(if|range|with|block|define|end)\b")
CHAT = Struct(
    "ChatRequest",
    {**_COMMON, "messages": Array(_MESSAGE, "[]api.Message"), "tools": Array(TOOL, "api.Tools")},
)
GENERATE = Struct(
    "GenerateRequest",
    {
        **_COMMON,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": Array(INT, "[]int"),
        "raw": BOOL,
        "images": Array(BASE64, "[]api.ImageData"),
    },
)


class _NativeEncoder(Encoder):
    @abstractmethod
    def payload(self, completion: Completion) -> dict[str, Any]:
        """The members of a frame that carry the text and the calls."""

    def context(self, completion: Completion) -> dict[str, Any]:  # noqa: ARG002
        """The members of the last frame that precede its counts."""
        return {}

    def encode_delta(self, delta: Delta) -> Iterator[bytes]:
        """One line."""
        yield gojson.dump(self._frame(_completion_of(delta), done=False)) + b"\n"

    def encode_finish(self, finish: Finish) -> Iterator[bytes]:
        """The line with the counts."""
        yield self._last_frame(_completion_of(finish.tail), finish) + b"\n"

    def encode_failure(self, message: str) -> Iterator[bytes]:
        """An `error` line."""
        yield gojson.dump({"error": message}) + b"\n"

    def encode_document(self, completion: Completion, finish: Finish | None) -> bytes:
        """One object of the same shape."""
        if finish is None:
            return gojson.dump(self._frame(completion, done=False))
        return self._last_frame(completion, finish)

    def encode_load(self, reason: str) -> tuple[str, list[bytes]]:
        """One object without counts, whether the request streams or not."""
        return JSON_UTF8, [gojson.dump(self._frame(Completion(), done=True, reason=reason))]

    def encode_debug(self, prompt: str) -> bytes:
        """One object with the prompt, without counts."""
        images = sum(turn.images for turn in self.request.turns)
        info = {"rendered_template": prompt, **({"image_count": images} if images else {})}
        return gojson.dump({**self._frame(Completion(), done=False), "_debug_info": info})

    def _last_frame(self, completion: Completion, finish: Finish) -> bytes:
        frame = self._frame(completion, done=True, reason=finish.reason)
        return gojson.dump({**frame, **self.context(completion), **self.timing.metrics(finish)})

    def _frame(self, completion: Completion, *, done: bool, reason: str = "") -> dict[str, Any]:
        now = format_time(datetime.datetime.now(datetime.UTC))
        frame = {"model": self.request.model, "created_at": now, **self.payload(completion), "done": done}
        if reason:
            frame["done_reason"] = reason
        if self.request.top_logprobs is not None and completion.tokens:
            frame["logprobs"] = log_probabilities(completion.tokens, self.request.top_logprobs)
        return frame


class _ChatEncoder(_NativeEncoder):
    def payload(self, completion: Completion) -> dict[str, Any]:
        """The `message`."""
        message: dict[str, Any] = {"role": "assistant", "content": completion.content}
        if completion.thinking:
            message["thinking"] = completion.thinking
        if completion.tool_calls:
            message["tool_calls"] = [_tool_call(index, call) for index, call in enumerate(completion.tool_calls)]
        return {"message": message}


class _GenerateEncoder(_NativeEncoder):
    def payload(self, completion: Completion) -> dict[str, Any]:
        """`response`, and `thinking` unless it is empty."""
        return {
            "response": completion.content,
            **({"thinking": completion.thinking} if completion.thinking else {}),
        }

    def context(self, completion: Completion) -> dict[str, Any]:
        """The tokens of the prompt and the answer as numbers, unless the request is raw."""
        if self.request.raw:
            return {}
        tokens = [token for turn in self.request.turns for token in tokenise(turn.content)] + completion.tokens
        return {"context": [zlib.crc32(token.encode()) % VOCABULARY_SIZE for token in tokens]}


class _NativeDialect(Dialect):
    stream_type = NDJSON
    document_type = JSON_UTF8

    def encode_error(self, error: ApiError) -> tuple[str, bytes]:
        """`{"error": text}`."""
        return native_error(error)


class Chat(_NativeDialect):
    """`POST /api/chat`."""

    encoder = _ChatEncoder

    def read(self, body: bytes) -> GenerationRequest:
        """Raises ApiError."""
        fields = bind(body, CHAT, empty_message="missing request body")
        if not fields.get("model"):
            raise ApiError(400, "model is required")
        messages = [message or {} for message in fields.get("messages") or ()]
        turns = tuple(
            Turn((m.get("role") or "").lower(), m.get("content") or "", len(m.get("images") or ())) for m in messages
        )
        functions = read_functions(fields.get("tools"))
        tools = tuple(Tool(function.get("name") or "", function.get("parameters")) for function in functions)
        return GenerationRequest(endpoint="chat", turns=turns, tools=tools, load_only=not turns, **_common(fields))


class Generate(_NativeDialect):
    """`POST /api/generate`."""

    encoder = _GenerateEncoder

    def read(self, body: bytes) -> GenerationRequest:
        """Raises ApiError."""
        fields = bind(body, GENERATE, empty_message="missing request body")
        prompt, raw = fields.get("prompt") or "", bool(fields.get("raw"))
        if raw and (fields.get("template") or fields.get("system") or fields.get("context")):
            raise ApiError(400, "raw mode does not support template, system, or context")
        system = () if raw or not fields.get("system") else (Turn("system", fields["system"]),)
        suffix = fields.get("suffix") or ""
        return GenerationRequest(
            endpoint="generate",
            turns=(*system, Turn("user", prompt + suffix, len(fields.get("images") or ()))),
            load_only=not prompt,
            raw=raw,
            context=tuple(token or 0 for token in fields.get("context") or ()),
            has_suffix=bool(suffix),
            template_error=_template_error(fields.get("template") or ""),
            **_common(fields),
        )


def _common(fields: dict[str, Any]) -> dict[str, Any]:
    top_logprobs = fields.get("top_logprobs") or 0
    if not 0 <= top_logprobs <= 20:
        raise ApiError(400, "top_logprobs must be between 0 and 20")
    return {
        "model": fields.get("model") or "",
        "stream": fields.get("stream") is not False,
        "think": _read_think(fields.get("think")),
        "truncate": fields.get("truncate"),
        "shift": fields.get("shift"),
        "format": fields.get("format") or None,
        "top_logprobs": top_logprobs if fields.get("logprobs") else None,
        "keep_alive_s": read_keep_alive(fields.get("keep_alive")),
        "debug_render_only": bool(fields.get("_debug_render_only")),
        **read_options(fields.get("options")),
    }


def _read_think(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if value in ("low", "medium", "high", "max"):
        return True
    words = '"high", "medium", "low", "max", true, or false'
    if isinstance(value, str):
        raise ApiError(400, f'invalid think value: "{value}" (must be {words})', at_binding=True)
    raise ApiError(400, f"think must be a boolean or string ({words})", at_binding=True)


def _template_error(template: str) -> str:
    """Why a template is invalid, or nothing. Only its brackets and blocks are checked."""
    last_line = f"template: :{template.count(chr(10)) + 1}:"
    if template.count("{{") != template.count("}}"):
        return f"{last_line} unclosed action"
    depth = 0
    for keyword in _BLOCK.findall(template):
        depth += -1 if keyword == "end" else 1
        if depth < 0:
            return f"{last_line} unexpected {{{{end}}}}"
    return f"{last_line} unexpected EOF" if depth else ""


def _completion_of(delta: Delta | None) -> Completion:
    completion = Completion()
    completion.add(delta)
    return completion


def _tool_call(index: int, call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": call.arguments}}
