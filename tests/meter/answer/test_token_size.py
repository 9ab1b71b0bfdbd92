"""The learnt size of a token, and what it makes of answers without counts."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.values import Usage, UsageSource
from gateway.wire.surfaces import BY_NAME
from meter.answer import token_size
from meter.answer.answer import Answer
from meter.answer.token_size import BYTES_MAX, BYTES_MIN, SAMPLE_TOKENS_MIN, Sample, TokenSize, TokenSizes
from meter.answer.usage import UsageFold
from meter.frames.frame import FrameRead, reported
from tests.meter.wire_corpus import grant_for

MODEL = "llama3.2:latest"
ENGLISH = TokenSize(mean=4.5, deviation=0.2)

SAMPLES = st.builds(Sample, st.integers(0, 10**9), st.integers(1, 10**6))
SIZES = st.lists(SAMPLES, min_size=1).map(lambda samples: learnt(*samples))
FRAMES = st.lists(
    st.builds(FrameRead, min_output_tokens=st.integers(0, 3), text_bytes=st.integers(0, 400), words=st.integers(0, 60))
)


def learnt(*samples: Sample) -> TokenSize:
    first, *others = samples
    *_, last = accumulate(others, TokenSize.after, initial=TokenSize.first(first))
    return last


def output_of(frames: list[FrameRead], size: TokenSize | None, cap: int = 10**6) -> Usage:
    fold = UsageFold(1, cap, size)
    for frame in frames:
        fold.add(frame)
    return fold.usage


@given(SIZES, st.integers(0, 10**7))
def test_no_samples_teach_a_size_outside_of_the_bounds(size: TokenSize, text_bytes: int) -> None:
    assert BYTES_MIN <= size.mean <= BYTES_MAX
    assert 0 <= size.deviation <= BYTES_MAX
    assert 0 <= size.least_tokens(text_bytes) <= size.expected_tokens(text_bytes)
    assert text_bytes / BYTES_MAX - 1 <= size.expected_tokens(text_bytes) <= text_bytes / BYTES_MIN + 1


@given(FRAMES, SIZES)
def test_output_is_never_less_than_the_frames_the_words_and_the_text(frames: list[FrameRead], size: TokenSize) -> None:
    tokens = output_of(frames, size).output_tokens
    assert tokens >= sum(frame.min_output_tokens for frame in frames)
    assert tokens >= sum(frame.words for frame in frames)
    assert tokens >= size.least_tokens(sum(frame.text_bytes for frame in frames))


@given(FRAMES, SIZES)
def test_what_is_counted_only_grows(frames: list[FrameRead], size: TokenSize) -> None:
    tokens = [output_of(frames[:end], size).output_tokens for end in range(len(frames) + 1)]
    assert tokens == sorted(tokens)


@given(st.integers(1, 2000), st.floats(BYTES_MIN, BYTES_MAX))
def test_a_text_of_average_tokens_has_at_least_the_tokens_of_the_lower_bound(tokens: int, mean: float) -> None:
    size = TokenSize(mean, deviation=0)
    text_bytes = int(tokens * mean)
    assert size.least_tokens(text_bytes) <= tokens
    assert abs(size.expected_tokens(text_bytes) - tokens) <= 1


def test_a_sample_moves_the_mean_by_an_eighth_of_the_difference() -> None:
    size = learnt(Sample(400, 100), Sample(480, 100))
    assert size.mean == pytest.approx(4.1)
    assert size.deviation == pytest.approx(1 + (0.8 - 1) / 4)


def test_short_single_words_are_counted_by_their_frames() -> None:
    frames = [FrameRead(1, text_bytes=each, words=1) for each in (7, 8, 8, 7, 8)]
    assert output_of(frames, ENGLISH) == Usage(1, 5, UsageSource.COUNTED)


def test_frames_that_carry_several_tokens_in_one_word_each_are_counted_by_their_text() -> None:
    frames = [FrameRead(1, text_bytes=15, words=1)] * 40
    assert output_of(frames, None) == Usage(1, 40, UsageSource.COUNTED)
    usage = output_of(frames, ENGLISH)
    assert usage.source is UsageSource.ESTIMATED
    assert 80 < usage.output_tokens <= 40 * 15 / 4.5


def test_a_whole_answer_is_estimated_by_the_learnt_size() -> None:
    whole = [FrameRead(0, text_bytes=900, words=150, terminal=True)]
    assert output_of(whole, None).output_tokens == 300
    assert output_of(whole, ENGLISH) == Usage(1, 200, UsageSource.ESTIMATED)


@pytest.mark.parametrize("reason", ["length", "load", None])
def test_an_answer_that_was_cut_is_no_sample(reason: str | None) -> None:
    fold = UsageFold(1, 1000)
    fold.add(FrameRead(1, 400, usage=reported(5, 100), finish=reason))
    assert fold.sample is None


def test_a_count_below_the_frames_or_of_zero_is_no_sample() -> None:
    for tokens in (0, 2):
        fold = UsageFold(1, 1000)
        for _ in range(3):
            fold.add(FrameRead(1, 4))
        fold.add(FrameRead(usage=reported(5, tokens), finish="stop"))
        assert fold.sample is None


def native_answer(text: str, tokens: int | None, reason: str = "stop", done: bool = True) -> bytes:
    counts = {} if tokens is None else {"prompt_eval_count": 7, "eval_count": tokens}
    ending: dict[str, Any] = {"done": done, **({"done_reason": reason} if done else {}), **counts}
    return json.dumps({"model": MODEL, "message": {"role": "assistant", "content": text}, **ending}).encode()


def answered(sizes: TokenSizes, body: bytes, tenant_id: int = 1) -> Usage:
    answer = Answer(grant_for(BY_NAME["chat"], tenant_id=tenant_id, model=MODEL, output_cap=5000), sizes)
    answer.headers(200, "application/json")
    answer.chunk(body, end_of_stream=True)
    assert answer.result is not None
    return answer.result.usage


def test_whole_answers_teach_the_tenant_and_the_model_alone() -> None:
    sizes, text = TokenSizes(), "word " * 100
    assert answered(sizes, native_answer(text, 125)).source is UsageSource.EXACT
    assert answered(sizes, native_answer(text, None)).output_tokens == 125
    assert answered(sizes, native_answer(text, None), tenant_id=2).output_tokens == 167
    assert sizes.get(1, "another") is None


@pytest.mark.parametrize(
    "body",
    [
        native_answer("word " * 100, 125, reason="length"),
        native_answer("word " * 100, None, done=False),
        native_answer("word ", SAMPLE_TOKENS_MIN - 1),
        native_answer("", SAMPLE_TOKENS_MIN),
    ],
    ids=["truncated", "repeat guard", "short", "empty"],
)
def test_other_answers_teach_nothing(body: bytes) -> None:
    sizes = TokenSizes()
    answered(sizes, body)
    assert sizes.get(1, MODEL) is None


def test_the_sizes_used_last_are_retained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_size, "ENTRIES_MAX", 2)
    sizes = TokenSizes()
    sizes.learn(1, MODEL, Sample(400, 100))
    sizes.learn(2, MODEL, Sample(400, 100))
    sizes.get(1, MODEL)
    sizes.learn(3, MODEL, Sample(400, 100))
    assert [sizes.get(tenant_id, MODEL) is not None for tenant_id in (1, 2, 3)] == [True, False, True]
