"""Recorded answers of Ollama, split into frames that the fuzzers modify."""

from __future__ import annotations

from functools import cache

from meter.answer.framing import NdjsonSplitter, Splitter, SseSplitter
from tests.fuzz.claims import BackendAnswer
from tests.meter.wire_corpus import grant_of, transcripts


@cache
def recorded() -> list[BackendAnswer]:
    """All answers of the transcripts, with the grants that their requests get."""
    return [
        BackendAnswer(one.surface, grant_of(one).stream, False, one.status, one.content_type, one.body)
        for one in transcripts()
    ]


@cache
def frames_of(body: bytes, content_type: str) -> tuple[bytes, ...]:
    """The frames of an answer, terminators included."""
    splitter: Splitter = SseSplitter() if "event-stream" in content_type else NdjsonSplitter()
    return tuple(frame.raw for frame in [*splitter.feed(body), *splitter.flush()])
