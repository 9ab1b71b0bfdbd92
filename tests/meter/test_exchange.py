"""The state machine of an exchange: every phase with every trigger, and the ending that each way out makes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import STATUS, Code
from gateway.quota.port import Progress
from gateway.values import NO_USAGE, Outcome, Usage, UsageSource
from gateway.wire.dialects import error_frame
from gateway.wire.surfaces import BY_NAME, Dialect
from meter.answer.result import AnswerResult
from meter.answer.stream import OVER_CAP
from meter.exchange import Exchange
from meter.generation_rates import GenerationRates
from meter.phases import TRANSITIONS, OutOfOrder, Phase, Trigger, following
from tests.meter.wire_corpus import grant_for, json_of, transcript

CHAT = transcript("api_chat_stream")
LINES = CHAT.body.splitlines(keepends=True)
NDJSON = "application/x-ndjson"
PROMPT = Usage(11, 0, UsageSource.ESTIMATED)

# How a test pulls each trigger. A chunk that exceeds the cap of these grants, two tokens, is cut.
TRIGGERS: dict[Trigger, Callable[[Exchange], object]] = {
    Trigger.FORWARD: lambda exchange: exchange.request_body(CHAT.request),
    Trigger.ANSWER: lambda exchange: exchange.response_headers(200, NDJSON, "near", end_of_stream=False),
    Trigger.LOCAL_REPLY: lambda exchange: exchange.local_reply(503, "backend_unavailable"),
    Trigger.CHUNK: lambda exchange: exchange.response_body(LINES[0], False),
    Trigger.END: lambda exchange: exchange.response_body(b"", True),
    Trigger.CUT: lambda exchange: exchange.response_body(b"".join(LINES[:3]), False),
    Trigger.LEASE_LOST: lambda exchange: exchange.lose_lease(),
    Trigger.CLOSE: lambda exchange: exchange.close(),
}
# A way into each phase.
WAYS: dict[Phase, list[Trigger]] = {
    Phase.OPEN: [],
    Phase.FORWARDED: [Trigger.FORWARD],
    Phase.ANSWERING: [Trigger.FORWARD, Trigger.ANSWER],
    Phase.LOCAL_REPLY: [Trigger.FORWARD, Trigger.LOCAL_REPLY],
    Phase.CUT: [Trigger.FORWARD, Trigger.ANSWER, Trigger.CUT],
    Phase.ENDED: [Trigger.FORWARD, Trigger.ANSWER, Trigger.END],
    Phase.CLOSED: [Trigger.FORWARD, Trigger.CLOSE],
}
OPEN, FORWARDED, ANSWERING, LOCAL, CUT, ENDED, CLOSED = Phase
NEVER = None
# The phase after each trigger, in the order of Trigger; NEVER marks a trigger that is impossible in that phase.
EXPECTED: dict[Phase, list[Phase | None]] = {
    #          FORWARD    ANSWER     LOCAL  CHUNK      END    CUT    LEASE_LOST CLOSE
    OPEN:      [FORWARDED, NEVER,     LOCAL, NEVER,     NEVER, NEVER, CUT,       CLOSED],
    FORWARDED: [NEVER,     ANSWERING, LOCAL, NEVER,     NEVER, NEVER, CUT,       CLOSED],
    ANSWERING: [NEVER,     NEVER,     NEVER, ANSWERING, ENDED, CUT,   CUT,       CLOSED],
    LOCAL:     [NEVER,     NEVER,     NEVER, LOCAL,     LOCAL, NEVER, LOCAL,     CLOSED],
    CUT:       [CUT,       CUT,       LOCAL, CUT,       CUT,   NEVER, CUT,       CLOSED],
    ENDED:     [NEVER,     NEVER,     NEVER, ENDED,     ENDED, NEVER, ENDED,     CLOSED],
    CLOSED:    [NEVER,     NEVER,     NEVER, NEVER,     NEVER, NEVER, CLOSED,    NEVER],
}  # fmt: skip
PAIRS = [(phase, trigger, EXPECTED[phase][at]) for phase in Phase for at, trigger in enumerate(Trigger)]
BY_PAIR = [f"{phase}-{trigger}" for phase, trigger, _ in PAIRS]


class Clock:
    """Seconds that advance by one with every reading."""

    def __init__(self) -> None:
        self._readings = itertools.count(100.0)

    def __call__(self) -> float:
        return next(self._readings)


def exchange_after(*triggers: Trigger, **grant: Any) -> Exchange:
    """An exchange of /api/chat with a cap of two output tokens, after `triggers`."""
    granted = grant_for(BY_NAME["chat"], **{"output_cap": 2, **grant})
    exchange = Exchange(granted, json_of(granted), Clock())
    for trigger in triggers:
        TRIGGERS[trigger](exchange)
    return exchange


@pytest.mark.parametrize(("phase", "trigger", "after"), PAIRS, ids=BY_PAIR)
def test_the_table_covers_every_phase_and_event(phase: Phase, trigger: Trigger, after: Phase | None) -> None:
    if after is None:
        with pytest.raises(OutOfOrder, match=f"{trigger} is impossible in phase {phase}"):
            following(phase, trigger)
    else:
        assert following(phase, trigger) is after


# Outside of an answer, the chunk that would be cut is a chunk like any other.
@pytest.mark.parametrize(
    ("phase", "trigger", "after"), [pair for pair in PAIRS if pair[1] is not Trigger.CUT or pair[0] is ANSWERING]
)
def test_an_exchange_follows_the_table(phase: Phase, trigger: Trigger, after: Phase | None) -> None:
    exchange = exchange_after(*WAYS[phase])
    assert exchange.phase is phase
    ending = exchange.ending
    if after is None:
        with pytest.raises(OutOfOrder):
            TRIGGERS[trigger](exchange)
        assert exchange.phase is phase
    else:
        TRIGGERS[trigger](exchange)
        assert exchange.phase is after
    assert ending is None or exchange.ending is ending


def test_every_phase_but_the_first_can_be_entered_and_every_phase_but_the_last_can_be_left() -> None:
    entered = {after for row in TRANSITIONS.values() for after in row.values()}
    assert entered == set(Phase) - {OPEN}
    assert all(TRANSITIONS[phase][Trigger.CLOSE] is CLOSED for phase in Phase if phase is not CLOSED)


@pytest.mark.parametrize("phase", Phase)
def test_the_ending_is_made_once_and_not_before_nothing_more_can_reach_the_caller(phase: Phase) -> None:
    exchange = exchange_after(*WAYS[phase])
    assert (exchange.ending is not None) == (phase in (CUT, ENDED, CLOSED))
    exchange.lose_lease()
    if phase is not CLOSED:
        exchange.close()
    made = exchange.ending
    assert made is not None
    exchange.lose_lease()
    assert exchange.ending is made


FAILED, GONE = Outcome.UPSTREAM_ERROR, Outcome.CLIENT_GONE
ONE_TOKEN, TWO_TOKENS = Usage(11, 1, UsageSource.COUNTED), Usage(11, 2, UsageSource.COUNTED)


@pytest.mark.parametrize(
    ("triggers", "result"),
    [
        (WAYS[OPEN], AnswerResult(GONE, None, NO_USAGE)),
        (WAYS[FORWARDED], AnswerResult(GONE, None, PROMPT)),
        (WAYS[ANSWERING], AnswerResult(GONE, None, PROMPT, is_presumed=True)),
        ([*WAYS[ANSWERING], Trigger.CHUNK], AnswerResult(GONE, None, ONE_TOKEN, is_presumed=True)),
        (WAYS[LOCAL], AnswerResult(FAILED, "backend_unavailable", NO_USAGE)),
        ([Trigger.LOCAL_REPLY], AnswerResult(FAILED, "backend_unavailable", NO_USAGE)),
        (WAYS[CUT], AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, TWO_TOKENS)),
        (WAYS[ENDED], AnswerResult(FAILED, Code.BACKEND_ERROR, PROMPT)),
        ([Trigger.LEASE_LOST], AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, NO_USAGE)),
        (
            [*WAYS[ANSWERING], Trigger.CHUNK, Trigger.LEASE_LOST],
            AnswerResult(Outcome.CUT, Code.BACKEND_ERROR, ONE_TOKEN),
        ),
    ],
)
def test_each_way_out_has_its_ending_and_only_a_presumed_one_needs_the_access_log(
    triggers: list[Trigger], result: AnswerResult
) -> None:
    exchange = exchange_after(*triggers)
    closed = exchange.close()
    assert exchange.ending is not None
    assert (exchange.ending.outcome, exchange.ending.code, exchange.ending.usage) == (
        result.outcome,
        result.code,
        result.usage,
    )
    assert closed.cause_unknown is result.is_presumed
    assert (closed.entry.outcome, closed.entry.code, closed.entry.output_tokens) == (
        result.outcome,
        result.code,
        result.usage.output_tokens,
    )


def test_a_complete_answer_becomes_an_entry_with_its_times_and_bytes() -> None:
    exchange = exchange_after(*WAYS[ANSWERING], output_cap=100)
    assert [exchange.response_body(line, False) for line in LINES] == [None] * len(LINES)
    assert exchange.response_body(b"", True) is None
    entry = exchange.close().entry
    assert (entry.outcome, entry.status, entry.code, entry.backend) == (Outcome.COMPLETE, 200, None, "near")
    assert (entry.input_tokens, entry.output_tokens, entry.usage_source) == (26, 4, UsageSource.EXACT)
    # The clock is read on opening, on each of the four pieces and on the end of the answer.
    assert (entry.ttft_ms, entry.duration_ms, entry.response_bytes) == (1000, 5000, len(CHAT.body))


def test_the_frame_that_completes_an_answer_makes_the_ending_and_nothing_after_it_passes() -> None:
    exchange = exchange_after(*WAYS[ANSWERING], output_cap=100)
    assert exchange.response_body(b"".join(LINES[:-1]), False) is None
    assert exchange.final_entry is None
    assert exchange.response_body(LINES[-1], False) is None
    entry = exchange.final_entry
    assert entry is not None
    assert (entry.outcome, entry.output_tokens, exchange.phase) == (Outcome.COMPLETE, 4, ENDED)
    assert exchange.response_body(LINES[0], False) == b""
    assert exchange.response_body(b"", True) is None
    assert exchange.close().entry == entry


def test_an_answer_that_breaks_off_after_its_last_frame_is_complete_and_final() -> None:
    exchange = exchange_after(*WAYS[ANSWERING], output_cap=100)
    exchange.response_body(CHAT.body, False)
    closed = exchange.close()
    assert (closed.entry.outcome, closed.cause_unknown) == (Outcome.COMPLETE, False)


@pytest.mark.parametrize(("triggers", "status"), [([], 499), (WAYS[FORWARDED], 499), (WAYS[LOCAL], 503)])
def test_a_request_that_no_backend_answered_has_no_backend_in_its_entry(triggers: list[Trigger], status: int) -> None:
    entry = exchange_after(*triggers).close().entry
    assert (entry.status, entry.backend, entry.ttft_ms, entry.response_bytes) == (status, None, None, 0)


def test_a_backend_gets_the_rewritten_body_and_the_caller_the_names_of_the_options_that_were_dropped() -> None:
    exchange = exchange_after(show_backend=True)
    body = exchange.request_body(b'{"model":"M","keep_alive":-1,"options":{"num_ctx":1}}')
    assert not isinstance(body, Code)
    assert json.loads(body)["options"] == {"num_predict": 2}
    assert exchange.response_headers(200, NDJSON, "near", end_of_stream=False) == {
        ":status": "200",
        "x-gateway-backend": "near",
        "x-gateway-dropped-options": "keep_alive, options.num_ctx",
    }


def test_a_body_that_cannot_be_rewritten_is_not_forwarded() -> None:
    exchange = exchange_after()
    with pytest.raises(ValueError, match="not a JSON object"):
        exchange.request_body(b"[]")
    assert exchange.phase is OPEN


def test_a_cut_sends_its_error_frame_and_then_refuses_everything() -> None:
    exchange = exchange_after(*WAYS[ANSWERING])
    out = exchange.response_body(b"".join(LINES[:3]), False)
    assert out == b"".join(LINES[:2]) + error_frame(Dialect.NATIVE, Code.BACKEND_ERROR, OVER_CAP, "req-1")
    assert exchange.response_body(LINES[3], False) is Code.BACKEND_ERROR
    assert exchange.response_body(b"", True) is Code.BACKEND_ERROR
    assert exchange.close().entry.response_bytes == len(out)


@pytest.mark.parametrize("trigger", [Trigger.FORWARD, Trigger.ANSWER, Trigger.CHUNK])
def test_after_its_lease_is_lost_nothing_of_a_request_passes(trigger: Trigger) -> None:
    before = {Trigger.FORWARD: OPEN, Trigger.ANSWER: FORWARDED, Trigger.CHUNK: ANSWERING}
    exchange = exchange_after(*WAYS[before[trigger]], Trigger.LEASE_LOST)
    assert TRIGGERS[trigger](exchange) is (Code.UNAVAILABLE if trigger is Trigger.FORWARD else Code.BACKEND_ERROR)


def test_envoys_own_reply_passes_even_after_the_lease_is_lost() -> None:
    exchange = exchange_after(*WAYS[FORWARDED], Trigger.LEASE_LOST, Trigger.LOCAL_REPLY)
    assert exchange.response_body(b'{"error":"x"}', True) is None
    assert exchange.phase is LOCAL


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [
        (400, 400, Code.INVALID_REQUEST),
        (401, 502, Code.BACKEND_ERROR),
        (404, 404, Code.NOT_FOUND),
        (422, 422, Code.INVALID_REQUEST),
        (501, 501, Code.INVALID_REQUEST),
        (500, 500, Code.BACKEND_ERROR),
        (503, 503, Code.BACKEND_UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("has_body", [True, False])
def test_a_backends_error_has_one_code_in_its_headers_and_in_its_entry(
    status: int, shown: int, code: Code, has_body: bool
) -> None:
    exchange = exchange_after(Trigger.FORWARD)
    head = exchange.response_headers(status, "text/plain", "near", end_of_stream=not has_body)
    if has_body:
        assert head == {":status": str(shown), "x-gateway-error": code, "content-type": "application/json"}
        exchange.response_body(b"<html>", True)
    else:
        assert head is code
    entry = exchange.close().entry
    # Without a body the gateway writes its own error.
    assert (entry.status, entry.code) == (shown if has_body else STATUS[code], code)
    assert entry.outcome is Outcome.UPSTREAM_ERROR
    assert entry.usage_source is UsageSource.NONE


def test_a_backends_404_about_the_model_is_the_refusal_in_its_headers_and_in_its_entry() -> None:
    exchange = exchange_after(Trigger.FORWARD, refusal_status=404)
    head = exchange.response_headers(404, "application/json", "near", end_of_stream=False)
    code = Code.MODEL_NOT_ALLOWED
    assert head == {":status": "404", "x-gateway-error": code, "content-type": "application/json"}
    exchange.response_body(b'{"error":"model \'m:latest\' not found"}', True)
    entry = exchange.close().entry
    assert (entry.status, entry.code) == (404, code)


def test_a_hold_retains_what_was_delivered_so_far() -> None:
    exchange = exchange_after(*WAYS[FORWARDED])
    assert exchange.progress == Progress(0, 0, 0)
    TRIGGERS[Trigger.ANSWER](exchange)
    TRIGGERS[Trigger.CHUNK](exchange)
    assert exchange.progress == Progress(11, 1, len(LINES[0]))
    exchange.close()
    assert exchange.progress == Progress(11, 1, len(LINES[0]))


def test_a_transcript_is_what_the_caller_sent_and_received() -> None:
    exchange = exchange_after(*WAYS[CUT], log_prompts=True)
    assert exchange.transcript is not None
    entry = exchange.close().entry
    assert exchange.transcript.size_bytes == len(CHAT.request) + entry.response_bytes
    assert exchange_after().transcript is None


def test_a_whole_answer_that_its_caller_abandons_is_estimated_from_the_rate_of_its_model() -> None:
    """W17 of the comparison with the real Ollama."""
    rates = GenerationRates()
    rates.learn("m:latest", 100, 1.0)
    for stream, output_cap, expected in ((False, 1000, 150), (False, 40, 40), (True, 1000, 0)):
        granted = grant_for(BY_NAME["chat"], stream=stream, model="m:latest", output_cap=output_cap, input_estimate=9)
        now = 10.0
        exchange = Exchange(granted, json_of(granted), lambda: now, rates)  # noqa: B023 (it is called in this turn)
        exchange.request_body(b'{"model":"m","messages":[]}')
        now = 11.5
        entry = exchange.close().entry
        assert (entry.outcome, entry.status, entry.usage_source) == (Outcome.CLIENT_GONE, 499, UsageSource.ESTIMATED)
        assert (entry.input_tokens, entry.output_tokens) == (9, expected)
