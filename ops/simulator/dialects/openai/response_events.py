"""OpenAI's `/v1/responses`: the answer, as Ollama's converter writes it in named, numbered events.

There is no `[DONE]`. The last event is `response.completed`; its status is "completed" even when the length limit cut
the answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ops.simulator.dialects import gojson
from ops.simulator.dialects.base import Completion, Encoder, Timing
from ops.simulator.dialects.media_types import JSON, SSE
from ops.simulator.generation.events import Delta, Finish, ToolCall
from ops.simulator.generation.request import GenerationRequest


class ResponsesEncoder(Encoder):
    """Writes the output items of a response one after the other."""

    def __init__(self, request: GenerationRequest, timing: Timing) -> None:
        super().__init__(request, timing)
        self._number = time.monotonic_ns() // 1000 % 1_000_000
        self._created = int(time.time())
        self._sequence = 0
        self._started = False
        self._items: list[dict[str, Any]] = []
        self._open_item = ""
        self._open_text = ""

    def encode_delta(self, delta: Delta) -> Iterator[bytes]:
        """The events of one step; the two that start the answer precede the first."""
        yield from self._start()
        if delta.thinking:
            yield from self._add_thinking(delta.thinking)
        if delta.content:
            yield from self._add_content(delta.content)
        if delta.tool_call is not None:
            yield from self._close_item()
            yield from self._add_tool_call(delta.tool_call)

    def encode_finish(self, finish: Finish) -> Iterator[bytes]:
        """The end of the open item, then `response.completed`."""
        if finish.tail is not None:
            yield from self.encode_delta(finish.tail)
        yield from self._complete(finish)

    def encode_failure(self, message: str) -> Iterator[bytes]:  # noqa: ARG002
        """No events: the stream just ends."""
        return iter(())

    def encode_document(self, completion: Completion, finish: Finish | None) -> bytes:
        """A `response` object."""
        output = []
        if completion.thinking:
            output.append(_reasoning(f"rs_resp_{self._number}", completion.thinking))
        if completion.content or not completion.tool_calls:
            output.append(_message(f"msg_{self._number}", completion.content))
        calls = enumerate(completion.tool_calls)
        output += [_function_call(f"fc_{self._number}_{index}", call) for index, call in calls]
        return gojson.dump(self._response(output, finish, status="completed")) + b"\n"

    def encode_load(self, reason: str) -> tuple[str, list[bytes]]:  # noqa: ARG002
        """An answer without output and with counts of zero."""
        if not self.request.stream:
            return JSON, [self.encode_document(Completion(), None)]
        return SSE, [*self._start(), *self._complete(None)]

    def _start(self) -> Iterator[bytes]:
        if not self._started:
            self._started = True
            for name in ("response.created", "response.in_progress"):
                yield self._event(name, response=self._response([], None, status="in_progress"))

    def _complete(self, finish: Finish | None) -> Iterator[bytes]:
        yield from self._start()
        yield from self._close_item()
        yield self._event("response.completed", response=self._response(self._items, finish, status="completed"))

    def _add_thinking(self, text: str) -> Iterator[bytes]:
        if self._open_item != "reasoning":
            yield from self._close_item()
            self._open_item = "reasoning"
            position = self._position("rs")
            item = {"id": position["item_id"], "summary": [], "type": "reasoning"}
            yield self._event("response.output_item.added", item=item, output_index=position["output_index"])
        self._open_text += text
        position = self._position("rs")
        yield self._event("response.reasoning_summary_text.delta", delta=text, summary_index=0, **position)

    def _add_content(self, text: str) -> Iterator[bytes]:
        if self._open_item != "message":
            yield from self._close_item()
            self._open_item = "message"
            position = self._position("msg")
            item = {"content": [], "id": position["item_id"], "role": "assistant", "status": "in_progress"}
            added = {"item": {**item, "type": "message"}, "output_index": position["output_index"]}
            yield self._event("response.output_item.added", **added)
            yield self._event("response.content_part.added", content_index=0, part=_text_part(""), **position)
        self._open_text += text
        position = self._position("msg")
        yield self._event("response.output_text.delta", content_index=0, delta=text, logprobs=[], **position)

    def _close_item(self) -> Iterator[bytes]:
        item, text = self._open_item, self._open_text
        self._open_item, self._open_text = "", ""
        if item == "reasoning":
            position = self._position("rs")
            name = "response.reasoning_summary_text.done"
            yield self._event(name, summary_index=0, text=text, **position)
            yield self._item_done(_reasoning(position["item_id"], text))
        elif item == "message":
            position = self._position("msg")
            yield self._event("response.output_text.done", content_index=0, logprobs=[], text=text, **position)
            yield self._event("response.content_part.done", content_index=0, part=_text_part(text), **position)
            yield self._item_done(_message(position["item_id"], text))

    def _add_tool_call(self, call: ToolCall) -> Iterator[bytes]:
        calls = sum(item["type"] == "function_call" for item in self._items)
        item = _function_call(f"fc_{self._number}_{calls}", call)
        index = len(self._items)
        position = {"item_id": item["id"], "output_index": index}
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", item=begun, output_index=index)
        yield self._event("response.function_call_arguments.delta", delta=item["arguments"], **position)
        yield self._event("response.function_call_arguments.done", arguments=item["arguments"], **position)
        yield self._item_done(item)

    def _item_done(self, item: dict[str, Any]) -> bytes:
        self._items.append(item)
        return self._event("response.output_item.done", item=item, output_index=len(self._items) - 1)

    def _position(self, prefix: str) -> dict[str, Any]:
        return {"item_id": f"{prefix}_{self._number + len(self._items)}", "output_index": len(self._items)}

    def _event(self, name: str, **fields: Any) -> bytes:
        data = {**fields, "sequence_number": self._sequence, "type": name}
        self._sequence += 1
        return f"event: {name}\ndata: ".encode() + gojson.dump(data, sort=True) + b"\n\n"

    def _response(self, output: list[dict[str, Any]], finish: Finish | None, *, status: str) -> dict[str, Any]:
        completed = status == "completed"
        echoed = self.request.echoed_fields
        return {
            "id": f"resp_{self._number}",
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if completed else None,
            "status": status,
            "incomplete_details": None,
            "model": self.request.model,
            "previous_response_id": None,
            "instructions": echoed["instructions"],
            "output": output,
            "error": None,
            "tools": echoed["tools"],
            "tool_choice": "auto",
            "truncation": echoed["truncation"],
            "parallel_tool_calls": True,
            "text": echoed["text"],
            "top_p": echoed["top_p"],
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": echoed["temperature"],
            "reasoning": echoed["reasoning"],
            "usage": _usage(finish) if completed else None,
            "max_output_tokens": echoed["max_output_tokens"],
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


def _usage(finish: Finish | None) -> dict[str, Any]:
    input_tokens, output_tokens = (finish.prompt_tokens, finish.output_tokens) if finish else (0, 0)
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
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
