"""The OpenAI-compatible surfaces `/v1/chat/completions` and `/v1/completions`, as Ollama's converters write them.

They know neither `max_completion_tokens` nor `n`, `best_of`, `echo`, `tool_choice`, `logit_bias` or `options`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import (
    JSON,
    JSON_UTF8,
    SSE,
    Dialect,
    Encoder,
    Refusal,
    Said,
    Timing,
    bind,
    log_probabilities,
    native_refusal,
    new_id,
)
from ops.simulator.dialects.gojson import (
    ANY,
    BOOL,
    INT,
    OPTIONAL_BOOL,
    OPTIONAL_FLOAT,
    OPTIONAL_INT,
    STRING,
    Array,
    Kind,
    Struct,
)
from ops.simulator.dialects.native import TOOL
from ops.simulator.generation.events import Delta, Finish, ToolCall
from ops.simulator.generation.request import GenerationRequest, Tool, Turn

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max")
_MESSAGE = Struct(
    "Message",
    {"role": STRING, "content": ANY, "reasoning": STRING, "tool_calls": Array(ANY, "[]openai.ToolCall"),
     "name": STRING, "tool_call_id": STRING},
)  # fmt: skip
_STREAM_OPTIONS = Struct("StreamOptions", {"include_usage": BOOL})
_SHARED: dict[str, Kind] = {
    "model": STRING, "stream": BOOL, "stream_options": _STREAM_OPTIONS, "max_tokens": OPTIONAL_INT,
    "seed": OPTIONAL_INT, "stop": ANY, "temperature": OPTIONAL_FLOAT, "top_p": OPTIONAL_FLOAT,
    "frequency_penalty": OPTIONAL_FLOAT, "presence_penalty": OPTIONAL_FLOAT,
}  # fmt: skip
CHAT = Struct(
    "ChatCompletionRequest",
    {
        **_SHARED,
        "messages": Array(_MESSAGE, "[]openai.Message"),
        "tools": Array(TOOL, "[]api.Tool"),
        "response_format": Struct("ResponseFormat", {"type": STRING, "json_schema": ANY}),
        "reasoning": Struct("Reasoning", {"effort": STRING}),
        "reasoning_effort": STRING,
        "logprobs": OPTIONAL_BOOL,
        "top_logprobs": INT,
    },
)
COMPLETION = Struct("CompletionRequest", {**_SHARED, "prompt": STRING, "suffix": STRING, "logprobs": OPTIONAL_INT})


def openai_refusal(refusal: Refusal) -> tuple[str, bytes]:
    """OpenAI's error object; what Ollama says before its converter runs stays flat."""
    if refusal.flat:
        return native_refusal(refusal)
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(refusal.status, "api_error")
    body = gojson.dump({"error": {"message": refusal.message, "type": kind, "param": None, "code": None}})
    return (JSON_UTF8, body) if refusal.bound else (JSON, body + b"\n")


def usage(finish: Finish | None) -> dict[str, int]:
    """OpenAI's three counts, zeros when nothing was counted."""
    given, made = (finish.prompt_tokens, finish.output_tokens) if finish else (0, 0)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def event(value: Any) -> bytes:
    """One unnamed server-sent event."""
    return b"data: " + gojson.dump(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


class _ChatEncoder(Encoder):
    def __init__(self, request: GenerationRequest, timing: Timing) -> None:
        super().__init__(request, timing)
        self._id = new_id("chatcmpl")
        self._created = int(time.time())
        self._calls = 0
        self._opened = False

    def piece(self, delta: Delta) -> Iterator[bytes]:
        """A chunk; the first one names the role."""
        fields: dict[str, Any] = {} if self._opened else {"role": "assistant"}
        self._opened = True
        fields["content"] = delta.content
        if delta.thinking:
            fields["reasoning"] = delta.thinking
        if delta.tool_call is not None:
            fields["tool_calls"] = [tool_call(self._calls, delta.tool_call)]
            self._calls += 1
        yield self._chunk([self._choice(fields, None, delta.visible_tokens)])

    def finish(self, finish: Finish) -> Iterator[bytes]:
        """The finish chunk, the usage chunk if it was asked for, and `[DONE]`."""
        if finish.tail is not None:
            yield from self.piece(finish.tail)
        yield from self._end("tool_calls" if self._calls else finish.reason, finish)

    def broken(self, message: str) -> Iterator[bytes]:  # noqa: ARG002
        """An empty chunk of no model: the message is lost."""
        yield self._chunk([self._choice({"content": ""}, None)], model="")

    def whole(self, said: Said, finish: Finish | None) -> bytes:
        """A `chat.completion`."""
        reason = None if finish is None else "tool_calls" if said.calls else finish.reason
        return self._document(said, reason, finish)

    def idle(self, reason: str) -> tuple[str, list[bytes]]:
        """No text, no counts, and the reason `load`."""
        if self.request.stream:
            return SSE, list(self._end(reason, None))
        return JSON, [self._document(Said(), reason, None)]

    def _end(self, reason: str, finish: Finish | None) -> Iterator[bytes]:
        yield self._chunk([self._choice({}, reason)])
        if self.request.include_usage:
            yield self._chunk([], usage=usage(finish))
        yield DONE

    def _document(self, said: Said, reason: str | None, finish: Finish | None) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": said.content}
        if said.thinking:
            message["reasoning"] = said.thinking
        if said.calls:
            message["tool_calls"] = [tool_call(at, call) for at, call in enumerate(said.calls)]
        choice = {"index": 0, "message": message, "finish_reason": reason, **self._logprobs(tuple(said.tokens))}
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
        named = self.request.model if model is None else model
        return event({**head, "model": named, "system_fingerprint": "fp_ollama", "choices": choices, **more})


class _CompletionEncoder(Encoder):
    def __init__(self, request: GenerationRequest, timing: Timing) -> None:
        super().__init__(request, timing)
        self._id = new_id("cmpl")
        self._created = int(time.time())

    def piece(self, delta: Delta) -> Iterator[bytes]:
        """A chunk of text; thinking is lost, but its frame is sent."""
        yield self._chunk([self._choice(delta.content, None)])

    def finish(self, finish: Finish) -> Iterator[bytes]:
        """The last text chunk, the usage chunk if it was asked for, and `[DONE]`."""
        yield from self._end(finish.reason, finish)

    def broken(self, message: str) -> Iterator[bytes]:  # noqa: ARG002
        """A blank chunk of no model."""
        yield self._chunk([self._choice("", None)], model="")

    def whole(self, said: Said, finish: Finish | None) -> bytes:
        """A `text_completion`."""
        return self._document(said.content, finish.reason if finish else None, finish)

    def idle(self, reason: str) -> tuple[str, list[bytes]]:
        """No text, no counts, and the reason `load`."""
        if self.request.stream:
            return SSE, list(self._end(reason, None))
        return JSON, [self._document("", reason, None)]

    def _end(self, reason: str, finish: Finish | None) -> Iterator[bytes]:
        yield self._chunk([self._choice("", reason)])
        if self.request.include_usage:
            yield self._chunk([], counts=usage(finish))
        yield DONE

    def _document(self, text: str, reason: str | None, finish: Finish | None) -> bytes:
        head = {"id": self._id, "object": "text_completion", "created": self._created, "model": self.request.model}
        choices = [self._choice(text, reason)]
        return (
            gojson.dump({**head, "system_fingerprint": "fp_ollama", "choices": choices, "usage": usage(finish)}) + b"\n"
        )

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        return {"text": text, "index": 0, "finish_reason": reason}

    def _chunk(
        self, choices: list[dict[str, Any]], model: str | None = None, counts: dict[str, int] | None = None
    ) -> bytes:
        head = {"id": self._id, "object": "text_completion", "created": self._created, "choices": choices}
        named = self.request.model if model is None else model
        # With include_usage every chunk carries counts, and all but the last are zeros.
        shown = {"usage": counts or usage(None)} if self.request.include_usage else {}
        return event({**head, "model": named, "system_fingerprint": "fp_ollama", **shown})


class ChatCompletions(Dialect):
    """`POST /v1/chat/completions`."""

    encoder = _ChatEncoder

    def read(self, body: bytes) -> GenerationRequest:
        """Raises Refusal."""
        bound = bind(body, CHAT)
        messages = [message or {} for message in bound.get("messages") or ()]
        if not messages:
            raise Refusal(400, "[] is too short - 'messages'", bound=True)
        top = bound.get("top_logprobs") or 0
        if not 0 <= top <= 20:
            raise Refusal(400, "top_logprobs must be between 0 and 20", bound=True)
        turns = tuple(turn for message in messages for turn in _turns(message))
        shaped = bound.get("response_format") or {}
        return GenerationRequest(
            endpoint="chat",
            turns=turns,
            load_only=not turns,
            tools=_tools(bound),
            think=_think(bound),
            format={"json_object": "json", "json_schema": _schema(shaped)}.get(shaped.get("type") or ""),
            top_logprobs=top if bound.get("logprobs") else None,
            **_shared(bound),
        )

    def refusal(self, refusal: Refusal) -> tuple[str, bytes]:
        """OpenAI's error object."""
        return openai_refusal(refusal)


class Completions(Dialect):
    """`POST /v1/completions`; the prompt is a string, never a list."""

    encoder = _CompletionEncoder

    def read(self, body: bytes) -> GenerationRequest:
        """Raises Refusal."""
        bound = bind(body, COMPLETION)
        prompt = bound.get("prompt") or ""
        turn = Turn("user", prompt + (bound.get("suffix") or ""))
        return GenerationRequest(endpoint="generate", turns=(turn,), load_only=not prompt, **_shared(bound))

    def refusal(self, refusal: Refusal) -> tuple[str, bytes]:
        """OpenAI's error object."""
        return openai_refusal(refusal)


def tool_call(at: int, call: ToolCall) -> dict[str, Any]:
    """OpenAI's shape of a call, its arguments as a JSON string."""
    function = {"name": call.name, "arguments": gojson.dump(call.arguments).decode()}
    return {"id": call.id, "index": at, "type": "function", "function": function}


def read_effort(effort: str | None) -> bool | None:
    """A reasoning effort as on, off or the model's habit. Raises Refusal for an unknown word."""
    if not effort:
        return None
    if effort not in _EFFORTS:
        raise Refusal(400, f'invalid reasoning value: \'{effort}\' (must be "high", "medium", "low", "max", or "none")')
    return effort != "none"


def read_stop(stop: Any) -> tuple[str, ...]:
    """`stop` as a string or a list of strings; other things are ignored, as Ollama ignores them."""
    if isinstance(stop, str):
        return (stop,)
    return tuple(item for item in stop if isinstance(item, str)) if isinstance(stop, list) else ()


def image_is_inline(part: Any) -> bool:
    """Whether an image part carries its data; Ollama never fetches one."""
    url = part.get("url") if isinstance(part, dict) else part
    return isinstance(url, str) and url.startswith("data:")


def _turns(message: dict[str, Any]) -> Iterator[Turn]:
    role, content = (message.get("role") or "").lower(), message.get("content")
    if isinstance(content, str):
        yield Turn(role, content)
    elif isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                yield Turn(role, str(part.get("text", "")))
            elif kind == "image_url":
                if not image_is_inline(part.get("image_url")):
                    raise Refusal(400, "invalid image input", bound=True)
                yield Turn(role, "", images=1)
            else:
                raise Refusal(400, "invalid message format", bound=True)
    elif message.get("tool_calls") or content is None:
        yield Turn(role, "")
    else:
        raise Refusal(400, f"invalid message content type: {type(content).__name__}", bound=True)


def _tools(bound: dict[str, Any]) -> tuple[Tool, ...]:
    functions = [(tool or {}).get("function") or {} for tool in bound.get("tools") or ()]
    return tuple(Tool(function.get("name") or "", function.get("parameters")) for function in functions)


def _think(bound: dict[str, Any]) -> bool | None:
    effort = (bound.get("reasoning") or {}).get("effort") or bound.get("reasoning_effort")
    return read_effort(effort)


def _schema(shaped: dict[str, Any]) -> Any:
    wrapper = shaped.get("json_schema")
    return wrapper.get("schema") or "json" if isinstance(wrapper, dict) else None


def _shared(bound: dict[str, Any]) -> dict[str, Any]:
    limit = bound.get("max_tokens")
    return {
        "model": bound.get("model") or "",
        "stream": bool(bound.get("stream")),
        "num_predict": -1 if limit is None else limit,
        "seed": bound.get("seed") or 0,
        "stop": read_stop(bound.get("stop")),
        "include_usage": bool((bound.get("stream_options") or {}).get("include_usage")),
    }
