"""The reader of text frames returns what the general reader of the surface would return, or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.surfaces import BY_NAME, AnswerShape, Surface
from meter.answer.framing import NdjsonSplitter, Splitter, SseSplitter
from meter.frames import recognition
from meter.frames.frame import FrameRead
from meter.frames.readers import READERS, load_object
from meter.frames.text_frames import read_text_frame
from tests.meter.wire_corpus import transcripts

_REAL = Path(__file__).parents[2] / "corpus" / "real"
SHAPES = (AnswerShape.NATIVE_CHAT, AnswerShape.NATIVE_GENERATE, AnswerShape.OPENAI_CHAT)
TEXTS = st.text(max_size=12) | st.sampled_from(
    [" word", "\n", "two words", "\u00a0", "\u2028", "é", '"', "\\", "\x7f", "\x85", "\x1f", "漢字 a", "<tag>"]
)


def general(shape: AnswerShape, raw: bytes) -> FrameRead | None:
    """What the reader of the surface returns, None for a frame that is not recognised as an answer."""
    read_document = load_object(payload_of(shape, raw))
    if read_document is None or recognition.reports_failure(read_document):
        return None
    recognised = [recognition.is_answer(shape, read_document, whole=False, first=first) for first in (False, True)]
    return READERS[shape](read_document, False) if all(recognised) else None


def splitter_for(shape: AnswerShape) -> Splitter:
    return SseSplitter() if shape is AnswerShape.OPENAI_CHAT else NdjsonSplitter()


def payload_of(shape: AnswerShape, raw: bytes) -> bytes:
    """The payload of `raw` when it is exactly one frame, else nothing."""
    found = splitter_for(shape).feed(raw)
    return found[0].data if len(found) == 1 and found[0].raw == raw else b""


def recorded(surface: Surface) -> Iterator[bytes]:
    """The frames of the streams that were recorded."""
    bodies = [each.body for each in transcripts() if each.path == surface.path and each.status == 200]
    for path in sorted(_REAL.glob("*.json")):
        exchange = json.loads(path.read_text())
        if exchange["request"]["path"] == surface.path and exchange["status"] == 200:
            bodies += [text.encode() for _, text in exchange.get("chunks", ())]
    for body in bodies:
        yield from (frame.raw for frame in splitter_for(surface.answer_shape).feed(body))


def document(shape: AnswerShape, text: str, more: str | None) -> dict[str, Any]:
    if shape is AnswerShape.OPENAI_CHAT:
        delta = {"role": "assistant", "content": text, **({} if more is None else {"reasoning": more})}
        choices = [{"index": 0, "delta": delta, "finish_reason": None}]
        return {"id": "c-1", "object": "chat.completion.chunk", "created": 1795890208, "model": "m",
                "system_fingerprint": "fp", "choices": choices}  # fmt: skip
    thinking = {} if more is None else {"thinking": more}
    head = {"model": "m", "created_at": "2026-11-28T18:19:24Z"}
    if shape is AnswerShape.NATIVE_CHAT:
        return {**head, "message": {"role": "assistant", "content": text, **thinking}, "done": False}
    return {**head, "response": text, **thinking, "done": False}


def encode(shape: AnswerShape, value: dict[str, Any], *, is_ascii: bool = False) -> bytes:
    """The frame as Ollama writes it, but for the characters that are escaped."""
    encoded = json.dumps(value, ensure_ascii=is_ascii, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return b"data: %b\n\n" % encoded if shape is AnswerShape.OPENAI_CHAT else encoded + b"\n"


@pytest.mark.parametrize("name", ["chat", "generate", "v1_chat"])
def test_the_text_frames_that_were_recorded_are_read_as_the_general_reader_does(name: str) -> None:
    shape, texts, found = BY_NAME[name].answer_shape, 0, 0
    for raw in recorded(BY_NAME[name]):
        expected, read = general(shape, raw), read_text_frame(shape, raw)
        assert read in (None, expected)
        found += read is not None
        texts += expected is not None and expected.text_bytes > 0 and not expected.terminal
    assert found > texts * 0.7


@pytest.mark.parametrize("shape", SHAPES)
@given(TEXTS, st.none() | TEXTS, st.booleans())
def test_a_text_frame_is_read_as_the_general_reader_does(
    shape: AnswerShape, text: str, more: str | None, is_ascii: bool
) -> None:
    raw = encode(shape, document(shape, text, more), is_ascii=is_ascii)
    expected = general(shape, raw)
    assert read_text_frame(shape, raw) == expected
    # UTF-8 has no lone surrogates.
    assert expected is not None or b"\xed" in raw


@pytest.mark.parametrize("shape", SHAPES)
@given(TEXTS, st.integers(0, 300), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from([b'","done":true,"x":"']))
def test_a_frame_with_any_other_bytes_is_not_read_or_as_the_general_reader_does(
    shape: AnswerShape, text: str, place: int, removed: int, inserted: bytes
) -> None:
    raw = encode(shape, document(shape, text, None))
    place %= len(raw) + 1
    raw = raw[:place] + inserted + raw[place + removed :]
    assert read_text_frame(shape, raw) in (None, general(shape, raw))


def test_frames_of_other_surfaces_and_failures_are_not_read() -> None:
    raw = encode(AnswerShape.NATIVE_CHAT, document(AnswerShape.NATIVE_CHAT, "a", None))
    assert read_text_frame(AnswerShape.NATIVE_CHAT, raw) == FrameRead(1, 1, 1)
    assert read_text_frame(AnswerShape.OPENAI_RESPONSES, raw) is None
    for failure in (raw.replace(b'"m"', b'""'), raw.replace(b'"done"', b'"error":"x","done"'), raw + raw, raw[:-1]):
        assert read_text_frame(AnswerShape.NATIVE_CHAT, failure) is None
