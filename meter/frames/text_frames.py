"""Reads the commonest frames of a stream, which carry nothing but text, without a JSON parser. Pure.

Ollama writes the members of these frames always in the same order. One regular expression therefore reads a frame in a
fraction of the time that the splitter, the JSON parser and the reader of the surface take. The general reader returns
the same for each frame that matches. A frame with other members, or with a finish reason, does not match.

Shapes: ollama/ollama api/types.go and openai/openai.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache

from gateway.request.token_estimate import text_bytes
from gateway.wire.surfaces import AnswerShape
from meter.frames.frame import FrameRead, words_in

_CHARACTERS = r'[^"\\\x00-\x1f]*'
_STRING = rf'"{_CHARACTERS}"'
# The text of a model, with escapes.
_TEXT = rf'"({_CHARACTERS}(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}}){_CHARACTERS})*)"'
_NUMBER = r"[1-9][0-9]{0,18}"
# An empty name of a model is a failure of /v1 surfaces.
_MODEL = r'"model":"[^"\\\x00-\x1f]+"'
_NATIVE = rf'\{{{_MODEL},"created_at":{_STRING}'
_ROLE = r'"role":"assistant"'

# The bytes of a frame, terminator included. Each pattern has two groups of text, the second of which may be absent.
_PATTERNS: Mapping[AnswerShape, re.Pattern[str]] = {
    shape: re.compile(pattern)
    for shape, pattern in (
        (
            AnswerShape.NATIVE_CHAT,
            rf'{_NATIVE},"message":\{{{_ROLE},"content":{_TEXT}(?:,"thinking":{_TEXT})?\}},"done":false\}}\n',
        ),
        (AnswerShape.NATIVE_GENERATE, rf'{_NATIVE},"response":{_TEXT}(?:,"thinking":{_TEXT})?,"done":false\}}\n'),
        (
            AnswerShape.OPENAI_CHAT,
            rf'data: \{{"id":{_STRING},"object":{_STRING},"created":{_NUMBER},{_MODEL},"system_fingerprint":{_STRING},'
            rf'"choices":\[\{{"index":0,"delta":\{{(?:{_ROLE},)?"content":{_TEXT}(?:,"reasoning":{_TEXT})?\}},'
            r'"finish_reason":null\}\]\}\n\n',
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
    text, more = match.groups()
    if more is None and text.isascii() and "\\" not in text:
        return _read(len(text), len(text.split()))
    texts = [json.loads(f'"{each}"') for each in (text, more or "")]
    return _read(sum(map(text_bytes, texts)), words_in(*texts))


@lru_cache(_RESULTS_MAX)
def _read(size_bytes: int, words: int) -> FrameRead:
    return FrameRead(min_output_tokens=1 if size_bytes else 0, text_bytes=size_bytes, words=words)
