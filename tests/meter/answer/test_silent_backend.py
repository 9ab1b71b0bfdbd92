"""The usage of answers whose backend reports nothing, too little or the wrong counts, one test per case.

`/v1` streams without `include_usage`, loads, the repeat guard, a runner that dies, a caller that disconnects, errors
in mid-stream, routes without a report, answers made in two passes, searches, cached prompts, embeddings, images.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import Code
from gateway.request.generation import read_generation_request
from gateway.request.token_estimate import IMAGE_TOKENS, estimate_input
from gateway.values import Outcome, Usage, UsageSource
from gateway.wire.dialects import error_frame
from gateway.wire.surfaces import BY_NAME, BY_PATH, Dialect, Surface
from meter.answer.answer import Answer
from meter.answer.result import AnswerResult
from meter.answer.stream import INCOMPLETE
from meter.rewrite import rewrite
from tests.meter.wire_corpus import failure_after, grant_for, grant_of, received, transcript

EXACT, COUNTED, ESTIMATED = UsageSource.EXACT, UsageSource.COUNTED, UsageSource.ESTIMATED
STREAMING = [surface for surface in BY_NAME.values() if surface.cap_field]
FAILED = (Outcome.UPSTREAM_ERROR, Code.BACKEND_ERROR)


def lines(*documents: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def events(*documents: dict[str, Any], done: bool = False) -> bytes:
    stream = b"".join(b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents)
    return stream + (b"data: [DONE]\n\n" if done else b"")


def ending_of(name: str, body: bytes, *, ends: bool = True, **grant: Any) -> tuple[bytes, AnswerResult]:
    """The bytes that the caller gets of `body`, answered on the surface `name`, and the result of the answer."""
    surface = BY_NAME[name]
    is_native = surface.dialect is Dialect.NATIVE
    stream_type = "application/x-ndjson" if is_native else "text/event-stream"
    is_stream = is_native or not body.startswith(b"{")
    answer = Answer(grant_for(surface, **{"stream": is_stream, **grant}))
    answer.headers(200, stream_type if grant.get("stream", is_stream) else "application/json")
    return received(surface, body, answer.chunk(body, end_of_stream=ends)), answer.abort()


@pytest.mark.parametrize(
    ("name", "silent"),
    [
        ("v1_chat_stream_include_usage", "v1_chat_stream_no_usage"),
        ("v1_completions_stream_include_usage", "v1_completions_stream"),
    ],
)
def test_a_stream_whose_caller_did_not_request_usage_is_exact_and_shows_none(name: str, silent: str) -> None:
    plain, parameters = (
        transcript(silent),
        read_generation_request(transcript(silent).surface, json.loads(transcript(silent).request)),
    )
    assert not parameters.usage
    grant = grant_of(plain, strip_usage=not parameters.usage)
    sent = json.loads(rewrite(plain.request, grant).body)
    assert sent["stream_options"] == {"include_usage": True}
    out, ending = ending_of(plain.surface.name, transcript(name).body, strip_usage=True)
    assert b"usage" not in out
    assert (ending.outcome, ending.usage) == (Outcome.COMPLETE, Usage(26, 4, EXACT))


@pytest.mark.parametrize("silent", ["v1_chat_stream_no_usage", "v1_completions_stream"])
def test_a_backend_that_ignores_the_request_for_usage_is_counted(silent: str) -> None:
    _, ending = ending_of(transcript(silent).surface.name, transcript(silent).body, strip_usage=True)
    assert ending == AnswerResult(Outcome.COMPLETE, None, Usage(11, 3, COUNTED))


ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
ZERO_TOKENS = {"input_tokens": 0, "output_tokens": 0}
LOADS = {
    "chat: load": (
        "chat",
        lines({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"}),
    ),
    "chat: unload": ("chat", lines({"message": {"content": ""}, "done": True, "done_reason": "unload"})),
    "chat: rendered prompt": (
        "chat",
        lines({"message": {"content": ""}, "done": False, "_debug_info": {"rendered_template": "<s>"}}),
    ),
    "generate: load": ("generate", lines({"response": "", "done": True, "done_reason": "load"})),
    "generate: unload": ("generate", lines({"response": "", "done": True, "done_reason": "unload"})),
    "v1_chat: no content": (
        "v1_chat",
        events(
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "load"}]},
            {"choices": [], "usage": ZERO},
            done=True,
        ),
    ),
    "v1_chat: no content, whole": ("v1_chat", transcript("v1_chat_load_via_empty_content_array").body),
    "v1_chat: rendered prompt, whole": (
        "v1_chat",
        lines({"choices": [{"message": {"content": ""}, "finish_reason": None}], "usage": ZERO, "_debug_info": {}}),
    ),
    "v1_completions: empty prompt": (
        "v1_completions",
        events(
            {"choices": [{"text": "", "index": 0, "finish_reason": "load"}], "usage": ZERO},
            {"choices": [], "usage": ZERO},
            done=True,
        ),
    ),
    "v1_responses: empty input": (
        "v1_responses",
        events(
            {"type": "response.created", "response": {"status": "in_progress"}},
            {"type": "response.completed", "response": {"status": "completed", "usage": ZERO_TOKENS}},
        ),
    ),
    "v1_messages: empty blocks": (
        "v1_messages",
        events(
            {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 0}}},
            {"type": "message_delta", "delta": {"stop_reason": "stop_sequence"}, "usage": ZERO_TOKENS},
            {"type": "message_stop"},
        ),
    ),
}


@pytest.mark.parametrize(("name", "body"), LOADS.values(), ids=LOADS.keys())
def test_an_answer_that_only_loads_unloads_or_renders_is_complete_and_uses_no_tokens(name: str, body: bytes) -> None:
    out, ending = ending_of(name, body)
    assert out == body
    assert ending == AnswerResult(Outcome.COMPLETE, None, Usage(0, 0, EXACT))


GUARDED = [
    "api_chat_stream_no_done_frame_repeat_limit",
    "api_generate_stream_no_done_frame_repeat_limit",
    "v1_chat_stream_no_done_repeat_limit",
    "v1_messages_stream_no_stop_repeat_limit",
    "v1_responses_stream_no_completed_repeat_limit",
]


@pytest.mark.parametrize("name", GUARDED)
def test_a_stream_that_the_repeat_guard_ended_has_failed_and_its_frames_are_counted(name: str) -> None:
    exchange = transcript(name)
    out, ending = ending_of(exchange.surface.name, exchange.body)
    assert out == exchange.body + failure_after(exchange.surface, exchange.body, INCOMPLETE)
    assert ending == AnswerResult(*FAILED, Usage(11, 3, COUNTED))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("chat", transcript("api_chat_nonstream_no_usage_repeat_limit").body),
        ("generate", lines({"response": "AAAAAAAAAAAA", "done": False})),
        ("v1_chat", transcript("v1_chat_nonstream_zero_usage_repeat_limit").body),
        ("v1_completions", lines({"choices": [{"text": "AAAAAAAAAAAA", "finish_reason": None}], "usage": ZERO})),
        ("v1_messages", lines({"content": [{"type": "text", "text": "AAAAAAAAAAAA"}], "usage": ZERO_TOKENS})),
    ],
)
def test_a_whole_answer_that_the_repeat_guard_ended_passes_and_is_cut_and_estimated(name: str, body: bytes) -> None:
    out, ending = ending_of(name, body, stream=False)
    assert out == body
    assert ending == AnswerResult(Outcome.CUT, None, Usage(11, 4, ESTIMATED))


@pytest.mark.parametrize(
    "name", ["api_chat_stream", "api_generate_stream", "v1_chat_stream_no_usage", "v1_messages_stream"]
)
def test_a_runner_that_ends_without_its_stop_event_is_a_failure_and_counted(name: str) -> None:
    exchange = transcript(name)
    body = exchange.body[: exchange.body.index(b'"!"')]
    body = body[: body.rindex(b"\n") + 1]
    out, ending = ending_of(exchange.surface.name, body)
    assert out.endswith(error_frame(exchange.surface.dialect, Code.BACKEND_ERROR, INCOMPLETE, "req-1"))
    assert ending == AnswerResult(*FAILED, Usage(11, 2, COUNTED))


@pytest.mark.parametrize("surface", STREAMING, ids=lambda surface: surface.name)
def test_a_caller_that_disconnects_is_counted_its_prompt_and_after_the_first_byte_what_was_delivered(
    surface: Surface,
) -> None:
    nothing = Answer(grant_for(surface, stream=True)).abort()
    assert nothing == AnswerResult(Outcome.CLIENT_GONE, None, Usage(11, 0, ESTIMATED))
    piece: dict[str, Any] = {
        "message": {"content": "Hi"}, "response": "Hi", "delta": "Hi", "done": False,
        "choices": [{"delta": {"content": "Hi"}, "text": "Hi"}], "type": "response.output_text.delta",
    }  # fmt: skip
    if surface.name == "v1_messages":
        piece |= {"type": "content_block_delta", "delta": {"text": "Hi"}}
    if surface.name == "v1_responses":
        piece |= {"response": {}}
    body = (lines if surface.path.startswith("/api/") else events)(piece, piece)
    out, ending = ending_of(surface.name, body, ends=False)
    assert out == body
    assert ending == AnswerResult(Outcome.CLIENT_GONE, None, Usage(11, 2, COUNTED), is_presumed=True)


@pytest.mark.parametrize(
    "name",
    [
        "api_chat_stream_error_midstream", "api_generate_stream_error_midstream", "v1_chat_stream_error_midstream",
        "v1_completions_stream_error_midstream", "v1_responses_stream_error_midstream",
        "v1_messages_stream_error_midstream",
    ],
)  # fmt: skip
def test_an_error_in_mid_stream_reported_or_swallowed_is_a_failure_and_its_frames_are_counted(name: str) -> None:
    exchange = transcript(name)
    out, ending = ending_of(exchange.surface.name, exchange.body)
    assert out.count(b'"error"') >= 1
    assert ending == AnswerResult(*FAILED, Usage(11, 3, COUNTED))


def test_the_older_embeddings_report_nothing_and_are_estimated_and_transcriptions_are_not_proxied() -> None:
    exchange = transcript("api_embeddings_legacy")
    assert ending_of("embeddings", exchange.body, stream=False)[1] == AnswerResult(
        Outcome.COMPLETE, None, Usage(11, 0, ESTIMATED)
    )
    assert "/v1/audio/transcriptions" not in BY_PATH


def two_passes(pieces: int) -> bytes:
    """Structured output of a thinking model: the counts are those of the second pass, whose prompt holds the first."""
    thought = [{"message": {"thinking": "hm"}, "done": False}] * pieces
    answer = [{"message": {"content": "{}"}, "done": False}] * 4
    final = {"message": {}, "done": True, "done_reason": "stop", "prompt_eval_count": 26 + pieces, "eval_count": 4}
    return lines(*thought, *answer, final)


def test_thinking_whose_count_is_lost_is_counted_in_the_prompt_of_the_second_pass() -> None:
    assert ending_of("chat", two_passes(9))[1] == AnswerResult(Outcome.COMPLETE, None, Usage(26 + 9, 4, EXACT))


def test_two_passes_are_held_to_one_cap() -> None:
    ending = ending_of("chat", two_passes(9), output_cap=12)[1]
    assert ending == AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, Usage(11, 12, COUNTED))


@pytest.mark.parametrize("name", ["v1_responses", "v1_messages"])
def test_searches_that_would_add_generations_are_dropped(name: str) -> None:
    result = rewrite(b'{"model":"m","tools":[{"type":"web_search_20250305"}]}', grant_for(BY_NAME[name]))
    assert b"web_search" not in result.body


@pytest.mark.parametrize(
    ("prompt", "usage"),
    [({"prompt_eval_count": 2}, Usage(2, 4, EXACT)), ({}, Usage(11, 4, COUNTED))],
    ids=["only what was new is reported", "nothing is reported"],
)
def test_a_cached_prompt_counts_as_reported_and_as_estimated_when_nothing_is_reported(
    prompt: dict[str, int], usage: Usage
) -> None:
    final = {"message": {"content": "Hi"}, "done": True, "done_reason": "stop", "eval_count": 4, **prompt}
    assert ending_of("chat", lines(final))[1] == AnswerResult(Outcome.COMPLETE, None, usage)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("embed", {"embeddings": [[0.1]]}),
        ("v1_embeddings", {"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 0, "total_tokens": 0}}),
    ],
)
def test_embeddings_that_report_no_tokens_are_estimated(name: str, body: dict[str, Any]) -> None:
    ending = ending_of(name, lines(body), stream=False)[1]
    assert ending == AnswerResult(Outcome.COMPLETE, None, Usage(11, 0, ESTIMATED))


def test_images_are_part_of_the_estimate_for_a_backend_that_does_not_count_them() -> None:
    document = {"messages": [{"role": "user", "content": "What is it?", "images": ["aGVsbG8=", "aGVsbG8="]}]}
    estimate = estimate_input(document)
    assert estimate >= 2 * IMAGE_TOKENS
    final = lines({"message": {"content": "Hi"}, "done": True, "done_reason": "stop"})
    assert ending_of("chat", final, input_estimate=estimate)[1].usage == Usage(estimate, 1, COUNTED)
