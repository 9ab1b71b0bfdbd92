"""OpenAI's `/v1/responses`, as Ollama's converter writes it: named events, each with a running number.

There is no `[DONE]`; the last event is `response.completed`, whose status is "completed" even when the answer was
cut by its length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import JSON, SSE, Dialect, Encoder, Refusal, Said, Timing, bind
from ops.simulator.dialects.gojson import ANY, OPTIONAL_BOOL, OPTIONAL_FLOAT, OPTIONAL_INT, STRING, Array, Struct
from ops.simulator.dialects.openai import image_is_inline, openai_refusal, read_effort
from ops.simulator.generation.events import Delta, Finish, ToolCall
from ops.simulator.generation.request import GenerationRequest, Tool, Turn

_TOOL = Struct(
    "ResponsesTool",
    {"type": STRING, "name": STRING, "description": ANY, "strict": ANY, "parameters": ANY},
)
_REQUEST = Struct(
    "ResponsesRequest",
    {
        "model": STRING,
        "input": ANY,
        "instructions": STRING,
        "max_output_tokens": OPTIONAL_INT,
        "reasoning": Struct("ResponsesReasoning", {"effort": STRING, "summary": STRING}),
        "stream": OPTIONAL_BOOL,
        "temperature": OPTIONAL_FLOAT,
        "top_p": OPTIONAL_FLOAT,
        "text": ANY,
        "tools": Array(_TOOL, "[]openai.ResponsesTool"),
        "truncation": STRING,
    },
)


class _ResponsesEncoder(Encoder):
    def __init__(self, request: GenerationRequest, timing: Timing) -> None:
        super().__init__(request, timing)
        self._number = time.monotonic_ns() // 1000 % 1_000_000
        self._created = int(time.time())
        self._sequence = 0
        self._items: list[dict[str, Any]] = []
        self._said = Said()
        self._opened = False
        self._item = ""

    def piece(self, delta: Delta) -> Iterator[bytes]:
        """The events of one step, with the two that open the answer before the first."""
        yield from self._open()
        if delta.thinking:
            yield from self._think(delta.thinking)
        if delta.content:
            yield from self._say(delta.content)
        if delta.tool_call is not None:
            yield from self._close_item()
            yield from self._call(delta.tool_call)

    def finish(self, finish: Finish) -> Iterator[bytes]:
        """The end of the open item, then `response.completed`."""
        if finish.tail is not None:
            yield from self.piece(finish.tail)
        yield from self._complete(finish)

    def broken(self, message: str) -> Iterator[bytes]:  # noqa: ARG002
        """Nothing at all: the stream just ends."""
        return iter(())

    def whole(self, said: Said, finish: Finish | None) -> bytes:
        """A `response` object."""
        output = []
        if said.thinking:
            output.append(_reasoning(f"rs_resp_{self._number}", said.thinking))
        if said.content or not said.calls:
            output.append(_message(f"msg_{self._number}", said.content))
        output += [_function_call(f"fc_{self._number}_{at}", call) for at, call in enumerate(said.calls)]
        return gojson.dump(self._response(output, finish, status="completed")) + b"\n"

    def idle(self, reason: str) -> tuple[str, list[bytes]]:  # noqa: ARG002
        """An answer without output and with counts of zero."""
        if not self.request.stream:
            return JSON, [self.whole(Said(), None)]
        return SSE, [*self._open(), *self._complete(None)]

    def _open(self) -> Iterator[bytes]:
        if not self._opened:
            self._opened = True
            for name in ("response.created", "response.in_progress"):
                yield self._event(name, response=self._response([], None, status="in_progress"))

    def _complete(self, finish: Finish | None) -> Iterator[bytes]:
        yield from self._open()
        yield from self._close_item()
        yield self._event("response.completed", response=self._response(self._items, finish, status="completed"))

    def _think(self, text: str) -> Iterator[bytes]:
        if self._item != "reasoning":
            yield from self._close_item()
            self._item = "reasoning"
            place = self._place("rs")
            item = {"id": place["item_id"], "summary": [], "type": "reasoning"}
            yield self._event("response.output_item.added", item=item, output_index=place["output_index"])
        self._said.thinking += text
        place = self._place("rs")
        yield self._event("response.reasoning_summary_text.delta", delta=text, summary_index=0, **place)

    def _say(self, text: str) -> Iterator[bytes]:
        if self._item != "message":
            yield from self._close_item()
            self._item = "message"
            place = self._place("msg")
            item = {"content": [], "id": place["item_id"], "role": "assistant", "status": "in_progress"}
            added = {"item": {**item, "type": "message"}, "output_index": place["output_index"]}
            yield self._event("response.output_item.added", **added)
            yield self._event("response.content_part.added", content_index=0, part=_text_part(""), **place)
        self._said.content += text
        place = self._place("msg")
        yield self._event("response.output_text.delta", content_index=0, delta=text, logprobs=[], **place)

    def _close_item(self) -> Iterator[bytes]:
        said, kind = self._said, self._item
        self._said, self._item = Said(), ""
        if kind == "reasoning":
            place = self._place("rs")
            name = "response.reasoning_summary_text.done"
            yield self._event(name, summary_index=0, text=said.thinking, **place)
            yield self._done(_reasoning(place["item_id"], said.thinking))
        elif kind == "message":
            place = self._place("msg")
            text = said.content
            yield self._event("response.output_text.done", content_index=0, logprobs=[], text=text, **place)
            yield self._event("response.content_part.done", content_index=0, part=_text_part(text), **place)
            yield self._done(_message(place["item_id"], text))

    def _call(self, call: ToolCall) -> Iterator[bytes]:
        calls = sum(item["type"] == "function_call" for item in self._items)
        item = _function_call(f"fc_{self._number}_{calls}", call)
        at, place = len(self._items), {"item_id": item["id"], "output_index": len(self._items)}
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", item=begun, output_index=at)
        yield self._event("response.function_call_arguments.delta", delta=item["arguments"], **place)
        yield self._event("response.function_call_arguments.done", arguments=item["arguments"], **place)
        yield self._done(item)

    def _done(self, item: dict[str, Any]) -> bytes:
        self._items.append(item)
        return self._event("response.output_item.done", item=item, output_index=len(self._items) - 1)

    def _place(self, prefix: str) -> dict[str, Any]:
        return {"item_id": f"{prefix}_{self._number + len(self._items)}", "output_index": len(self._items)}

    def _event(self, name: str, **fields: Any) -> bytes:
        data = {**fields, "sequence_number": self._sequence, "type": name}
        self._sequence += 1
        return f"event: {name}\ndata: ".encode() + gojson.dump(data, sort=True) + b"\n\n"

    def _response(self, output: list[dict[str, Any]], finish: Finish | None, *, status: str) -> dict[str, Any]:
        completed = status == "completed"
        asked = self.request.echoed_fields
        return {
            "id": f"resp_{self._number}",
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if completed else None,
            "status": status,
            "incomplete_details": None,
            "model": self.request.model,
            "previous_response_id": None,
            "instructions": asked["instructions"],
            "output": output,
            "error": None,
            "tools": asked["tools"],
            "tool_choice": "auto",
            "truncation": asked["truncation"],
            "parallel_tool_calls": True,
            "text": asked["text"],
            "top_p": asked["top_p"],
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": asked["temperature"],
            "reasoning": asked["reasoning"],
            "usage": _usage(finish) if completed else None,
            "max_output_tokens": asked["max_output_tokens"],
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


class Responses(Dialect):
    """`POST /v1/responses`."""

    encoder = _ResponsesEncoder
    stream_headers = {"Cache-Control": "no-cache"}  # noqa: RUF012 - the base class says it is a class variable

    def read(self, body: bytes) -> GenerationRequest:
        """Raises Refusal."""
        bound = bind(body, _REQUEST)
        limit = bound.get("max_output_tokens")
        instructions = bound.get("instructions") or ""
        system = (Turn("system", instructions),) if instructions else ()
        turns = tuple(_turns(bound.get("input")))
        tools = [tool for tool in bound.get("tools") or () if tool]
        return GenerationRequest(
            endpoint="chat",
            model=bound.get("model") or "",
            turns=(*system, *turns),
            load_only=not turns,
            stream=bool(bound.get("stream")),
            num_predict=-1 if limit is None else limit,
            think=read_effort((bound.get("reasoning") or {}).get("effort")),
            tools=tuple(Tool(tool.get("name") or "", tool.get("parameters")) for tool in tools),
            format=_format(bound.get("text")),
            echoed_fields=_echo(bound, tools),
        )

    def refusal(self, refusal: Refusal) -> tuple[str, bytes]:
        """OpenAI's error object."""
        return openai_refusal(refusal)


def _turns(given: Any) -> Iterator[Turn]:
    if isinstance(given, str):
        if given:
            yield Turn("user", given)
        return
    if not isinstance(given, list):
        if given is not None:
            raise Refusal(400, "input must be a string or array", bound=True)
        return
    for item in given:
        if not isinstance(item, dict):
            raise Refusal(400, "invalid input item", bound=True)
        kind = item.get("type") or "message"
        if kind == "message":
            yield from _parts(str(item.get("role") or "user").lower(), item.get("content"))
        elif kind == "function_call_output":
            yield Turn("tool", str(item.get("output", "")))
        elif kind == "function_call":
            yield Turn("assistant", str(item.get("arguments", "")))
        elif kind != "reasoning":
            raise Refusal(400, f"unknown input item type: {kind}", bound=True)


def _parts(role: str, content: Any) -> Iterator[Turn]:
    if isinstance(content, str):
        yield Turn(role, content)
        return
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_text", "output_text"):
            yield Turn(role, str(part.get("text", "")))
        elif kind == "input_image":
            if not image_is_inline(part.get("image_url")):
                raise Refusal(400, "invalid image input", bound=True)
            yield Turn(role, "", images=1)


def _format(text: Any) -> Any:
    shaped = text.get("format") if isinstance(text, dict) else None
    if not isinstance(shaped, dict):
        return None
    kind = shaped.get("type", "")
    if not isinstance(kind, str):
        raise Refusal(400, "text.format.type must be a string", bound=True)
    return {"json_object": "json", "json_schema": shaped.get("schema") or "json"}.get(kind)


def _echo(bound: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any]:
    shapes = ("type", "name", "description", "strict", "parameters")
    reasoning = bound.get("reasoning")
    return {
        "instructions": bound.get("instructions") or None,
        "tools": [{name: tool.get(name) for name in shapes} for tool in tools],
        "truncation": bound.get("truncation") or "disabled",
        "text": bound.get("text") or {"format": {"type": "text"}},
        "top_p": 1 if bound.get("top_p") is None else bound["top_p"],
        "temperature": 1 if bound.get("temperature") is None else bound["temperature"],
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")} if reasoning else None,
        "max_output_tokens": bound.get("max_output_tokens"),
    }


def _usage(finish: Finish | None) -> dict[str, Any]:
    given, made = (finish.prompt_tokens, finish.output_tokens) if finish else (0, 0)
    return {
        "input_tokens": given,
        "output_tokens": made,
        "total_tokens": given + made,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning(identifier: str, text: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}]
    return {"id": identifier, "type": "reasoning", "summary": summary, "encrypted_content": text}


def _message(identifier: str, text: str) -> dict[str, Any]:
    head = {"id": identifier, "type": "message", "status": "completed", "role": "assistant"}
    return {**head, "content": [_text_part(text)]}


def _function_call(identifier: str, call: ToolCall) -> dict[str, Any]:
    head = {"id": identifier, "type": "function_call", "status": "completed", "call_id": call.id}
    return {**head, "name": call.name, "arguments": gojson.dump(call.arguments).decode()}
