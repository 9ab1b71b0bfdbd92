"""Events of /v1/responses. Pure.

Shapes: ollama/ollama openai/responses.go. There is no `[DONE]`: `response.completed` is the last event. The `.done`
events and the final object repeat the text of the deltas, so only deltas count.
"""

from __future__ import annotations

from typing import Any

from gateway.values import Usage
from meter.frames.frame import FrameRead, as_list, as_object, as_text, min_tokens_of, reported, size_of, words_in


def read_responses(document: dict[str, Any], whole: bool) -> FrameRead:
    """One event by its `type`, or the whole `response` object."""
    if whole:
        size_bytes = sum(map(_item_bytes, as_list(document.get("output"))))
        finish = as_text(document.get("status"))
        words = sum(words_in(*_texts(item)) for item in as_list(document.get("output")))
        return FrameRead(
            text_bytes=size_bytes, words=words, usage=_usage(document), terminal=finish is not None, finish=finish
        )
    kind = as_text(document.get("type")) or ""
    response = as_object(document.get("response"))
    if kind.endswith(".delta"):
        size_bytes = size_of(document.get("delta"))
        logprobs = as_list(document.get("logprobs"))
        return FrameRead(
            min_output_tokens=min_tokens_of(size_bytes, logprobs, whole=False),
            text_bytes=size_bytes,
            words=words_in(document.get("delta")) if kind.endswith("text.delta") else 0,
        )
    if kind == "response.output_item.added":
        size_bytes = size_of(as_object(document.get("item")).get("name"))
        return FrameRead(min_output_tokens=min_tokens_of(size_bytes, whole=False), text_bytes=size_bytes)
    if kind in ("response.completed", "response.incomplete"):
        return FrameRead(usage=_usage(response), terminal=True, finish=as_text(response.get("status")))
    if kind == "response.failed":
        message = as_text(as_object(response.get("error")).get("message"))
        return FrameRead(usage=_usage(response), error=message or "the response failed")
    if kind == "error":
        return FrameRead(error=as_text(document.get("message")) or "the response failed")
    return FrameRead()


def _item_bytes(item: object) -> int:
    """The size of the text in one output item: a message, a reasoning summary or a function call."""
    fields = as_object(item)
    return size_of(*_texts(item), fields.get("name"), fields.get("arguments"))


def _texts(item: object) -> list[object]:
    fields = as_object(item)
    parts = as_list(fields.get("content")) + as_list(fields.get("summary"))
    return [as_object(part).get("text") for part in parts]


def _usage(response: dict[str, Any]) -> Usage | None:
    usage = response.get("usage")
    return reported(usage.get("input_tokens"), usage.get("output_tokens")) if isinstance(usage, dict) else None
