from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.values import Usage, UsageSource
from gateway.wire.surfaces import BY_NAME
from meter.answer.usage import COUNTED_TOKEN_BYTES_MAX, TOKEN_BYTES_MAX, UsageFold
from meter.frames.frame import FrameRead, reported
from meter.frames.readers import read_frame

EXACT, COUNTED, ESTIMATED = UsageSource.EXACT, UsageSource.COUNTED, UsageSource.ESTIMATED
WORD = FrameRead(min_output_tokens=1, text_bytes=5)

READS = st.builds(
    FrameRead,
    min_output_tokens=st.integers(0, 3),
    text_bytes=st.integers(0, 400),
    usage=st.none() | st.builds(reported, st.integers(0, 500), st.integers(0, 500)),
    terminal=st.booleans(),
    finish=st.sampled_from([None, "stop", "load"]),
)


def folded(*reads: FrameRead, input_estimate: int = 11, output_cap: int = 1000) -> UsageFold:
    fold = UsageFold(input_estimate, output_cap)
    for read in reads:
        fold.add(read)
    return fold


@given(st.lists(READS), st.integers(1, 100))
def test_output_that_was_delivered_is_never_zero_and_never_more_than_the_cap(reads: list[FrameRead], cap: int) -> None:
    usage = folded(*reads, output_cap=cap).usage
    delivered = any(read.min_output_tokens or read.text_bytes for read in reads)
    assert usage.output_tokens <= cap
    assert usage.output_tokens >= (1 if delivered else 0)
    assert usage.input_tokens >= (1 if delivered else 0)
    assert usage.source is not UsageSource.NONE


@given(st.lists(READS.map(lambda read: FrameRead(read.min_output_tokens, read.text_bytes))))
def test_what_is_counted_only_grows(reads: list[FrameRead]) -> None:
    tokens = [folded(*reads[:end]).usage.output_tokens for end in range(len(reads) + 1)]
    assert tokens == sorted(tokens)


def test_both_counts_of_the_backend_are_exact() -> None:
    assert folded(WORD, WORD, FrameRead(usage=reported(26, 4))).usage == Usage(26, 4, EXACT)


def test_small_frames_are_counted_as_the_tokens_they_are() -> None:
    assert folded(WORD, WORD, FrameRead(1, COUNTED_TOKEN_BYTES_MAX)).usage == Usage(11, 3, COUNTED)


def test_log_probabilities_count_before_their_text_appears() -> None:
    assert folded(FrameRead(1, 0), FrameRead(1, 0), FrameRead(1, 12)).usage == Usage(11, 3, COUNTED)


def test_a_frame_of_many_words_is_estimated_from_its_size() -> None:
    assert folded(WORD, FrameRead(1, 300)).usage == Usage(11, 101, ESTIMATED)


def test_a_whole_answer_without_a_report_is_estimated_from_its_size() -> None:
    assert folded(FrameRead(0, 12, terminal=True)).usage == Usage(11, 4, ESTIMATED)


def test_a_report_of_zeros_for_delivered_text_is_ignored() -> None:
    assert folded(WORD, WORD, FrameRead(usage=reported(0, 0), finish="stop")).usage == Usage(11, 2, COUNTED)


def test_a_report_of_zeros_without_a_finish_reason_is_ignored() -> None:
    assert folded(FrameRead(usage=reported(0, 0), terminal=True)).usage == Usage(11, 0, ESTIMATED)


@pytest.mark.parametrize(
    "read", [FrameRead(terminal=True, finish="load"), FrameRead(usage=reported(0, 0), finish="stop_sequence")]
)
def test_a_load_uses_exactly_no_tokens(read: FrameRead) -> None:
    assert folded(read).usage == Usage(0, 0, EXACT)


def test_an_answer_without_text_has_the_reported_count_of_its_prompt() -> None:
    assert folded(FrameRead(usage=reported(26, 0), finish="stop")).usage == Usage(26, 0, EXACT)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [(reported(0, 4), Usage(11, 4, COUNTED)), (reported(26, 0), Usage(26, 1, COUNTED)), (None, Usage(11, 1, COUNTED))],
)
def test_a_missing_count_is_counted_or_estimated_and_the_other_is_retained(
    usage: Usage | None, expected: Usage
) -> None:
    assert folded(WORD, FrameRead(usage=usage, finish="stop")).usage == expected


@pytest.mark.parametrize(("usage", "expected"), [(reported(8, 0), (8, EXACT)), (reported(0, 0), (11, ESTIMATED))])
def test_an_embedding_takes_its_input_from_the_report_or_the_estimate(
    usage: Usage, expected: tuple[int, UsageSource]
) -> None:
    fold = folded(FrameRead(usage=usage, terminal=True), output_cap=0)
    assert fold.usage == Usage(expected[0], 0, expected[1])


def test_an_embedding_that_cannot_be_read_is_not_over_a_cap_it_does_not_have() -> None:
    fold = folded(FrameRead(text_bytes=900), output_cap=0)
    assert (fold.over_cap, fold.usage) == (False, Usage(11, 0, ESTIMATED))


def test_an_answer_of_which_nothing_arrived_is_counted_its_prompt() -> None:
    assert folded().usage == Usage(11, 0, ESTIMATED)


@pytest.mark.parametrize(
    ("reads", "over"),
    [
        ([WORD] * 10, False),
        ([WORD] * 11, True),
        ([FrameRead(1, TOKEN_BYTES_MAX * 10)], False),
        ([FrameRead(1, TOKEN_BYTES_MAX * 10 + 1)], True),
        ([WORD, FrameRead(usage=reported(26, 10))], False),
        ([WORD, FrameRead(usage=reported(26, 11))], True),
    ],
)
def test_the_cap_is_exceeded_only_when_that_is_certain(reads: list[FrameRead], over: bool) -> None:
    assert folded(*reads, output_cap=10).over_cap is over


def test_frames_of_several_words_are_never_counted_as_fewer_tokens_than_their_words() -> None:
    fold = UsageFold(input_estimate=5, output_cap=100)
    for _ in range(6):
        fold.add(read_frame(BY_NAME["chat"], b'{"message":{"content":" one two three"},"done":false}'))
    assert fold.usage.output_tokens >= 18
    assert fold.usage.source is UsageSource.ESTIMATED


@pytest.mark.parametrize("surface", ["generate", "v1_completions", "v1_chat", "v1_responses", "v1_messages", "chat"])
def test_a_whole_answer_that_the_repeat_guard_ended_counts_as_many_tokens_as_words(surface: str) -> None:
    text = " a" * 31
    choice = {"text": text, "message": {"content": text}}
    document = {
        "response": text, "done": False, "message": {"content": text}, "choices": [choice],
        "output": [{"content": [{"text": text}]}], "content": [{"text": text}],
    }  # fmt: skip
    fold = UsageFold(input_estimate=5, output_cap=100)
    fold.add(read_frame(BY_NAME[surface], json.dumps(document).encode(), whole=True))
    assert fold.usage == Usage(5, 31, UsageSource.ESTIMATED)
