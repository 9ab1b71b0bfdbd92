from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import MESSAGE, Code, Denied, upstream_code
from gateway.values import Outcome, Usage, UsageSource
from gateway.wire.dialects import error_body, error_frame
from gateway.wire.surfaces import BY_NAME, SURFACES, Dialect
from meter.answer.answer import Answer
from meter.answer.framing import FRAME_BYTES_MAX, NdjsonSplitter, Splitter, SseSplitter
from meter.answer.result import AnswerResult
from meter.answer.stream import ENDLESS, INCOMPLETE, OVER_CAP, TOO_LONG, UNREADABLE
from meter.answer.whole import WHOLE_BYTES_MAX
from meter.frames.readers import read_frame
from tests.meter.wire_corpus import (
    Transcript,
    failure_after,
    grant_for,
    grant_of,
    received,
    transcript,
    transcripts,
)

EXACT, COUNTED, ESTIMATED, NONE = UsageSource.EXACT, UsageSource.COUNTED, UsageSource.ESTIMATED, UsageSource.NONE
CORPUS = transcripts()
STREAMS = [exchange for exchange in CORPUS if "_stream" in exchange.name and exchange.status == 200]
BROKEN = [exchange for exchange in STREAMS if re.search("error|limit", exchange.name)]
GOOD = [exchange for exchange in CORPUS if exchange.status == 200 and not re.search("error|limit", exchange.name)]


def by_name(exchange: Transcript) -> str:
    return exchange.name


def play(answer: Answer, status: int, content_type: str, chunks: list[bytes], *, ends: bool = True) -> bytes:
    """What the caller gets of these chunks; a real end of stream is a last chunk of no bytes."""
    answer.headers(status, content_type)
    out = b""
    for chunk, end_of_stream in [*((chunk, False) for chunk in chunks), *([(b"", True)] if ends else [])]:
        out += received(answer.surface, chunk, answer.chunk(chunk, end_of_stream))
        if answer.result:
            break
    return out


def replay(exchange: Transcript, chunks: list[bytes] | None = None, **grant: Any) -> tuple[bytes, AnswerResult]:
    answer = Answer(grant_of(exchange, **grant))
    out = play(answer, exchange.status, exchange.content_type, [exchange.body] if chunks is None else chunks)
    return out, result_of(answer)


def result_of(answer: Answer) -> AnswerResult:
    """The result that the answer's own chunks have made."""
    assert answer.result
    return answer.result


def bytewise(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    """The chunks of a body that is cut at these places; two equal places leave an empty chunk between them."""
    return [body[start:end] for start, end in pairwise([0, *sorted(places), len(body)])]


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("exchange", CORPUS, ids=by_name)
def test_an_answer_in_single_bytes_or_cut_around_the_end_of_a_line_is_passed_and_paid_as_in_one_piece(
    exchange: Transcript, strip: bool
) -> None:
    body = exchange.body
    expected = replay(exchange, strip_usage=strip)
    assert replay(exchange, bytewise(body), strip_usage=strip) == expected
    # A frame ends where a line ends, and the events of some surfaces have several lines.
    line_ends = accumulate(map(len, body.splitlines(keepends=True)), initial=0)
    places = {end + step for end in line_ends for step in (-1, 0, 1)}
    for place in sorted(places.intersection(range(len(body) + 1))):
        assert replay(exchange, cut(body, [place]), strip_usage=strip) == expected, place


@pytest.mark.parametrize(
    "name",
    [
        "api_chat_stream", "v1_chat_stream_include_usage", "v1_messages_stream", "v1_chat_stream_error_midstream",
        "v1_chat_nonstream", "api_embed", "v1_chat_error_404",
    ],
)  # fmt: skip
def test_one_answer_of_each_kind_is_passed_and_paid_as_in_one_piece_wherever_it_is_cut(name: str) -> None:
    exchange = transcript(name)
    expected = replay(exchange, strip_usage=True)
    for place in range(1, len(exchange.body)):
        assert replay(exchange, cut(exchange.body, [place]), strip_usage=True) == expected, place


@settings(max_examples=500)
@given(st.sampled_from(CORPUS), st.booleans(), st.data())
def test_wherever_an_answer_is_cut_the_caller_gets_the_same_and_pays_the_same(
    exchange: Transcript, strip: bool, data: st.DataObject
) -> None:
    places = data.draw(st.lists(st.integers(0, len(exchange.body)), min_size=1, max_size=6), label="cut at")
    chunks = cut(exchange.body, places)
    assert replay(exchange, chunks, strip_usage=strip) == replay(exchange, strip_usage=strip)


@pytest.mark.parametrize("exchange", CORPUS, ids=by_name)
def test_an_answer_whose_last_bytes_end_its_stream_is_passed_and_paid_as_one_that_ends_later(
    exchange: Transcript,
) -> None:
    answer = Answer(grant_of(exchange))
    answer.headers(exchange.status, exchange.content_type)
    out = received(answer.surface, exchange.body, answer.chunk(exchange.body, True))
    assert (out, result_of(answer)) == replay(exchange)


@pytest.mark.parametrize("exchange", GOOD, ids=by_name)
def test_a_good_answer_passes_unchanged_and_is_complete(exchange: Transcript) -> None:
    out, ending = replay(exchange)
    assert out == exchange.body
    assert (ending.outcome, ending.code) == (Outcome.COMPLETE, None)


def without_failure(exchange: Transcript) -> tuple[bytes, str | None]:
    """The frames before the one that reports a failure, and its text."""
    splitter: Splitter = SseSplitter() if "event-stream" in exchange.content_type else NdjsonSplitter()
    passed = b""
    for frame in [*splitter.feed(exchange.body), *splitter.flush()]:
        if (error := read_frame(exchange.surface, frame.data).error) is not None:
            return passed, error
        passed += frame.raw
    return passed, None


@pytest.mark.parametrize("exchange", BROKEN, ids=by_name)
def test_a_broken_stream_ends_with_one_error_in_its_dialect_and_its_frames_are_counted(exchange: Transcript) -> None:
    out, ending = replay(exchange)
    passed, error = without_failure(exchange)
    assert out == passed + failure_after(exchange.surface, passed, error or INCOMPLETE)
    assert ending == AnswerResult(Outcome.UPSTREAM_ERROR, Code.BACKEND_ERROR, Usage(11, 3, COUNTED))


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("api_chat_stream", Usage(26, 4, EXACT)),
        ("api_chat_stream_tools_on_done_frame", Usage(26, 4, EXACT)),
        ("api_chat_load", Usage(0, 0, EXACT)),
        ("api_generate_unload", Usage(0, 0, EXACT)),
        ("api_chat_nonstream_no_usage_repeat_limit", Usage(11, 4, ESTIMATED)),
        ("api_embed", Usage(8, 0, EXACT)),
        ("api_embeddings_legacy", Usage(11, 0, ESTIMATED)),
        ("v1_chat_stream_include_usage", Usage(26, 4, EXACT)),
        ("v1_chat_stream_no_usage", Usage(11, 3, COUNTED)),
        ("v1_chat_nonstream_zero_usage_repeat_limit", Usage(11, 4, ESTIMATED)),
        ("v1_chat_load_via_empty_content_array", Usage(0, 0, EXACT)),
        ("v1_completions_stream_include_usage", Usage(26, 4, EXACT)),
        ("v1_embeddings_float", Usage(8, 0, EXACT)),
        ("v1_responses_stream", Usage(26, 4, EXACT)),
        ("v1_messages_stream", Usage(26, 4, EXACT)),
        ("v1_chat_error_503", Usage(0, 0, NONE)),
    ],
)
def test_each_kind_of_answer_has_its_usage(name: str, usage: Usage) -> None:
    assert replay(transcript(name))[1].usage == usage


def neutral(stream: bytes) -> bytes:
    """The stream with the parts that differ from one request to the next made equal."""
    return re.sub(rb'"id":"(?:chat)?cmpl-\d+"|"created":\d+', b"", stream)


def events(stream: bytes) -> list[object]:
    payloads = [event.removeprefix(b"data: ") for event in neutral(stream).split(b"\n\n") if event]
    return [payload if payload == b"[DONE]" else payload.replace(b"{,", b"{") for payload in payloads]


@pytest.mark.parametrize(
    ("injected", "plain"),
    [
        ("v1_chat_stream_include_usage", "v1_chat_stream_no_usage"),
        ("v1_completions_stream_include_usage", "v1_completions_stream"),
    ],
)
def test_stripping_gives_byte_for_byte_the_stream_of_a_request_without_usage(injected: str, plain: str) -> None:
    out, ending = replay(transcript(injected), strip_usage=True)
    assert events(out) == events(transcript(plain).body)
    assert neutral(out) == neutral(transcript(plain).body)
    assert ending == AnswerResult(Outcome.COMPLETE, None, Usage(26, 4, EXACT))


@pytest.mark.parametrize("text", ["usage", '"usage": 5'])
def test_stripping_leaves_the_word_usage_in_a_text_alone(text: str) -> None:
    chunk = json.dumps({"choices": [{"delta": {"content": text}}]}).encode()
    stream = b"data: " + chunk + b"\n\ndata: [DONE]\n\n"
    answer = Answer(grant_for(BY_NAME["v1_chat"], stream=True, strip_usage=True))
    assert play(answer, 200, "text/event-stream", [stream]) == stream


def test_a_stream_of_responses_that_breaks_off_ends_with_response_failed_and_the_next_sequence_number() -> None:
    exchange = transcript("v1_responses_stream_no_completed_repeat_limit")
    out, _ = replay(exchange)
    name, data = out.removeprefix(exchange.body).split(b"\n", 1)
    event = json.loads(data.removeprefix(b"data: "))
    numbers = [int(number) for number in re.findall(rb'"sequence_number":(\d+)', exchange.body)]
    assert (name, event["type"]) == (b"event: response.failed", "response.failed")
    assert event["sequence_number"] == max(numbers) + 1
    assert event["response"]["status"] == "failed"
    assert event["response"]["error"] == {"code": "backend_error", "message": INCOMPLETE}
    assert event["response"]["id"].encode() in exchange.body


def test_ollamas_empty_chunk_for_a_failure_does_not_reach_the_caller() -> None:
    exchange = transcript("v1_chat_stream_error_midstream")
    out, ending = replay(exchange)
    assert b'"model":""' in exchange.body
    assert b'"model":""' not in out
    assert out.count(b'data: {"error":') == 1
    assert ending == AnswerResult(Outcome.UPSTREAM_ERROR, Code.BACKEND_ERROR, Usage(11, 3, COUNTED))


@pytest.mark.parametrize(
    "body", [b'{"error":"x"}', b"<html>", b"null", b"[]", b"", b'{"message":{}}', b'{"embeddings":5}']
)
def test_embeddings_that_are_none_are_denied(body: bytes) -> None:
    answer = Answer(grant_for(BY_NAME["embed"]))
    answer.headers(200, "application/json")
    assert isinstance(answer.chunk(body, end_of_stream=True), Denied)
    assert result_of(answer) == AnswerResult(Outcome.UPSTREAM_ERROR, Code.BACKEND_ERROR, Usage(0, 0, NONE))


def test_stripping_touches_no_surface_that_always_reports_its_usage() -> None:
    for name in ("api_chat_stream", "v1_messages_stream", "v1_responses_stream", "v1_chat_nonstream"):
        assert replay(transcript(name), strip_usage=True)[0] == transcript(name).body


@pytest.mark.parametrize("exchange", STREAMS, ids=by_name)
def test_a_caller_that_disconnects_is_counted_exactly_what_was_delivered(exchange: Transcript) -> None:
    for size in range(0, len(exchange.body), 97):
        answer = Answer(grant_of(exchange))
        out = play(answer, 200, exchange.content_type, [exchange.body[:size]], ends=False)
        again = Answer(grant_of(exchange))
        play(again, 200, exchange.content_type, [out], ends=False)
        assert exchange.body.startswith(out)
        assert answer.delivered == again.delivered
        ending = answer.abort()
        assert ending.usage == answer.delivered
        assert ending.usage.input_tokens > 0


def test_a_caller_that_disconnects_in_mid_answer_is_counted_its_prompt_and_the_frames_so_far() -> None:
    exchange = transcript("api_chat_stream")
    lines = exchange.body.splitlines(keepends=True)
    answer = Answer(grant_of(exchange))
    play(answer, 200, exchange.content_type, lines[:2], ends=False)
    assert answer.abort() == AnswerResult(Outcome.CLIENT_GONE, None, Usage(11, 2, COUNTED), is_presumed=True)


def test_a_caller_that_disconnects_before_any_answer_is_counted_its_prompt() -> None:
    answer = Answer(grant_for(BY_NAME["chat"]))
    assert answer.abort() == AnswerResult(Outcome.CLIENT_GONE, None, Usage(11, 0, ESTIMATED))


@pytest.mark.parametrize("name", ["v1_chat_stream_include_usage", "api_chat_stream", "v1_messages_stream"])
def test_a_caller_that_disconnects_right_after_the_last_frame_got_a_complete_answer(name: str) -> None:
    exchange = transcript(name)
    answer = Answer(grant_of(exchange))
    play(answer, 200, exchange.content_type, [exchange.body], ends=False)
    ending = answer.abort()
    assert (ending.outcome, ending.usage.source, ending.is_presumed) == (Outcome.COMPLETE, EXACT, False)


def test_a_whole_answer_that_was_held_when_the_stream_closed_still_gives_its_counts() -> None:
    exchange = transcript("v1_chat_nonstream")
    answer = Answer(grant_of(exchange))
    assert play(answer, 200, exchange.content_type, [exchange.body], ends=False) == b""
    assert answer.abort() == AnswerResult(Outcome.CLIENT_GONE, None, Usage(26, 4, EXACT), is_presumed=True)


def test_half_a_whole_answer_was_not_delivered_and_is_not_counted() -> None:
    exchange = transcript("v1_chat_nonstream")
    answer = Answer(grant_of(exchange))
    assert play(answer, 200, exchange.content_type, [exchange.body[:-9]], ends=False) == b""
    assert answer.abort().usage == Usage(11, 0, ESTIMATED)


@pytest.mark.parametrize(
    "name", ["api_chat_stream", "v1_chat_stream_no_usage", "v1_completions_stream", "v1_messages_stream"]
)
@pytest.mark.parametrize("step", [1, 50, 10_000])
def test_a_backend_that_ignores_the_cap_is_cut_with_an_error_in_place_of_the_first_excess_frame(
    name: str, step: int
) -> None:
    exchange = transcript(name)
    chunks = [exchange.body[at : at + step] for at in range(0, len(exchange.body), step)]
    out, ending = replay(exchange, chunks, output_cap=2)
    frame = error_frame(exchange.surface.dialect, Code.BACKEND_ERROR, OVER_CAP, "req-1")
    assert out.endswith(frame)
    passed = out.removesuffix(frame)
    assert exchange.body.startswith(passed)
    assert b" there" in passed
    assert b'"!"' not in passed
    assert ending == AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, Usage(11, 2, COUNTED))


def test_a_reported_count_over_the_cap_is_an_error_and_no_more_than_the_cap_is_counted() -> None:
    exchange = transcript("api_chat_stream")
    out, ending = replay(exchange, output_cap=3)
    assert out.splitlines()[:3] == exchange.body.splitlines()[:3]
    assert out.splitlines()[3:] == [error_body(Dialect.NATIVE, Code.BACKEND_ERROR, OVER_CAP, "req-1")]
    assert ending == AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, Usage(26, 3, EXACT))


def test_a_whole_answer_over_the_cap_is_replaced_by_an_error() -> None:
    out, ending = replay(transcript("v1_chat_nonstream"), output_cap=3)
    assert out == error_body(Dialect.OPENAI, Code.BACKEND_ERROR, OVER_CAP, "req-1")
    assert ending == AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, Usage(0, 0, NONE))


def test_an_answer_takes_chunks_only_between_its_headers_and_its_result() -> None:
    exchange = transcript("api_chat_stream")
    answer = Answer(grant_of(exchange, output_cap=1))
    with pytest.raises(RuntimeError):
        answer.chunk(exchange.body, end_of_stream=False)
    play(answer, 200, exchange.content_type, [exchange.body])
    cut = result_of(answer)
    assert cut.outcome is Outcome.CUT
    with pytest.raises(RuntimeError):
        answer.chunk(exchange.body, end_of_stream=False)
    assert answer.abort() is cut


@pytest.mark.parametrize("surface", [one for one in SURFACES if one.cap_field], ids=lambda one: one.name)
def test_a_stream_without_a_single_byte_ends_with_an_error_frame(surface: Any) -> None:
    answer = Answer(grant_for(surface, stream=True))
    kind = "application/x-ndjson" if surface.dialect is Dialect.NATIVE else "text/event-stream"
    assert play(answer, 200, kind, []) == failure_after(surface, b"", INCOMPLETE)
    assert result_of(answer).outcome is Outcome.UPSTREAM_ERROR


def test_half_a_last_line_is_not_delivered_so_the_error_is_a_separate_line() -> None:
    exchange = transcript("api_chat_stream")
    out, _ = replay(exchange, [exchange.body[:200]])
    assert out.splitlines() == [
        exchange.body.splitlines()[0],
        error_body(Dialect.NATIVE, Code.BACKEND_ERROR, INCOMPLETE, "req-1"),
    ]


def end_of_answer(exchange: Transcript) -> int:
    """How many bytes there are when the frame that ends the answer is all there, beyond the last byte if none does."""
    splitter: Splitter = SseSplitter() if "event-stream" in exchange.content_type else NdjsonSplitter()
    place = 0
    for frame in [*splitter.feed(exchange.body), *splitter.flush()]:
        if read_frame(exchange.surface, frame.data).terminal:
            return place + frame.raw.index(frame.data) + len(frame.data)
        place += len(frame.raw)
    return place + 1


@pytest.mark.parametrize("exchange", STREAMS, ids=by_name)
def test_a_stream_that_ends_at_any_byte_before_its_end_is_counted_and_not_complete(exchange: Transcript) -> None:
    complete_at = end_of_answer(exchange)
    full = replay(exchange)[1].usage
    for size in range(len(exchange.body)):
        out, ending = replay(exchange, [exchange.body[:size]])
        if size >= complete_at:
            assert (ending.outcome, ending.usage) == (Outcome.COMPLETE, full)
            continue
        assert (ending.outcome, ending.code) == (Outcome.UPSTREAM_ERROR, Code.BACKEND_ERROR)
        assert b'"error"' in out.splitlines()[-1 if exchange.surface.dialect is Dialect.NATIVE else -2]
        assert ending.usage.input_tokens in (11, 26)
        assert ending.usage.output_tokens >= (1 if b" there" in out else 0)
        assert ending.usage.source is not NONE


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \t\n"])
def test_a_blank_line_of_a_backend_never_reaches_a_native_client(blank: bytes) -> None:
    exchange = transcript("api_chat_stream")
    lines = exchange.body.splitlines(keepends=True)
    out, ending = replay(exchange, [blank, *(line + blank for line in lines)])
    assert out == exchange.body
    assert ending == AnswerResult(Outcome.COMPLETE, None, Usage(26, 4, EXACT))


JUNK = [b"<html>dial tcp 10.0.0.3:11434</html>", b"[1]", b"null", b'{"message":', b"\xff\xfe", b"5"]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", ["api_chat_stream", "v1_chat_stream_no_usage", "v1_messages_stream"])
def test_a_frame_that_no_client_could_read_cuts_the_stream(name: str, junk: bytes) -> None:
    exchange = transcript(name)
    native = exchange.surface.dialect is Dialect.NATIVE
    raw = junk + b"\n" if native else b"data: " + junk + b"\n\n"
    frame = error_frame(exchange.surface.dialect, Code.BACKEND_ERROR, UNREADABLE, "req-1")
    out, ending = replay(exchange, [raw, exchange.body])
    assert out == frame
    assert ending == AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, Usage(11, 0, ESTIMATED))


@pytest.mark.parametrize(
    "exchange",
    [one for one in CORPUS if one.surface.dialect is Dialect.NATIVE and one.surface.cap_field and one.status == 200],
    ids=by_name,
)
def test_the_native_dialect_never_sees_a_blank_line(exchange: Transcript) -> None:
    for size in range(0, len(exchange.body), 41):
        out, _ = replay(exchange, [exchange.body[:size]])
        assert all(json.loads(line) for line in out.splitlines())


def test_a_frame_too_long_to_hold_cuts_the_stream() -> None:
    exchange = transcript("api_chat_stream")
    line = exchange.body.splitlines(keepends=True)[0]
    out, ending = replay(exchange, [line + b'{"message":' + b" " * FRAME_BYTES_MAX])
    assert out == line + error_frame(Dialect.NATIVE, Code.BACKEND_ERROR, TOO_LONG, "req-1")
    assert ending == AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, Usage(11, 1, COUNTED))


@pytest.mark.parametrize(("name", "field", "usage"), [
    ("api_embed", "embeddings", Usage(8, 0, EXACT)),
    ("v1_embeddings_float", "data", Usage(8, 0, EXACT)),
    ("api_chat_nonstream", "logprobs", Usage(26, 4, EXACT)),
    ("v1_chat_nonstream", "logprobs", Usage(26, 4, EXACT)),
])  # fmt: skip
def test_an_answer_too_long_to_hold_passes_and_is_read_from_its_tail(name: str, field: str, usage: Usage) -> None:
    exchange = transcript(name)
    vectors = json.dumps({field: [[0.5] * 1000] * 300}).encode()
    body = vectors[:-1] + b"," + exchange.body[1:]
    assert len(body) > WHOLE_BYTES_MAX
    chunks = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
    out, ending = replay(exchange, chunks, output_cap=100_000 if usage.output_tokens else 0)
    assert out == body
    assert ending == AnswerResult(Outcome.COMPLETE, None, usage)


ERRORS = [exchange for exchange in CORPUS if exchange.status != 200]
LEAKS = [
    '{"error":"unauthorized","signin_url":"https://ollama.com/connect?name=gpu-host-1&key=c3"}',
    '{"StatusCode":502,"Status":"502 Bad Gateway","error":"bad gateway"}',
    '{"error":"Post \\"http://127.0.0.1:39211/completion\\": EOF"}',
    '{"error":"dial tcp 10.1.2.3:11434: connect: connection refused"}',
    '{"error":"dial unix: connection refused"}',
    '{"error":"see https:\\u002f\\u002finternal.example"}',
    '{"error":"lookup gpu-host-1: no such host"}',
    '{"error":"read from gpu-host-1:11434 failed"}',
    '{"error":"read from [fe80::1]:8080 failed"}',
    '{"error":"host 10.1.2.3 is down"}',
    '{"error":"open /root/.ollama/models/blobs/sha256-1: no such file"}',
    '{"error":{"message":"an object where the native client expects a text"}}',
    '["error"]',
    "<html>502 Bad Gateway</html>",
    "",
]


@pytest.mark.parametrize("exchange", [one for one in ERRORS if one.status not in (401, 403, 404, 405)], ids=by_name)
def test_ollamas_own_errors_reach_the_caller_and_use_no_tokens(exchange: Transcript) -> None:
    out, ending = replay(exchange, bytewise(exchange.body))
    document, expected = json.loads(out), json.loads(exchange.body)
    match exchange.surface.dialect:
        case Dialect.OPENAI:
            expected["error"]["code"] = ending.code
        case Dialect.ANTHROPIC:
            expected["request_id"] = "req-1"
    assert document == expected
    assert ending == AnswerResult(Outcome.UPSTREAM_ERROR, upstream_code(exchange.status), Usage(0, 0, NONE))


@pytest.mark.parametrize("exchange", [one for one in ERRORS if one.status == 404], ids=by_name)
@pytest.mark.parametrize("status", [403, 404])
def test_a_model_that_the_backend_does_not_have_is_refused_as_any_missing_model(
    exchange: Transcript, status: int
) -> None:
    """W10 of the comparison with the real Ollama."""
    out, ending = replay(exchange, bytewise(exchange.body), refusal_status=status)
    code = Code.MODEL_NOT_ALLOWED
    assert out == error_body(exchange.surface.dialect, code, MESSAGE[code], "req-1", status=status)
    assert ending == AnswerResult(Outcome.UPSTREAM_ERROR, code, Usage(0, 0, NONE))


@pytest.mark.parametrize("body", LEAKS)
def test_internals_of_the_operator_never_reach_a_caller(body: str) -> None:
    own = error_body(Dialect.NATIVE, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], "req-1")
    answer = Answer(grant_for(BY_NAME["chat"]))
    assert play(answer, 500, "application/json", bytewise(body.encode())) == own


@pytest.mark.parametrize("body", [text for text in LEAKS[:-3] if '"error":{' not in text])
def test_an_error_frame_in_mid_stream_is_sanitised_too(body: str) -> None:
    line = b'{"message":{"content":"Hi"},"done":false}\n'
    answer = Answer(grant_for(BY_NAME["chat"]))
    own = error_frame(Dialect.NATIVE, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], "req-1")
    assert play(answer, 200, "application/x-ndjson", [line + body.encode() + b"\n"]) == line + own
    assert result_of(answer).usage == Usage(11, 1, COUNTED)


def test_details_next_to_the_message_are_searched_too() -> None:
    body = b'{"error":{"message":"unauthorized","signin_url":"/connect?name=gpu"}}'
    out = play(Answer(grant_for(BY_NAME["v1_chat"])), 500, "application/json", [body])
    assert out == error_body(Dialect.OPENAI, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], "req-1")


def test_an_endless_error_body_is_held_to_a_limit_and_replaced() -> None:
    chunks = [b'{"error":"', *[b"x" * 65_536] * 100, b'"}']
    out = play(Answer(grant_for(BY_NAME["chat"])), 500, "application/json", chunks)
    assert out == error_body(Dialect.NATIVE, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], "req-1")


def test_nothing_passes_after_the_frame_that_reports_a_failure() -> None:
    exchange = transcript("api_chat_stream")
    error, done = b'{"error":"out of memory"}\n', exchange.body.splitlines(keepends=True)[-1]
    out, ending = replay(exchange, [error, done])
    assert out == error
    assert ending.outcome is Outcome.UPSTREAM_ERROR


@pytest.mark.parametrize("exchange", [one for one in STREAMS if one not in BROKEN], ids=by_name)
@pytest.mark.parametrize("split", [lambda body: [body], bytewise], ids=["in one chunk", "in single bytes"])
def test_nothing_passes_and_nothing_is_counted_after_the_frame_that_completes_an_answer(
    exchange: Transcript, split: Callable[[bytes], list[bytes]]
) -> None:
    expected, result = replay(exchange)
    again, counted = replay(exchange, split(exchange.body + exchange.body))
    assert (again, counted.usage, counted.outcome) == (expected, result.usage, Outcome.COMPLETE)


def test_a_native_stream_may_be_answered_by_one_object_and_a_stream_of_events_may_not() -> None:
    load, whole = transcript("api_chat_load"), transcript("v1_chat_load_via_empty_content_array")
    assert replay(load, stream=True)[0] == load.body
    out, ending = replay(whole, stream=True)
    assert out == error_body(Dialect.OPENAI, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], "req-1")
    assert ending == AnswerResult(Outcome.UPSTREAM_ERROR, Code.BACKEND_ERROR, Usage(0, 0, NONE))


def test_an_error_body_of_another_dialect_is_replaced() -> None:
    for surface in (BY_NAME["v1_chat"], BY_NAME["v1_messages"]):
        out = play(Answer(grant_for(surface)), 500, "application/json", [b'{"error":"out of memory"}'])
        assert out == error_body(surface.dialect, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], "req-1")


@pytest.mark.parametrize("status", [301, 307, 401, 403, 405, 407])
def test_a_backend_that_rejects_the_gateway_is_reported_as_a_bad_gateway(status: int) -> None:
    answer = Answer(grant_for(BY_NAME["chat"]))
    assert answer.headers(status, "application/json") == 502
    own = error_body(Dialect.NATIVE, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], "req-1")
    assert answer.chunk(b'{"error":"unauthorized"}', end_of_stream=True) == own


def test_a_whole_answer_that_breaks_off_becomes_an_error_body() -> None:
    exchange = transcript("v1_chat_nonstream")
    out, ending = replay(exchange, [exchange.body[:-9]])
    assert out == error_body(Dialect.OPENAI, Code.BACKEND_ERROR, MESSAGE[Code.BACKEND_ERROR], "req-1")
    assert ending.outcome is Outcome.UPSTREAM_ERROR


CONTENT_TYPES = ["application/x-ndjson", "text/event-stream; charset=utf-8", "application/json", "text/plain", ""]


@settings(max_examples=300)
@given(
    st.sampled_from(SURFACES), st.sampled_from(CONTENT_TYPES), st.sampled_from([200, 204, 302, 404, 500]),
    st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"data: ", b"\n\n", b'{"error":', b'{"usage":{}}'])),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_no_bytes_make_an_answer_raise_or_remain_unaccounted(
    surface: Any, content_type: str, status: int, chunks: list[bytes], stream: bool, strip: bool, ends: bool
) -> None:
    answer = Answer(grant_for(surface, stream=stream, strip_usage=strip))
    out = play(answer, status, content_type, chunks, ends=ends)
    ending = answer.abort()
    assert ending.usage == answer.delivered
    assert ending.usage.output_tokens <= 100
    if status == 200 and surface.cap_field and out and ending.outcome is not Outcome.UPSTREAM_ERROR:
        assert ending.usage.input_tokens > 0


@pytest.mark.parametrize(
    ("surface", "frame"),
    [
        ("chat", b"\n"),
        ("chat", b'{"message":{"content":""},"done":false}\n'),
        ("v1_chat", b": still here\n\n"),
        ("v1_messages", b'data: {"type":"an unknown type"}\n\n'),
    ],
)
def test_a_backend_that_sends_empty_frames_without_end_is_cut(surface: str, frame: bytes) -> None:
    answer = Answer(grant_for(BY_NAME[surface], stream=True, output_cap=10))
    kind = "application/x-ndjson" if surface == "chat" else "text/event-stream"
    play(answer, 200, kind, [frame * 1000] * 20, ends=False)
    ending = result_of(answer)
    assert (ending.outcome, ending.code, ending.usage.output_tokens) == (Outcome.CUT, Code.BACKEND_ERROR, 0)


def test_a_backend_may_send_empty_frames_between_frames_with_text() -> None:
    empty, word = (b'{"message":{"content":"%s"},"done":false}\n' % text for text in (b"", b"x"))
    done = b'{"message":{"content":""},"done":true,"prompt_eval_count":1,"eval_count":1000}\n'
    answer = Answer(grant_for(BY_NAME["chat"], stream=True, output_cap=1000))
    out = play(answer, 200, "application/x-ndjson", [(empty * 3 + word) * 1000 + done])
    assert ENDLESS.encode() not in out
    assert result_of(answer).outcome is Outcome.COMPLETE


def test_half_a_surrogate_pair_does_not_break_an_answer() -> None:
    answer = Answer(grant_for(BY_NAME["v1_completions"], stream=True, strip_usage=True))
    usage = b'"usage":{"prompt_tokens":0,"completion_tokens":0}'
    chunk = b'data: {"choices":[{"index":0,"text":"\\ud800"}],%s}\n\n' % usage
    assert play(answer, 200, "text/event-stream", [chunk]).startswith(b'data: {"choices":[{"index":0,"text":"?"}]}\n\n')
