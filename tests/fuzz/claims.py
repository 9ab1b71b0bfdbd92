"""Claims about every request body and every answer, which the fuzzers try to break.

Each check raises AssertionError if its claim is broken.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from authz.request import ReadRequest, read_request
from gateway.errors import Code, Denied
from gateway.record.grant import Grant
from gateway.request.generation import OUTPUT_TOKENS_MAX
from gateway.request.json_text import JsonObject
from gateway.request.server_tools import DROPPED_NAME
from gateway.values import Usage
from gateway.wire.surfaces import Dialect, Surface
from meter.answer.answer import Answer
from meter.answer.framing import SseSplitter
from meter.answer.result import AnswerResult
from meter.answer.whole import WHOLE_BYTES_MAX
from meter.rewrite import Rewritten, rewrite
from tests.fuzz.go_json import GoError
from tests.fuzz.ollama_parser import ParsedRequest, identity, parse_request
from tests.meter.wire_corpus import grant_for, received

NUM_PREDICT_MAX = 4096
SINGLE_BYTES_MAX = 256

# The fields that the gateway writes or removes itself.
_GRANTED = {"model", "stream", "stream_options", "options", "max_tokens", "max_completion_tokens", "max_output_tokens"}
_RUNNER = {"keep_alive", "shift", "_debug_render_only"}


def check_request(surface: Surface, body: bytes, *, runner_options: bool = False) -> bool:
    """Checks one body through the strict parser, the rewriter and Ollama's parser. Returns whether it was admitted."""
    try:
        read = read_request(surface, body, "")
    except Denied as refused:
        assert refused.code is Code.INVALID_REQUEST
        assert refused.message.isprintable()
        return False
    _check_original(surface, body, read)
    grant = _grant(surface, read, runner_options=runner_options)
    rewritten = rewrite(body, grant)
    _check_rewritten(surface, rewritten.body, grant)
    again = read_request(surface, rewritten.body, "")
    _check_unchanged(body, rewritten, runner_options=runner_options)
    assert (again.model, again.generation.stream) == (read.model, read.generation.stream)
    assert rewrite(rewritten.body, grant).body == rewritten.body
    return True


def _grant(surface: Surface, read: ReadRequest, *, runner_options: bool) -> Grant:
    cap = min(read.generation.output_tokens or NUM_PREDICT_MAX, NUM_PREDICT_MAX) if surface.cap_field else 0
    return grant_for(
        surface, model=read.model, stream=read.generation.stream, strip_usage=not read.generation.usage,
        runner_options=runner_options, output_cap=cap,
    )  # fmt: skip


def _parsed(surface: Surface, body: bytes) -> ParsedRequest | None:
    try:
        return parse_request(surface, body)
    except GoError:
        return None


def _check_original(surface: Surface, body: bytes, read: ReadRequest) -> None:
    """Checks that the gateway read the client's bytes as Ollama reads them."""
    cap = read.generation.output_tokens
    assert cap is None or 0 < cap <= OUTPUT_TOKENS_MAX
    original = _parsed(surface, body)
    if original is None:
        return
    assert identity(original.model) == identity(read.model)
    assert original.stream is read.generation.stream
    if original.output_cap and original.output_cap <= OUTPUT_TOKENS_MAX:
        assert cap is not None
        assert cap <= original.output_cap
    if original.stream and surface.usage_on_request:
        assert original.include_usage is read.generation.usage


def _check_rewritten(surface: Surface, body: bytes, grant: Grant) -> None:
    """Checks that Ollama reads exactly what was granted in the rewritten body."""
    sent = _parsed(surface, body)
    if sent is None:
        return
    assert sent.model == grant.model
    assert sent.stream is grant.stream
    assert sent.output_cap == grant.output_cap
    assert not sent.searches
    assert sent.include_usage or not (grant.stream and surface.usage_on_request)
    assert grant.runner_options or not sent.runner


def _check_unchanged(body: bytes, sent: Rewritten, *, runner_options: bool) -> None:
    """Checks that all other fields are unchanged: names, order, and the text of every value."""
    ours = _GRANTED | (set() if runner_options else _RUNNER)
    if DROPPED_NAME in sent.dropped_options:
        ours.add("tools")
    before, after = (
        [(member.name, member.value) for member in JsonObject(text.decode()).members if member.name not in ours]
        for text in (body, sent.body)
    )
    assert before == after


@dataclass(frozen=True, slots=True)
class BackendAnswer:
    """An answer of a backend, and the grant of its request."""

    surface: Surface
    stream: bool
    strip_usage: bool
    status: int
    content_type: str
    body: bytes
    output_cap: int = 100


def check_answer(answered: BackendAnswer, cuts: Sequence[int]) -> AnswerResult:
    """Checks one answer, delivered as a whole, cut at `cuts`, and byte by byte, or seven bytes at a time if it is long.

    Returns the result of the answer.
    """
    body = answered.body
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    out, ending = _delivered(answered, [body])
    assert _delivered(answered, [body[start:end] for start, end in pairwise(edges)]) == (out, ending)
    step = 1 if len(body) <= SINGLE_BYTES_MAX else 7
    assert _delivered(answered, [body[at : at + step] for at in range(0, len(body), step)]) == (out, ending)
    _check_usage(answered, ending.usage)
    _check_client(answered, out)
    return ending


def _delivered(answered: BackendAnswer, chunks: list[bytes]) -> tuple[bytes, AnswerResult]:
    surface = answered.surface
    answer = Answer(
        grant_for(
            surface, stream=answered.stream and surface.streams_by_default is not None,
            strip_usage=answered.strip_usage, output_cap=answered.output_cap if surface.cap_field else 0,
        )
    )  # fmt: skip
    assert answer.headers(answered.status, answered.content_type) >= 200
    out = b""
    for chunk, end_of_stream in [*((chunk, False) for chunk in chunks), (b"", True)]:
        out += received(surface, chunk, answer.chunk(chunk, end_of_stream))
        _check_usage(answered, answer.delivered)
        if answer.result:
            break
    assert answer.result
    assert answer.result.usage == answer.delivered
    return out, answer.result


def _check_usage(answered: BackendAnswer, usage: Usage) -> None:
    assert 0 <= usage.output_tokens <= (answered.output_cap if answered.surface.cap_field else 0)
    assert 0 <= usage.input_tokens < 2**53


def _check_client(answered: BackendAnswer, out: bytes) -> None:
    """Checks what the clients rely on.

    ollama-python requires JSON in every line and a string in `error`. All clients require that the usage report is
    present exactly when they requested it.
    """
    surface = answered.surface
    generates = surface.cap_field is not None
    if not 200 <= answered.status < 300:
        _check_error(surface, _loaded(out))
    elif generates and not (answered.stream and surface.streams_by_default is not None):
        if len(answered.body) <= WHOLE_BYTES_MAX:
            _check_error(surface, _loaded(out))
    elif generates and surface.dialect is Dialect.NATIVE:
        for line in _lines(out, answered.content_type):
            _check_error(surface, _loaded(line))
    elif generates and answered.strip_usage and surface.usage_on_request and "json" not in answered.content_type:
        splitter = SseSplitter()
        for frame in splitter.feed(out) + splitter.flush():
            assert not frame.data.startswith(b"{") or "usage" not in _loaded(frame.data)


def _lines(out: bytes, content_type: str) -> list[bytes]:
    """The lines of a stream. One that a backend calls JSON may be one document with line breaks between its tokens."""
    if "ndjson" not in content_type:
        with suppress(ValueError):
            json.loads(out)
            return [out]
    return out.removesuffix(b"\n").split(b"\n")


def _loaded(text: bytes) -> dict[str, Any]:
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


def _check_error(surface: Surface, document: dict[str, Any]) -> None:
    error = document.get("error")
    if error and surface.dialect is Dialect.NATIVE:
        assert isinstance(error, str)
