"""Events of /v1/messages. Pure.

Shapes: ollama/ollama anthropic/anthropic.go. The usage in `message_start` is only estimated from the prompt's length
and is not read. The real counts are in `message_delta`. `message_stop` ends the answer.
"""

from __future__ import annotations

from typing import Any

from gateway.values import Usage
from meter.frames.frame import FrameRead, as_list, as_object, as_text, min_tokens_of, reported, size_of, words_in


def read_messages(document: dict[str, Any], whole: bool) -> FrameRead:
    """One event by its `type`, or the whole message."""
    if whole:
        size_bytes = sum(map(_block_bytes, as_list(document.get("content"))))
        finish = as_text(document.get("stop_reason"))
        words = sum(map(_block_words, as_list(document.get("content"))))
        return FrameRead(
            text_bytes=size_bytes, words=words, usage=_usage(document), terminal=finish is not None, finish=finish
        )
    kind = document.get("type")
    if kind == "content_block_start":
        return _text_frame(document.get("content_block"))
    if kind == "content_block_delta":
        return _text_frame(document.get("delta"))
    if kind == "message_delta":
        finish = as_text(as_object(document.get("delta")).get("stop_reason"))
        return FrameRead(usage=_usage(document), finish=finish)
    return FrameRead(terminal=kind == "message_stop")


def _text_frame(block: object) -> FrameRead:
    size_bytes = _block_bytes(block)
    return FrameRead(
        min_output_tokens=min_tokens_of(size_bytes, whole=False), text_bytes=size_bytes, words=_block_words(block)
    )


def _block_words(block: object) -> int:
    fields = as_object(block)
    return words_in(fields.get("text"), fields.get("thinking"))


def _block_bytes(block: object) -> int:
    """The size of the text in a content block or its delta. Signatures and ids are not generated text."""
    fields = as_object(block)
    return size_of(*(fields.get(name) for name in ("text", "thinking", "name", "input", "partial_json")))


def _usage(document: dict[str, Any]) -> Usage | None:
    usage = document.get("usage")
    return reported(usage.get("input_tokens"), usage.get("output_tokens")) if isinstance(usage, dict) else None
