"""Frames of /v1/chat/completions, /v1/completions and /v1/embeddings. Pure.

Shapes: ollama/ollama openai/openai.go. A failure in mid-stream appears only as an empty chunk without the `[DONE]`
that should follow, so a frame is an error only when it carries one.
"""

from __future__ import annotations

from typing import Any

from gateway.values import Usage
from meter.frames.frame import (
    FrameRead,
    as_list,
    as_object,
    as_text,
    min_tokens_of,
    reported,
    size_of,
    size_of_calls,
    words_in,
)


def read_chat(document: dict[str, Any], whole: bool) -> FrameRead:
    """A chunk's `delta`, or the `message` of a whole answer."""
    size_bytes = words = 0
    logprobs: list[object] = []
    for choice in map(as_object, as_list(document.get("choices"))):
        message = as_object(choice.get("message" if whole else "delta"))
        texts = (message.get("content"), message.get("reasoning"), message.get("reasoning_content"))
        size_bytes += size_of(*texts)
        words += words_in(*texts)
        size_bytes += size_of(message.get("refusal")) + size_of_calls(message.get("tool_calls"))
        logprobs += as_list(as_object(choice.get("logprobs")).get("content"))
    return _read(document, size_bytes, words, logprobs, whole)


def read_completions(document: dict[str, Any], whole: bool) -> FrameRead:
    """A chunk or a whole answer: both carry `text`."""
    texts = [as_object(choice).get("text") for choice in as_list(document.get("choices"))]
    return _read(document, size_of(*texts), words_in(*texts), [], whole)


def _read(document: dict[str, Any], size_bytes: int, words: int, logprobs: list[object], whole: bool) -> FrameRead:
    choices = as_list(document.get("choices"))
    usage = _usage(document)
    # /v1/completions puts a report of zeros on every chunk. Only the chunk without choices carries the counts.
    placeholder = usage is not None and not whole and choices and not (usage.input_tokens or usage.output_tokens)
    finishes = (as_text(as_object(choice).get("finish_reason")) for choice in choices)
    # The answer to `_debug_render_only` generates nothing, like a load.
    finish = "load" if "_debug_info" in document else next(filter(None, finishes), None)
    return FrameRead(
        min_output_tokens=min_tokens_of(size_bytes, logprobs, whole=whole),
        text_bytes=size_bytes,
        words=words,
        usage=None if placeholder else usage,
        terminal=whole and finish is not None,
        finish=finish,
        usage_only=usage is not None and not choices and not whole,
    )


def read_embeddings(document: dict[str, Any], whole: bool) -> FrameRead:  # noqa: ARG001 (embeddings never stream)
    """Vectors and the prompt's tokens."""
    return FrameRead(usage=_usage(document), terminal=True)


def _usage(document: dict[str, Any]) -> Usage | None:
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    return reported(usage.get("prompt_tokens"), usage.get("completion_tokens"))
