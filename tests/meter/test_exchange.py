"""The phases of one request: every pair of phase and event, and the ending that each way out makes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from gateway.errors import Code
from gateway.quota.port import Progress
from gateway.record.entry import Entry
from gateway.values import NO_USAGE, Outcome, Usage, UsageSource
from gateway.wire.surfaces import BY_NAME
from meter.exchange import TRANSITIONS, Exchange, Phase, ResponseHead, Trigger
from tests.meter.wire_corpus import grant_for, json_of

REQUEST = b'{"model":"llama3.2","messages":[]}'
FRAME = b'{"model":"m","message":{"role":"assistant","content":"Hi"},"done":false}\n'
LAST = b'{"model":"m","message":{"content":""},"done":true,"prompt_eval_count":3,"eval_count":1}\n'
TOO_MUCH = b'{"model":"m","message":{"content":""},"done":true,"prompt_eval_count":3,"eval_count":10000}\n'


class Clock:
    """Seconds that pass only when the test lets them."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def new_exchange(clock: Clock | None = None, **grant: object) -> Exchange:
    """A streamed chat whose hold was taken."""
    granted = grant_for(BY_NAME["chat"], stream=True, **grant)
    return Exchange(granted, json_of(granted), clock or Clock())


def forward(exchange: Exchange) -> None:
    assert isinstance(exchange.request_body(REQUEST), bytes)


def answer(exchange: Exchange) -> None:
    exchange.response_headers(200, "application/x-ndjson", "near", end_of_stream=False)


EVENTS: dict[Trigger, Callable[[Exchange], object]] = {
    Trigger.FORWARD: forward,
    Trigger.ANSWER: answer,
    Trigger.LOCAL_REPLY: lambda exchange: exchange.local_reply(503, Code.UNAVAILABLE),
    Trigger.END: lambda exchange: exchange.response_body(FRAME + LAST, True),
    Trigger.CUT: lambda exchange: exchange.response_body(TOO_MUCH, False),
    Trigger.LEASE_LOST: lambda exchange: exchange.lose_lease(),
    Trigger.CLOSE: lambda exchange: exchange.close(),
}

PATHS: dict[Phase, tuple[Trigger, ...]] = {
    Phase.OPEN: (),
    Phase.FORWARDED: (Trigger.FORWARD,),
    Phase.ANSWERING: (Trigger.FORWARD, Trigger.ANSWER),
    Phase.LOCAL_REPLY: (Trigger.FORWARD, Trigger.LOCAL_REPLY),
    Phase.CUT: (Trigger.FORWARD, Trigger.ANSWER, Trigger.CUT),
    Phase.ENDED: (Trigger.FORWARD, Trigger.ANSWER, Trigger.END),
    Phase.CLOSED: (Trigger.FORWARD, Trigger.CLOSE),
}


def in_phase(phase: Phase) -> Exchange:
    exchange = new_exchange()
    for event in PATHS[phase]:
        EVENTS[event](exchange)
    assert exchange.phase is phase
    return exchange


# Chunks of an answer arrive in any phase; in these they do not move the request on.
CHUNKS_PASS = {(phase, event) for phase in Phase for event in (Trigger.END, Trigger.CUT)}


@pytest.mark.parametrize("pair", itertools.product(Phase, Trigger), ids=lambda pair: f"{pair[0].name}-{pair[1].name}")
def test_every_event_moves_every_phase_as_the_table_states_or_is_refused(pair: tuple[Phase, Trigger]) -> None:
    phase, event = pair
    exchange = in_phase(phase)
    if pair in TRANSITIONS:
        EVENTS[event](exchange)
        assert exchange.phase is TRANSITIONS[pair]
    elif pair in CHUNKS_PASS:
        EVENTS[event](exchange)
        assert exchange.phase is phase
    elif pair == (Phase.CUT, Trigger.FORWARD):
        assert exchange.request_body(REQUEST) is Code.UNAVAILABLE
    else:
        with pytest.raises(RuntimeError, match=f"{event.name} is impossible in phase {phase.name}"):
            EVENTS[event](exchange)


def closed(exchange: Exchange) -> Entry:
    result = exchange.close()
    assert not result.cause_unknown
    return result.entry


def test_a_complete_answer_is_settled_with_the_counts_of_the_backend() -> None:
    clock = Clock()
    exchange = new_exchange(clock)
    forward(exchange)
    answer(exchange)
    clock.now_s = 0.25
    assert exchange.response_body(FRAME, False) is None
    clock.now_s = 0.5
    assert exchange.response_body(LAST, True) is None
    clock.now_s = 9.0
    entry = closed(exchange)
    assert (entry.outcome, entry.code, entry.status, entry.backend) == (Outcome.COMPLETE, None, 200, "near")
    assert (entry.input_tokens, entry.output_tokens, entry.usage_source) == (3, 1, UsageSource.EXACT)
    assert (entry.ttft_ms, entry.duration_ms, entry.response_bytes) == (250, 500, len(FRAME + LAST))


def test_a_caller_that_leaves_before_the_body_is_forwarded_used_nothing() -> None:
    entry = closed(new_exchange())
    assert (entry.outcome, entry.code, entry.status) == (Outcome.CLIENT_GONE, None, 499)
    assert (entry.input_tokens, entry.output_tokens) == (0, 0)


def test_a_caller_that_leaves_before_the_answer_pays_for_its_prompt() -> None:
    entry = closed(in_phase(Phase.FORWARDED))
    assert (entry.outcome, entry.status, entry.input_tokens, entry.output_tokens) == (Outcome.CLIENT_GONE, 499, 11, 0)


def test_an_answer_that_breaks_off_has_an_unknown_cause_until_the_access_log_tells() -> None:
    exchange = in_phase(Phase.ANSWERING)
    exchange.response_body(FRAME, False)
    result = exchange.close()
    assert result.cause_unknown
    assert (result.entry.outcome, result.entry.output_tokens) == (Outcome.CLIENT_GONE, 1)


def test_an_answer_that_breaks_off_after_its_last_frame_is_complete() -> None:
    exchange = in_phase(Phase.ANSWERING)
    exchange.response_body(FRAME + LAST, False)
    assert closed(exchange).outcome is Outcome.COMPLETE


def test_an_answer_past_its_cap_is_cut_with_an_error_and_then_both_sides_are() -> None:
    exchange = in_phase(Phase.ANSWERING)
    body = exchange.response_body(TOO_MUCH, False)
    assert isinstance(body, bytes)
    assert b"error" in body
    assert exchange.response_body(FRAME, False) is Code.BACKEND_ERROR
    entry = closed(exchange)
    assert (entry.outcome, entry.code) == (Outcome.CUT, Code.BACKEND_ERROR)


def test_a_lost_lease_cuts_the_answer_at_its_next_chunk() -> None:
    exchange = in_phase(Phase.ANSWERING)
    exchange.response_body(FRAME, False)
    exchange.lose_lease()
    assert exchange.response_body(FRAME, False) is Code.BACKEND_ERROR
    assert exchange.phase is Phase.CUT


def test_a_lost_lease_keeps_the_request_from_every_backend() -> None:
    exchange = new_exchange()
    exchange.lose_lease()
    assert exchange.request_body(REQUEST) is Code.UNAVAILABLE


def test_a_reply_of_envoy_carries_its_own_code_and_no_usage() -> None:
    exchange = in_phase(Phase.FORWARDED)
    exchange.local_reply(504, "backend_timeout")
    assert exchange.response_body(b"{}", True) is None
    entry = closed(exchange)
    assert (entry.outcome, entry.code, entry.status) == (Outcome.UPSTREAM_ERROR, "backend_timeout", 504)
    assert (entry.input_tokens, entry.output_tokens, entry.response_bytes) == (0, 0, 2)


@pytest.mark.parametrize(
    ("status", "seen", "code"),
    [(404, 404, Code.NOT_FOUND), (503, 503, Code.BACKEND_UNAVAILABLE), (418, 418, Code.BACKEND_ERROR)],
)
def test_an_error_without_a_body_is_replaced_by_one_with_a_body(status: int, seen: int, code: Code) -> None:
    exchange = in_phase(Phase.FORWARDED)
    head = exchange.response_headers(status, "text/html", "near", end_of_stream=True)
    assert (head.status, head.denied) == (seen, code)
    entry = closed(exchange)
    assert (entry.outcome, entry.code, entry.status) == (Outcome.UPSTREAM_ERROR, code, seen)
    assert (entry.usage_source, entry.input_tokens) == (NO_USAGE.source, 0)


def test_the_backend_is_shown_only_to_a_key_that_may_see_it() -> None:
    for show, headers in ((False, {}), (True, {"x-gateway-backend": "near"})):
        exchange = new_exchange(show_backend=show)
        forward(exchange)
        assert exchange.response_headers(200, "application/x-ndjson", "near", end_of_stream=False) == ResponseHead(
            200, headers
        )


def test_progress_follows_what_was_delivered() -> None:
    exchange = in_phase(Phase.FORWARDED)
    assert exchange.progress == Progress()
    answer(exchange)
    exchange.response_body(FRAME, False)
    usage = Usage(11, 1)
    assert exchange.progress == Progress(usage.input_tokens, usage.output_tokens, len(FRAME))
