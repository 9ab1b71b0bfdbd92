"""The readers of text frames and text answers return what the general reader would return, or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.surfaces import BY_NAME, SURFACES, AnswerShape, Surface
from meter.answer.framing import NdjsonSplitter, Splitter, SseSplitter
from meter.frames import recognition
from meter.frames.frame import FrameRead
from meter.frames.readers import READERS, load_object, read_frame
from meter.frames.text_frames import read_text_answer, read_text_frame
from tests.meter.wire_corpus import transcripts

_REAL = Path(__file__).parents[2] / "corpus" / "real"
SHAPES = (AnswerShape.NATIVE_CHAT, AnswerShape.NATIVE_GENERATE, AnswerShape.OPENAI_CHAT)
WHOLE_SHAPES = (AnswerShape.NATIVE_CHAT, AnswerShape.OPENAI_CHAT)
COUNTS = st.none() | st.integers(1, 10**18) | st.sampled_from([2**24, 2**24 + 1])
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


def general_answer(shape: AnswerShape, body: bytes) -> FrameRead | None:
    """What the general reader returns for a whole answer, None for one that is not recognised."""
    read = read_frame(next(each for each in SURFACES if each.answer_shape is shape), body, whole=True)
    return None if read.unreadable or read.error is not None else read


def answer(shape: AnswerShape, text: str, more: str | None, counts: tuple[int | None, int | None]) -> dict[str, Any]:
    """A whole answer. Ollama's own API leaves out a count of zero."""
    if shape is AnswerShape.OPENAI_CHAT:
        message = {"role": "assistant", "content": text, **({} if more is None else {"reasoning": more})}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        usage = dict(zip(("prompt_tokens", "completion_tokens"), (each or 1 for each in counts), strict=True))
        return {"id": "c-1", "object": "chat.completion", "created": 1795890208, "model": "m",
                "system_fingerprint": "fp", "choices": choices, "usage": {**usage, "total_tokens": 7}}  # fmt: skip
    named = zip(("prompt_eval_count", "eval_count"), counts, strict=True)
    counted = {name: count for name, count in named if count is not None}
    head = {**document(shape, text, more), "done": True, "done_reason": "length", "total_duration": 12}
    return {**head, **counted, "eval_duration": 5}


def encode_answer(value: dict[str, Any], *, is_ascii: bool = False) -> bytes:
    return json.dumps(value, ensure_ascii=is_ascii, separators=(",", ":")).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("name", ["chat", "v1_chat"])
def test_the_text_answers_that_were_recorded_are_read_as_the_general_reader_does(name: str) -> None:
    surface, found = BY_NAME[name], 0
    bodies = [each.body for each in transcripts() if each.path == surface.path and each.status == 200]
    for path in sorted(_REAL.glob("*.json")):
        exchange = json.loads(path.read_text())
        if exchange["request"]["path"] == surface.path and exchange["status"] == 200:
            bodies.append("".join(text for _, text in exchange.get("chunks", ())).encode())
    for body in bodies:
        read = read_text_answer(surface.answer_shape, body)
        assert read in (None, general_answer(surface.answer_shape, body))
        found += read is not None
    assert found >= 2


@pytest.mark.parametrize("shape", WHOLE_SHAPES)
@given(TEXTS, st.none() | TEXTS, st.tuples(COUNTS, COUNTS), st.booleans(), st.sampled_from([b"", b"\n"]))
def test_a_text_answer_is_read_as_the_general_reader_does(
    shape: AnswerShape, text: str, more: str | None, counts: tuple[int | None, int | None], is_ascii: bool, end: bytes
) -> None:
    body = encode_answer(answer(shape, text, more, counts), is_ascii=is_ascii) + end
    expected = general_answer(shape, body)
    assert read_text_answer(shape, body) == expected
    # UTF-8 has no lone surrogates.
    assert expected is not None or b"\xed" in body


@pytest.mark.parametrize("shape", WHOLE_SHAPES)
@given(TEXTS, st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from([b',"eval_count":3']))
def test_an_answer_with_any_other_bytes_is_not_read_or_as_the_general_reader_does(
    shape: AnswerShape, text: str, place: int, removed: int, inserted: bytes
) -> None:
    body = encode_answer(answer(shape, text, None, (3, 4)))
    place %= len(body) + 1
    body = body[:place] + inserted + body[place + removed :]
    assert read_text_answer(shape, body) in (None, general_answer(shape, body))
