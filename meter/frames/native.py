"""Frames of Ollama's own API: /api/chat, /api/generate, /api/embed, /api/embeddings. Pure.

Shapes: ollama/ollama api/types.go. Every counter there is left out when it is zero.
"""

from __future__ import annotations

from typing import Any

from meter.frames.frame import FrameRead, as_list, as_object, as_text, min_tokens_of, reported, size_of, size_of_calls


def read_chat(document: dict[str, Any], whole: bool) -> FrameRead:
    """A line, or the whole, of a chat: the text is in `message`."""
    return _read_generated(document, as_object(document.get("message")), "content", whole)


def read_generate(document: dict[str, Any], whole: bool) -> FrameRead:
    """A line, or the whole, of a completion: the text is in the frame itself."""
    return _read_generated(document, document, "response", whole)


def _read_generated(document: dict[str, Any], holder: dict[str, Any], field: str, whole: bool) -> FrameRead:
    # The last frame may carry text too, so it is read like any other.
    size_bytes = size_of(holder.get(field), holder.get("thinking")) + size_of_calls(holder.get("tool_calls"))
    done = document.get("done") is True
    usage = reported(document.get("prompt_eval_count"), document.get("eval_count")) if done else None
    # The answer to `_debug_render_only` is one object with `done` false that generates nothing, like a load.
    rendered = "_debug_info" in document
    return FrameRead(
        min_output_tokens=min_tokens_of(size_bytes, as_list(document.get("logprobs")), whole=whole),
        text_bytes=size_bytes,
        usage=usage if usage and (usage.input_tokens or usage.output_tokens) else None,
        terminal=done or rendered,
        finish="load" if rendered else as_text(document.get("done_reason")),
    )


def read_embeddings(document: dict[str, Any], whole: bool) -> FrameRead:  # noqa: ARG001 (embeddings never stream)
    """Vectors; the newer route reports the prompt's tokens, the older one nothing."""
    return FrameRead(usage=reported(document.get("prompt_eval_count"), 0), terminal=True)
