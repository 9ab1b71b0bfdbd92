"""Reads the commonest frames and whole answers, which carry nothing but text, without a JSON parser. Pure.

Ollama writes their members always in the same order. One regular expression therefore reads a frame in a fraction of
the time that the splitter, the JSON parser and the reader of the surface take. The general reader returns the same for
each frame and each answer that matches. A frame with other members, or with a finish reason, does not match.

Shapes: ollama/ollama api/types.go and openai/openai.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache

from gateway.request.token_estimate import text_bytes
from gateway.wire.surfaces import AnswerShape
from meter.frames.frame import FrameRead, reported, words_in

_CHARACTERS = r'[^"\\\x00-\x1f]*'
_STRING = rf'"{_CHARACTERS}"'
# The text of a model, with escapes.
_TEXT = rf'"({_CHARACTERS}(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}}){_CHARACTERS})*)"'
_NUMBER = r"[1-9][0-9]{0,18}"
# An empty name of a model is a failure of /v1 surfaces.
_MODEL = r'"model":"[^"\\\x00-\x1f]+"'
_NATIVE = rf'\{{{_MODEL},"created_at":{_STRING}'
_ROLE = r'"role":"assistant"'
_CHAT_MESSAGE = rf'"message":\{{{_ROLE},"content":{_TEXT}(?:,"thinking":{_TEXT})?\}}'
_CHUNK = rf'\{{"id":{_STRING},"object":{_STRING},"created":{_NUMBER},{_MODEL},"system_fingerprint":{_STRING}'
_FINISH = r'"([a-z_]+)"'
_DURATIONS = rf'(?:,"(?:total|load|prompt_eval|eval)_duration":{_NUMBER}){{0,4}}'

# The bytes of a frame, terminator included. Each pattern has two groups of text, the second of which may be absent.
_PATTERNS: Mapping[AnswerShape, re.Pattern[str]] = {
    shape: re.compile(pattern)
    for shape, pattern in (
        (
            AnswerShape.NATIVE_CHAT,
            rf'{_NATIVE},{_CHAT_MESSAGE},"done":false\}}\n',
        ),
        (AnswerShape.NATIVE_GENERATE, rf'{_NATIVE},"response":{_TEXT}(?:,"thinking":{_TEXT})?,"done":false\}}\n'),
        (
            AnswerShape.OPENAI_CHAT,
            rf"data: {_CHUNK},"
            rf'"choices":\[\{{"index":0,"delta":\{{(?:{_ROLE},)?"content":{_TEXT}(?:,"reasoning":{_TEXT})?\}},'
            r'"finish_reason":null\}\]\}\n\n',
        ),
    )
}
# A whole answer, perhaps with a line feed. The last three groups are the finish reason and the counts of tokens.
_ANSWERS: Mapping[AnswerShape, re.Pattern[str]] = {
    shape: re.compile(pattern)
    for shape, pattern in (
        (
            AnswerShape.NATIVE_CHAT,
            rf'{_NATIVE},{_CHAT_MESSAGE},"done":true,"done_reason":{_FINISH}{_DURATIONS}'
            rf'(?:,"prompt_eval_count":({_NUMBER}))?{_DURATIONS}(?:,"eval_count":({_NUMBER}))?{_DURATIONS}\}}\n?',
        ),
        (
            AnswerShape.OPENAI_CHAT,
            rf"{_CHUNK},"
            rf'"choices":\[\{{"index":0,"message":\{{{_ROLE},"content":{_TEXT}(?:,"reasoning":{_TEXT})?\}},'
            rf'"finish_reason":{_FINISH}\}}\],"usage":\{{"prompt_tokens":({_NUMBER}),"completion_tokens":({_NUMBER}),'
            rf'"total_tokens":{_NUMBER}\}}\}}\n?',
        ),
    )
}
# The text of most frames is one short word, so few results serve almost all of them.
_RESULTS_MAX = 1024


def read_text_frame(shape: AnswerShape, raw: bytes) -> FrameRead | None:
    """Reads a frame of a stream of `shape`, terminator included, if it is one of the commonest, else returns None."""
    pattern = _PATTERNS.get(shape)
    if pattern is None:
        return None
    try:
        match = pattern.fullmatch(raw.decode())
    except UnicodeDecodeError:
        return None
    if match is None:
        return None
    return _read(*_size(*match.groups()))


def read_text_answer(shape: AnswerShape, body: bytes) -> FrameRead | None:
    """Reads a whole answer of `shape` if it is one of the commonest, else returns None."""
    pattern = _ANSWERS.get(shape)
    if pattern is None:
        return None
    try:
        match = pattern.fullmatch(body.decode())
    except UnicodeDecodeError:
        return None
    if match is None:
        return None
    text, more, finish, input_tokens, output_tokens = match.groups()
    size_bytes, words = _size(text, more)
    usage = reported(int(input_tokens or 0), int(output_tokens or 0))
    return FrameRead(
        text_bytes=size_bytes,
        words=words,
        usage=usage if shape is AnswerShape.OPENAI_CHAT or usage.input_tokens or usage.output_tokens else None,
        terminal=True,
        finish=finish,
    )


def _size(text: str, more: str | None) -> tuple[int, int]:
    """The bytes and the words of one or two texts in JSON, without their quotes."""
    if more is None and text.isascii() and "\\" not in text:
        return len(text), len(text.split())
    texts = [json.loads(f'"{each}"') for each in (text, more or "")]
    return sum(map(text_bytes, texts)), words_in(*texts)


@lru_cache(_RESULTS_MAX)
def _read(size_bytes: int, words: int) -> FrameRead:
    return FrameRead(min_output_tokens=1 if size_bytes else 0, text_bytes=size_bytes, words=words)
