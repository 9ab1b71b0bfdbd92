from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MESSAGE, Code
from gateway.values import Usage, UsageSource
from gateway.wire.surfaces import BY_NAME, SURFACES, AnswerShape
from meter.answer.framing import NdjsonSplitter, Splitter, SseSplitter
from meter.frames.frame import FrameRead
from meter.frames.readers import READERS, read_frame, read_tail
from tests.meter.wire_corpus import transcript

NAMES = [surface.name for surface in SURFACES]
REPORTED = Usage(26, 4, UsageSource.EXACT)

# Documents made of the fields that the readers know, in the wrong places and of the wrong types.
WORDS = st.sampled_from(
    "message content thinking response tool_calls function name arguments done done_reason prompt_eval_count "
    "eval_count choices delta text reasoning usage prompt_tokens completion_tokens logprobs finish_reason type "
    "item output summary input_tokens output_tokens content_block stop_reason error status _debug_info".split()
)
TYPES = st.sampled_from(["response.completed", "response.output_text.delta", "message_delta", "content_block_delta"])
SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def stream_reads(name: str) -> list[FrameRead]:
    exchange = transcript(name)
    splitter: Splitter = SseSplitter() if "event-stream" in exchange.content_type else NdjsonSplitter()
    frames = splitter.feed(exchange.body) + splitter.flush()
    return [read_frame(exchange.surface, frame.data) for frame in frames]


def test_every_answer_shape_has_a_reader_and_a_surface() -> None:
    assert set(READERS) == set(AnswerShape) == {surface.answer_shape for surface in SURFACES}


@pytest.mark.parametrize("name", NAMES)
@given(st.binary(), st.booleans())
def test_random_bytes_never_raise_and_count_as_text(name: str, data: bytes, whole: bool) -> None:
    assert read_frame(BY_NAME[name], data, whole=whole).text_bytes in (0, len(data))


@pytest.mark.parametrize("name", NAMES)
@given(SHAPES, st.booleans())
def test_json_of_any_shape_never_raises_and_counts_nothing_below_zero(name: str, document: Any, whole: bool) -> None:
    read = read_frame(BY_NAME[name], json.dumps(document).encode(), whole=whole)
    assert min(read.min_output_tokens, read.text_bytes) >= 0
    assert read.usage is None or min(read.usage.input_tokens, read.usage.output_tokens) >= 0


def test_nesting_beyond_the_recursion_limit_counts_as_text() -> None:
    assert read_frame(BY_NAME["chat"], b"[" * 100_000).text_bytes == 100_000


@pytest.mark.parametrize(
    ("name", "tokens", "text"),
    [
        ("api_chat_stream", 3, "Hello there!"),
        ("api_chat_stream_thinking", 5, "The user greets.Hello there!"),
        ("api_chat_stream_tools_own_frame", 3, "The user greets.get_weathercityOslounitC"),
        ("api_chat_stream_tools_on_done_frame", 1, "get_weathercityOslounitC"),
        ("api_chat_stream_logprobs", 3, "Hello there!"),
        ("api_generate_stream", 3, "Hello there!"),
        ("api_generate_stream_thinking", 4, "Greeting.Hello there!"),
        ("v1_chat_stream_include_usage", 3, "Hello there!"),
        ("v1_chat_stream_logprobs", 3, "Hello there!"),
        ("v1_chat_stream_reasoning", 5, "The user greets.Hello there!"),
        ("v1_chat_stream_tools", 3, 'The user greets.get_weather{"city":"Oslo","unit":"C"}'),
        ("v1_completions_stream_include_usage", 3, "Hello there!"),
        ("v1_responses_stream", 5, "The user greets.Hello there!"),
        ("v1_responses_stream_tools", 2, 'get_weather{"city":"Oslo","unit":"C"}'),
        ("v1_messages_stream", 3, "Hello there!"),
        ("v1_messages_stream_thinking_tool", 4, 'The user greets.get_weather{"city":"Oslo","unit":"C"}'),
    ],
)
def test_a_stream_counts_its_tokens_and_its_text_once_and_ends_with_the_report(
    name: str, tokens: int, text: str
) -> None:
    reads = stream_reads(name)
    assert sum(read.min_output_tokens for read in reads) == tokens
    assert sum(read.text_bytes for read in reads) == len(text)
    assert [read.terminal for read in reads] == [*(False for _ in reads[1:]), True]
    usages = [read.usage for read in reads if read.usage]
    assert usages == ([REPORTED] if name != "v1_chat_stream_logprobs" else [])


@pytest.mark.parametrize(
    ("name", "text", "finish"),
    [
        ("api_chat_nonstream", "Hello there!", "stop"),
        ("api_chat_nonstream_tools", "The user greets.get_weathercityOslounitC", "stop"),
        ("api_generate_nonstream", "Hello there!", "stop"),
        ("v1_chat_nonstream_length", "Hello there!", "length"),
        ("v1_chat_nonstream_tools", 'The user greets.get_weather{"city":"Oslo","unit":"C"}', "tool_calls"),
        ("v1_completions_nonstream", "Hello there!", "stop"),
        ("v1_responses_nonstream", "The user greets.Hello there!", "completed"),
        ("v1_messages_nonstream", "The user greets.Hello there!", "end_turn"),
    ],
)
def test_a_whole_answer_has_all_its_text_and_no_counted_tokens(name: str, text: str, finish: str) -> None:
    exchange = transcript(name)
    read = read_frame(exchange.surface, exchange.body, whole=True)
    assert read == FrameRead(text_bytes=len(text), words=read.words, usage=REPORTED, terminal=True, finish=finish)


@pytest.mark.parametrize(
    ("name", "input_tokens"),
    [("api_embed", 8), ("v1_embeddings_float", 8), ("v1_embeddings_base64", 8), ("api_embeddings_legacy", 0)],
)
def test_an_embedding_reports_its_input_where_the_route_has_it(name: str, input_tokens: int) -> None:
    exchange = transcript(name)
    read = read_frame(exchange.surface, exchange.body, whole=True)
    assert read == FrameRead(usage=Usage(input_tokens, 0, UsageSource.EXACT), terminal=True)


@pytest.mark.parametrize(
    "name",
    [
        "api_chat_stream_no_done_frame_repeat_limit",
        "api_generate_stream_no_done_frame_repeat_limit",
        "v1_chat_stream_no_done_repeat_limit",
        "v1_chat_stream_error_midstream",
        "v1_completions_stream_error_midstream",
        "v1_responses_stream_error_midstream",
        "v1_messages_stream_no_stop_repeat_limit",
    ],
)
def test_a_stream_that_broke_off_is_recognised_by_its_missing_terminator_alone(name: str) -> None:
    reads = stream_reads(name)
    assert sum(read.min_output_tokens for read in reads) == 3
    assert not any(read.terminal or read.usage for read in reads)


@pytest.mark.parametrize(
    ("surface", "payload", "error"),
    [
        ("chat", b'{"error":"out of memory"}', "out of memory"),
        ("v1_chat", b'{"error":{"message":"out of memory","type":"api_error"}}', "out of memory"),
        ("v1_messages", b'{"type":"error","error":{"type":"api_error","message":"out of memory"}}', "out of memory"),
        (
            "v1_responses",
            b'{"type":"response.failed","response":{"error":{"message":"out of memory"}}}',
            "out of memory",
        ),
        ("v1_responses", b'{"type":"error","message":"out of memory"}', "out of memory"),
        ("generate", b'{"error":5}', MESSAGE[Code.BACKEND_ERROR]),
    ],
)
def test_an_error_frame_is_read_in_every_dialect(surface: str, payload: bytes, error: str) -> None:
    assert read_frame(BY_NAME[surface], payload) == FrameRead(error=error)


@pytest.mark.parametrize("name", ["api_chat_load", "api_chat_unload", "api_generate_load", "api_generate_unload"])
def test_a_load_is_marked_as_one_and_reports_nothing(name: str) -> None:
    exchange = transcript(name)
    finish = "unload" if name.endswith("unload") else "load"
    assert read_frame(exchange.surface, exchange.body) == FrameRead(terminal=True, finish=finish)


def test_a_rendered_prompt_is_not_a_generation() -> None:
    read = read_frame(BY_NAME["chat"], b'{"model":"m","message":{},"done":false,"_debug_info":{"a":"<|system|>"}}')
    assert read == FrameRead(terminal=True, finish="load")


@pytest.mark.parametrize("count", ["true", "-4", "4.5", '"4"', "null", str(2**24 + 1)])
def test_an_implausible_counter_is_ignored(count: str) -> None:
    line = f'{{"message":{{"content":"a"}},"done":true,"prompt_eval_count":{count},"eval_count":{count}}}'
    assert read_frame(BY_NAME["chat"], line.encode()).usage is None


@pytest.mark.parametrize(
    "name", ["api_chat_nonstream", "v1_chat_nonstream", "v1_messages_nonstream", "v1_responses_nonstream"]
)
def test_the_counters_of_a_body_too_long_to_hold_are_found_in_its_tail(name: str) -> None:
    body = transcript(name).body
    read = read_tail(body[-600:], 9_000_000)
    assert read == FrameRead(text_bytes=9_000_000, usage=REPORTED, terminal=True)


def test_a_counter_in_the_text_of_an_answer_is_not_taken_for_one() -> None:
    text = '"eval_count":999,"completion_tokens":999'
    body = json.dumps({"usage": {"prompt_tokens": 26, "completion_tokens": 4}, "text": text}).encode()
    assert read_tail(body, len(body)).usage == REPORTED


def test_the_last_counters_of_a_tail_are_the_answers_own() -> None:
    arguments = {"prompt_tokens": 1, "completion_tokens": 1}
    body = json.dumps({"arguments": arguments, "usage": {"prompt_tokens": 26, "completion_tokens": 4}}).encode()
    assert read_tail(body, len(body)).usage == REPORTED


@pytest.mark.parametrize("name", ["v1_chat", "v1_completions"])
def test_the_done_marker_ends_the_streams_that_have_it(name: str) -> None:
    assert read_frame(BY_NAME[name], b"[DONE]").terminal
    assert read_frame(BY_NAME[name], b"[DONE] ").terminal


@pytest.mark.parametrize("name", ["chat", "generate", "v1_responses", "v1_messages"])
def test_the_done_marker_is_unreadable_where_a_stream_has_none(name: str) -> None:
    read = read_frame(BY_NAME[name], b"[DONE]")
    assert (read.terminal, read.unreadable) == (False, True)


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_that_only_begins_with_the_done_marker_is_unreadable(name: str) -> None:
    read = read_frame(BY_NAME[name], b'[DONE]{"done":true}')
    assert (read.terminal, read.unreadable) == (False, True)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("chat", {"message": {"content": ""}, "logprobs": [{}, {}, {}]}),
        ("generate", {"response": "", "logprobs": [{}, {}, {}]}),
        ("v1_chat", {"choices": [{"delta": {"content": ""}, "logprobs": {"content": [{}, {}, {}]}}]}),
        ("v1_responses", {"type": "response.output_text.delta", "delta": "", "logprobs": [{}, {}, {}]}),
    ],
)
def test_each_log_probability_is_a_token_even_before_its_text_appears(name: str, document: Any) -> None:
    assert read_frame(BY_NAME[name], json.dumps(document).encode()) == FrameRead(min_output_tokens=3)
