"""Answers that Ollama really gives, taken from the transcripts, and taken apart for the fuzzers to tamper with."""

from __future__ import annotations

from functools import cache

from meter.answer.framing import NdjsonSplitter, Splitter, SseSplitter
from tests.fuzz.claims import Answered
from tests.meter.wire_corpus import grant_of, transcripts


@cache
def recorded() -> list[Answered]:
    """Every answer of the corpus, with the grant that its request would get."""
    return [
        Answered(one.surface, grant_of(one).stream, False, one.status, one.content_type, one.body)
        for one in transcripts()
    ]


@cache
def frames_of(body: bytes, content_type: str) -> tuple[bytes, ...]:
    """The frames of an answer, terminators included."""
    splitter: Splitter = SseSplitter() if "event-stream" in content_type else NdjsonSplitter()
    return tuple(frame.raw for frame in [*splitter.feed(body), *splitter.flush()])
