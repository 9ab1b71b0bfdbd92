"""OpenAI's `/v1/chat/completions`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import Completion, Dialect, Encoder, Timing
from ops.simulator.dialects.errors import ApiError
from ops.simulator.dialects.gojson import ANY, INT, OPTIONAL_BOOL, STRING, Array, Struct
from ops.simulator.dialects.log_probabilities import log_probabilities
from ops.simulator.dialects.media_types import JSON, SSE
from ops.simulator.dialects.native import TOOL
from ops.simulator.dialects.openai.common import (
    COMMON_FIELDS,
    DONE,
    check_image,
    encode_openai_error,
    event,
    new_id,
    read_common,
    read_effort,
    tool_call,
    usage,
)
from ops.simulator.dialects.parameters import bind, read_functions
from ops.simulator.generation.events import Delta, Finish
from ops.simulator.generation.request import GenerationRequest, Tool, Turn

_MESSAGE = Struct(
    "Message",
    {"role": STRING, "content": ANY, "reasoning": STRING, "tool_calls": Array(ANY, "[]openai.ToolCall"),
     "name": STRING, "tool_call_id": STRING},
)  # fmt: skip
CHAT = Struct(
    "ChatCompletionRequest",
    {
        **COMMON_FIELDS,
        "messages": Array(_MESSAGE, "[]openai.Message"),
        "tools": Array(TOOL, "[]api.Tool"),
        "response_format": Struct("ResponseFormat", {"type": STRING, "json_schema": ANY}),
        "reasoning": Struct("Reasoning", {"effort": STRING}),
        "reasoning_effort": STRING,
        "logprobs": OPTIONAL_BOOL,
        "top_logprobs": INT,
    },
)


class _ChatEncoder(Encoder):
    def __init__(self, request: GenerationRequest, timing: Timing) -> None:
        super().__init__(request, timing)
        self._id = new_id("chatcmpl")
        self._created = int(time.time())
        self._tool_calls = 0
        self._started = False

    def encode_delta(self, delta: Delta) -> Iterator[bytes]:
        """A chunk; the first one names the role."""
        fields: dict[str, Any] = {} if self._started else {"role": "assistant"}
        self._started = True
        fields["content"] = delta.content
        if delta.thinking:
            fields["reasoning"] = delta.thinking
        if delta.tool_call is not None:
            fields["tool_calls"] = [tool_call(self._tool_calls, delta.tool_call)]
            self._tool_calls += 1
        yield self._chunk([self._choice(fields, None, delta.visible_tokens)])

    def encode_finish(self, finish: Finish) -> Iterator[bytes]:
        """One frame with the finish chunk, the usage chunk if it is requested, and `[DONE]`."""
        tail = b"".join(self.encode_delta(finish.tail)) if finish.tail is not None else b""
        yield tail + self._end("tool_calls" if self._tool_calls else finish.reason, finish)

    def encode_failure(self, message: str) -> Iterator[bytes]:  # noqa: ARG002
        """An empty chunk with an empty model name. The message is lost."""
        yield self._chunk([self._choice({"content": ""}, None)], model="")

    def encode_document(self, completion: Completion, finish: Finish | None) -> bytes:
        """A `chat.completion`."""
        reason = None if finish is None else "tool_calls" if completion.tool_calls else finish.reason
        return self._chat_completion(completion, reason, finish)

    def encode_load(self, reason: str) -> tuple[str, list[bytes]]:
        """No text, counts of zero, and the reason `load` or `unload`."""
        if self.request.stream:
            return SSE, [self._end(reason, None)]
        return JSON, [self._chat_completion(Completion(), reason, None)]

    def _end(self, reason: str, finish: Finish | None) -> bytes:
        counts = self._chunk([], usage=usage(finish)) if self.request.include_usage else b""
        return self._chunk([self._choice({}, reason)]) + counts + DONE

    def _chat_completion(self, completion: Completion, reason: str | None, finish: Finish | None) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": completion.content}
        if completion.thinking:
            message["reasoning"] = completion.thinking
        if completion.tool_calls:
            message["tool_calls"] = [tool_call(index, call) for index, call in enumerate(completion.tool_calls)]
        log_probs = self._logprobs(tuple(completion.tokens))
        choice = {"index": 0, "message": message, "finish_reason": reason, **log_probs}
        head = {"id": self._id, "object": "chat.completion", "created": self._created, "model": self.request.model}
        body = {**head, "system_fingerprint": "fp_ollama", "choices": [choice], "usage": usage(finish)}
        return gojson.dump(body) + b"\n"

    def _choice(self, delta: dict[str, Any], reason: str | None, tokens: tuple[str, ...] = ()) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "finish_reason": reason, **self._logprobs(tokens)}

    def _logprobs(self, tokens: tuple[str, ...]) -> dict[str, Any]:
        if self.request.top_logprobs is None or not tokens:
            return {}
        return {"logprobs": {"content": log_probabilities(tokens, self.request.top_logprobs)}}

    def _chunk(self, choices: list[dict[str, Any]], model: str | None = None, **more: Any) -> bytes:
        head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created}
        model = self.request.model if model is None else model
        return event({**head, "model": model, "system_fingerprint": "fp_ollama", "choices": choices, **more})


class ChatCompletions(Dialect):
    """`POST /v1/chat/completions`."""

    encoder = _ChatEncoder

    def read(self, body: bytes) -> GenerationRequest:
        """Raises ApiError."""
        fields = bind(body, CHAT)
        messages = [message or {} for message in fields.get("messages") or ()]
        if not messages:
            raise ApiError(400, "[] is too short - 'messages'", at_binding=True)
        top_logprobs = fields.get("top_logprobs") or 0
        if not 0 <= top_logprobs <= 20:
            raise ApiError(400, "top_logprobs must be between 0 and 20", at_binding=True)
        turns = tuple(turn for message in messages for turn in _turns(message))
        response_format = fields.get("response_format") or {}
        formats = {"json_object": "json", "json_schema": _schema(response_format)}
        functions = read_functions(fields.get("tools"))
        effort = (fields.get("reasoning") or {}).get("effort") or fields.get("reasoning_effort")
        return GenerationRequest(
            endpoint="chat",
            turns=turns,
            load_only=not turns,
            tools=tuple(Tool(function.get("name") or "", function.get("parameters")) for function in functions),
            think=read_effort(effort),
            format=formats.get(response_format.get("type") or ""),
            top_logprobs=top_logprobs if fields.get("logprobs") else None,
            **read_common(fields),
        )

    def encode_error(self, error: ApiError) -> tuple[str, bytes]:
        """OpenAI's error object."""
        return encode_openai_error(error)


def _turns(message: dict[str, Any]) -> Iterator[Turn]:
    role, content = (message.get("role") or "").lower(), message.get("content")
    _check_tool_calls(message.get("tool_calls") or ())
    if isinstance(content, str):
        yield Turn(role, content)
    elif isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                yield Turn(role, str(part.get("text", "")))
            elif kind == "image_url":
                check_image(part.get("image_url"))
                yield Turn(role, "", images=1)
            else:
                raise ApiError(400, "invalid message format", at_binding=True)
    elif message.get("tool_calls") or content is None:
        yield Turn(role, "")
    else:
        raise ApiError(400, f"invalid message content type: {type(content).__name__}", at_binding=True)


def _check_tool_calls(calls: Iterable[Any]) -> None:
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else ""
        try:
            is_object = isinstance(json.loads(arguments if isinstance(arguments, str) else ""), dict)
        except ValueError:
            is_object = False
        if not is_object:
            raise ApiError(400, "invalid tool call arguments", at_binding=True)


def _schema(response_format: dict[str, Any]) -> Any:
    wrapper = response_format.get("json_schema")
    return wrapper.get("schema") or "json" if isinstance(wrapper, dict) else None
