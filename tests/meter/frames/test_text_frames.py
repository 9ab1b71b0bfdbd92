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


def general(shape: AnswerShape, data: bytes) -> FrameRead | None:
    """What the reader of the surface returns, None for a payload that it does not recognise as an answer."""
    document = load_object(data)
    if document is None or recognition.reports_failure(document):
        return None
    recognised = [recognition.is_answer(shape, document, whole=False, first=first) for first in (False, True)]
    return READERS[shape](document, False) if all(recognised) else None


def frames(surface: Surface, bodies: list[bytes]) -> Iterator[bytes]:
    splitter: Splitter = NdjsonSplitter() if surface.name in ("chat", "generate") else SseSplitter()
    for body in bodies:
        yield from (frame.data for frame in splitter.feed(body))


def recorded(surface: Surface) -> list[bytes]:
    """The payloads of the streams that were recorded."""
    bodies = [each.body for each in transcripts() if each.path == surface.path and each.status == 200]
    for path in sorted(_REAL.glob("*.json")):
        exchange = json.loads(path.read_text())
        if exchange["request"]["path"] == surface.path and exchange["status"] == 200:
            bodies += [text.encode() for _, text in exchange.get("chunks", ())]
    return list(frames(surface, bodies))


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


@pytest.mark.parametrize("name", ["chat", "generate", "v1_chat"])
def test_most_recorded_text_frames_are_read_and_all_that_are_read_have_the_usage_of_the_general_reader(
    name: str,
) -> None:
    shape, found, with_text = BY_NAME[name].answer_shape, 0, 0
    for payload in recorded(BY_NAME[name]):
        expected, read = general(shape, payload), read_text_frame(shape, payload)
        assert read in (None, expected)
        found += read is not None
        with_text += expected is not None and expected.text_bytes > 0 and b"\\" not in payload
    assert found > with_text / 2


@pytest.mark.parametrize("shape", SHAPES)
@given(TEXTS, st.none() | TEXTS, st.booleans())
def test_a_text_frame_has_the_usage_of_the_general_reader(
    shape: AnswerShape, text: str, more: str | None, is_ascii: bool
) -> None:
    encoded = json.dumps(document(shape, text, more), ensure_ascii=is_ascii, separators=(",", ":"))
    payload = encoded.encode("utf-8", "surrogatepass")
    read = read_text_frame(shape, payload)
    assert read in (None, general(shape, payload))
    assert (read is None) == ("\\" in encoded or load_object(payload) is None)


@pytest.mark.parametrize("shape", SHAPES)
@given(TEXTS, st.integers(0, 300), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from([b'","done":true,"x":"']))
def test_a_frame_with_any_other_bytes_is_not_read_or_has_the_usage_of_the_general_reader(
    shape: AnswerShape, text: str, place: int, removed: int, inserted: bytes
) -> None:
    encoded = json.dumps(document(shape, text, None), ensure_ascii=False, separators=(",", ":"))
    payload = encoded.encode("utf-8", "surrogatepass")
    place %= len(payload) + 1
    payload = payload[:place] + inserted + payload[place + removed :]
    assert read_text_frame(shape, payload) in (None, general(shape, payload))


def test_frames_of_other_surfaces_and_failures_are_not_read() -> None:
    payload = json.dumps(document(AnswerShape.NATIVE_CHAT, "a", None), separators=(",", ":")).encode()
    assert read_text_frame(AnswerShape.NATIVE_CHAT, payload) == FrameRead(1, 1, 1)
    assert read_text_frame(AnswerShape.OPENAI_RESPONSES, payload) is None
    for failure in (payload.replace(b'"m"', b'""'), payload.replace(b'"done"', b'"error":"x","done"')):
        assert read_text_frame(AnswerShape.NATIVE_CHAT, failure) is None
