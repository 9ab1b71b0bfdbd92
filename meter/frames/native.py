"""Frames of Ollama's own API: /api/chat, /api/generate, /api/embed, /api/embeddings. Pure.

Shapes: ollama/ollama api/types.go, which omits every counter that is zero.
"""

from __future__ import annotations

from typing import Any

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
    """One line of a chat, or the whole chat. The text is in `message`."""
    return _read_generated(document, as_object(document.get("message")), "content", whole)


def read_generate(document: dict[str, Any], whole: bool) -> FrameRead:
    """One line of a completion, or the whole completion. The text is in the frame itself."""
    return _read_generated(document, document, "response", whole)


def _read_generated(document: dict[str, Any], holder: dict[str, Any], field: str, whole: bool) -> FrameRead:
    # The last frame can carry text as well, so it is read like any other.
    size_bytes = size_of(holder.get(field), holder.get("thinking")) + size_of_calls(holder.get("tool_calls"))
    done = document.get("done") is True
    usage = reported(document.get("prompt_eval_count"), document.get("eval_count")) if done else None
    # The answer to `_debug_render_only` is one object with `done` false. It generates nothing, like a load.
    rendered = "_debug_info" in document
    return FrameRead(
        min_output_tokens=min_tokens_of(size_bytes, as_list(document.get("logprobs")), whole=whole),
        text_bytes=size_bytes,
        words=words_in(holder.get(field), holder.get("thinking")),
        usage=usage if usage and (usage.input_tokens or usage.output_tokens) else None,
        terminal=done or rendered,
        finish="load" if rendered else as_text(document.get("done_reason")),
    )


def read_embeddings(document: dict[str, Any], whole: bool) -> FrameRead:  # noqa: ARG001 (embeddings never stream)
    """Vectors. /api/embed reports the prompt's tokens, the older /api/embeddings nothing."""
    return FrameRead(usage=reported(document.get("prompt_eval_count"), 0), terminal=True)
