"""Turns the payload of a frame into a FrameRead, by surface. Pure; no payload makes it raise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from gateway.errors import MESSAGE, Code
from gateway.wire.surfaces import AnswerShape, Surface
from meter.frames import anthropic, native, openai, recognition, responses
from meter.frames.frame import FrameRead, as_object, as_text, reported

READERS: dict[AnswerShape, Callable[[dict[str, Any], bool], FrameRead]] = {
    AnswerShape.NATIVE_CHAT: native.read_chat,
    AnswerShape.NATIVE_GENERATE: native.read_generate,
    AnswerShape.NATIVE_EMBED: native.read_embeddings,
    AnswerShape.NATIVE_EMBEDDINGS: native.read_embeddings,
    AnswerShape.OPENAI_CHAT: openai.read_chat,
    AnswerShape.OPENAI_COMPLETIONS: openai.read_completions,
    AnswerShape.OPENAI_EMBEDDINGS: openai.read_embeddings,
    AnswerShape.OPENAI_RESPONSES: responses.read_responses,
    AnswerShape.ANTHROPIC_MESSAGES: anthropic.read_messages,
}

# The payload that ends a stream on surfaces with a `done_marker`.
_DONE = b"[DONE]"

_INPUT_COUNTER = re.compile(rb'"(?:prompt_eval_count|prompt_tokens|input_tokens)"\s*:\s*(\d{1,15})')
_OUTPUT_COUNTER = re.compile(rb'"(?:eval_count|completion_tokens|output_tokens)"\s*:\s*(\d{1,15})')


def read_frame(surface: Surface, data: bytes, *, whole: bool = False, first: bool = False) -> FrameRead:
    """Reads one payload of `surface`; `whole` means that it is the entire body of a 200.

    `first` means that it is the first frame of a stream. A payload that is not recognised counts as text and never
    terminates the answer.
    """
    return parse_frame(surface, data, whole=whole, first=first)[0]


def parse_frame(
    surface: Surface, data: bytes, *, whole: bool = False, first: bool = False
) -> tuple[FrameRead, dict[str, Any] | None]:
    """Like `read_frame`; also returns the JSON object in the payload, so that it is parsed once."""
    if not data:
        return FrameRead(), None
    if surface.done_marker and data.strip() == _DONE and not (whole or first):
        return FrameRead(terminal=True), None
    document = load_object(data)
    if document is None:
        return _unreadable(data, whole), None
    if recognition.reports_failure(document):
        return FrameRead(error=_error_text(document.get("error"))), document
    read = READERS[surface.answer_shape](document, whole)
    if read.error is None and not recognition.is_answer(surface.answer_shape, document, whole=whole, first=first):
        return _unreadable(data, whole), document
    return read, document


def read_tail(tail: bytes, body_bytes: int) -> FrameRead:
    """Reads a body of `body_bytes` that was too long to hold, from its last bytes, where the counters are.

    A quoted name right before a colon is a key, never part of a text, where the quotes would be escaped.
    """
    inputs, outputs = _INPUT_COUNTER.findall(tail), _OUTPUT_COUNTER.findall(tail)
    usage = reported(int(inputs[-1]) if inputs else 0, int(outputs[-1]) if outputs else 0)
    return FrameRead(text_bytes=body_bytes, usage=usage, terminal=tail.rstrip().endswith(b"}"))


def load_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in `data`, or None when `data` is not one."""
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _error_text(error: object) -> str:
    return as_text(error) or as_text(as_object(error).get("message")) or MESSAGE[Code.BACKEND_ERROR]


def _unreadable(data: bytes, whole: bool) -> FrameRead:
    return FrameRead(min_output_tokens=0 if whole else 1, text_bytes=len(data), unreadable=True)
