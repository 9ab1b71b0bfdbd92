"""Anthropic's `/v1/messages`, as Ollama's converter writes it: named events, and content in numbered blocks.

`message_start` carries an estimate of the input (bytes divided by four). The exact counts follow in `message_delta`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import Completion, Dialect, Encoder, Timing
from ops.simulator.dialects.errors import ApiError, native_error
from ops.simulator.dialects.gojson import ANY, BOOL, INT, OPTIONAL_FLOAT, OPTIONAL_INT, STRING, Array, Struct
from ops.simulator.dialects.media_types import JSON, JSON_UTF8, SSE
from ops.simulator.dialects.parameters import bind
from ops.simulator.generation.events import Delta, Finish, ToolCall
from ops.simulator.generation.request import GenerationRequest, Tool, Turn

_NON_BLOCKS = {int: "number", float: "number", bool: "bool", dict: "object"}
_MESSAGE = Struct("MessageParam", {"role": STRING, "content": ANY})
_TOOL = Struct("Tool", {"type": STRING, "name": STRING, "description": STRING, "input_schema": ANY})
_REQUEST = Struct(
    "MessagesRequest",
    {
        "model": STRING,
        "max_tokens": INT,
        "messages": Array(_MESSAGE, "[]anthropic.MessageParam"),
        "system": ANY,
        "stream": BOOL,
        "temperature": OPTIONAL_FLOAT,
        "top_p": OPTIONAL_FLOAT,
        "top_k": OPTIONAL_INT,
        "stop_sequences": Array(STRING, "[]string"),
        "tools": Array(_TOOL, "[]anthropic.Tool"),
        "tool_choice": ANY,
        "thinking": Struct("ThinkingConfig", {"type": STRING, "budget_tokens": INT}),
        "metadata": ANY,
    },
)
_ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error", 503: "overloaded_error", 529: "overloaded_error",
}  # fmt: skip


class _MessagesEncoder(Encoder):
    def __init__(self, request: GenerationRequest, timing: Timing) -> None:
        super().__init__(request, timing)
        self._id = f"msg_{secrets.token_hex(12)}"
        self._started = False
        self._block = ""
        self._index = 0
        self._has_called = False

    def encode_delta(self, delta: Delta) -> Iterator[bytes]:
        """The events of one step; `message_start` precedes the first."""
        yield from self._start()
        if delta.thinking:
            yield from self._enter_block("thinking", {"type": "thinking", "thinking": ""})
            yield self._block_delta({"type": "thinking_delta", "thinking": delta.thinking})
        if delta.content:
            yield from self._enter_block("text", {"type": "text", "text": ""})
            yield self._block_delta({"type": "text_delta", "text": delta.content})
        if delta.tool_call is not None:
            self._has_called = True
            yield from self._leave_block()
            yield from self._enter_block("tool_use", {**_tool_use(delta.tool_call), "input": {}})
            arguments = gojson.dump(delta.tool_call.arguments).decode()
            yield self._block_delta({"type": "input_json_delta", "partial_json": arguments})
            yield from self._leave_block()

    def encode_finish(self, finish: Finish) -> Iterator[bytes]:
        """The end of the open block, `message_delta` with the counts, and `message_stop`."""
        if finish.tail is not None:
            yield from self.encode_delta(finish.tail)
        yield from self._end(_stop_reason(finish.reason, has_called=self._has_called), finish)

    def encode_failure(self, message: str) -> Iterator[bytes]:  # noqa: ARG002
        """No frames: the stream just ends."""
        return iter(())

    def encode_document(self, completion: Completion, finish: Finish | None) -> bytes:
        """A `message` object."""
        reason = _stop_reason(finish.reason, has_called=bool(completion.tool_calls)) if finish else ""
        return self._message(completion, reason, finish)

    def encode_load(self, reason: str) -> tuple[str, list[bytes]]:
        """A message without content and with counts of zero."""
        stop_reason = _stop_reason(reason, has_called=False)
        if not self.request.stream:
            return JSON, [self._message(Completion(), stop_reason, None)]
        return SSE, [*self._start(), *self._end(stop_reason, None)]

    def _start(self) -> Iterator[bytes]:
        if not self._started:
            self._started = True
            estimate = {"input_tokens": self.request.prompt_bytes // 4, "output_tokens": 0}
            message = {"id": self._id, "type": "message", "role": "assistant", "model": self.request.model}
            yield _event("message_start", message={**message, "content": [], "usage": estimate})

    def _enter_block(self, block: str, content: dict[str, Any]) -> Iterator[bytes]:
        if self._block != block:
            yield from self._leave_block()
            self._block = block
            yield _event("content_block_start", index=self._index, content_block=content)

    def _leave_block(self) -> Iterator[bytes]:
        if self._block:
            yield _event("content_block_stop", index=self._index)
            self._block = ""
            self._index += 1

    def _block_delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _end(self, reason: str, finish: Finish | None) -> Iterator[bytes]:
        yield from self._start()
        yield from self._leave_block()
        yield _event("message_delta", delta={"stop_reason": reason}, usage=_usage(finish))
        yield _event("message_stop")

    def _message(self, completion: Completion, reason: str, finish: Finish | None) -> bytes:
        content: list[dict[str, Any]] = []
        if completion.thinking:
            content.append({"type": "thinking", "thinking": completion.thinking})
        if completion.content:
            content.append({"type": "text", "text": completion.content})
        content += [{**_tool_use(call), "input": call.arguments} for call in completion.tool_calls]
        head = {"id": self._id, "type": "message", "role": "assistant", "model": self.request.model}
        stop = {"stop_reason": reason} if reason else {}
        return gojson.dump({**head, "content": content or None, **stop, "usage": _usage(finish)}) + b"\n"


class Messages(Dialect):
    """`POST /v1/messages`."""

    encoder = _MessagesEncoder
    stream_headers = {"Cache-Control": "no-cache"}  # noqa: RUF012 - the base class declares a class variable

    def read(self, body: bytes) -> GenerationRequest:
        """Raises ApiError."""
        fields = bind(body, _REQUEST)
        messages = [message or {} for message in fields.get("messages") or ()]
        if not fields.get("model"):
            raise ApiError(400, "model is required", at_binding=True)
        if (fields.get("max_tokens") or 0) <= 0:
            raise ApiError(400, "max_tokens is required and must be positive", at_binding=True)
        if not messages:
            raise ApiError(400, "messages is required", at_binding=True)
        for kind in (_NON_BLOCKS.get(type(message.get("content"))) for message in messages):
            if kind:
                message = f"json: cannot unmarshal {kind} into Go value of type []anthropic.ContentBlock"
                raise ApiError(400, message, at_binding=True)
        turns = tuple(turn for m in messages for turn in _turns((m.get("role") or "").lower(), m.get("content")))
        system = tuple(_turns("system", fields.get("system") or []))
        tools = [tool for tool in fields.get("tools") or () if tool]
        thinking = (fields.get("thinking") or {}).get("type")
        return GenerationRequest(
            endpoint="chat",
            model=fields["model"],
            turns=(*system, *turns),
            load_only=not turns,
            stream=bool(fields.get("stream")),
            num_predict=fields["max_tokens"],
            stop=tuple(fields.get("stop_sequences") or ()),
            think={"enabled": True, "adaptive": True, "disabled": False}.get(thinking or ""),
            relaxes_thinking=True,
            tools=tuple(Tool(tool.get("name") or "", tool.get("input_schema")) for tool in tools),
            prompt_bytes=_count_bytes((*system, *turns), tools),
        )

    def encode_error(self, error: ApiError) -> tuple[str, bytes]:
        """Anthropic's error object, or Ollama's own one for an error that precedes the converter."""
        if error.always_native:
            return native_error(error)
        fields = {"type": _ERROR_TYPES.get(error.status, "api_error"), "message": error.message}
        body = gojson.dump({"type": "error", "error": fields, "request_id": f"req_{secrets.token_hex(12)}"})
        return (JSON_UTF8, body) if error.at_binding else (JSON, body + b"\n")


def _turns(role: str, content: Any) -> Iterator[Turn]:
    if isinstance(content, str):
        if content:
            yield Turn(role, content)
        return
    for block in content if isinstance(content, list) else ():
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and block.get("text"):
            yield Turn(role, str(block["text"]))
        elif kind == "image":
            source = block.get("source")
            if not isinstance(source, dict) or source.get("type") != "base64":
                given = source.get("type", "") if isinstance(source, dict) else None
                message = f"invalid image source type: {given}. Only base64 images are supported."
                raise ApiError(400, message if given is not None else "invalid image source", at_binding=True)
            if (position := gojson.invalid_base64_at(str(source.get("data", "")))) is not None:
                message = f"invalid base64 image data: illegal base64 data at input byte {position}"
                raise ApiError(400, message, at_binding=True)
            yield Turn(role, "", images=1)
        elif kind == "tool_use":
            yield Turn("assistant", json.dumps(block.get("input")))
        elif kind == "tool_result":
            result = block.get("content")
            yield Turn("tool", result if isinstance(result, str) else json.dumps(result))
        elif kind == "thinking" and block.get("thinking"):
            yield Turn(role, str(block["thinking"]))


def _count_bytes(turns: tuple[Turn, ...], tools: list[dict[str, Any]]) -> int:
    messages = sum(len(turn.role) + len(turn.content.encode()) for turn in turns)
    descriptions = sum(len((tool.get("name") or "") + (tool.get("description") or "")) for tool in tools)
    schemas = sum(len(gojson.dump(tool["input_schema"])) for tool in tools if tool.get("input_schema"))
    return messages + descriptions + schemas


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + gojson.dump({"type": kind, **fields}) + b"\n\n"


def _stop_reason(reason: str, *, has_called: bool) -> str:
    if has_called:
        return "tool_use"
    return {"stop": "end_turn", "length": "max_tokens"}.get(reason, "stop_sequence")


def _usage(finish: Finish | None) -> dict[str, int]:
    input_tokens, output_tokens = (finish.prompt_tokens, finish.output_tokens) if finish else (0, 0)
    return {"input_tokens": input_tokens, "output_tokens": output_tokens}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}
