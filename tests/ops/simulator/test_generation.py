from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.simulator.generation import text
from ops.simulator.generation.generator import (
    Ask,
    Event,
    Finish,
    Piece,
    Tool,
    Turn,
    count_prompt,
    generate,
    output_limit,
)
from ops.simulator.models.library import Library, Model


def model(name: str = "llama3.2") -> Model:
    return Library(lambda: 0.0).add(name)


def ask(prompt: str = "Say hello", **fields: Any) -> Ask:
    given_fields = {"surface": "chat", "model": "m", "turns": (Turn("user", prompt),), "stream": True, **fields}
    return Ask(**given_fields)


def run(request: Ask, name: str = "llama3.2", **fields: Any) -> tuple[list[Piece], Finish | None]:
    events: list[Event] = list(generate(request, model(name), limit=output_limit(request), **fields))
    pieces = [event for event in events if isinstance(event, Piece)]
    return pieces, next((event for event in events if isinstance(event, Finish)), None)


def said(pieces: list[Piece]) -> str:
    return "".join(piece.content for piece in pieces)


@given(st.text())
def test_tokens_joined_are_the_text(content: str) -> None:
    assert "".join(text.tokenise(content)) == content


@given(st.text(max_size=40), st.integers(1, 80), st.sampled_from(["llama3.2", "qwen3:8b"]))
def test_the_reported_count_is_what_was_generated_and_within_the_cap(prompt: str, cap: int, name: str) -> None:
    pieces, finish = run(ask(prompt, num_predict=cap), name)
    assert finish is not None
    assert finish.output_tokens == sum(piece.generated for piece in pieces) <= cap
    assert finish.output_tokens == cap or finish.reason == "stop"


def test_an_answer_that_ends_exactly_at_its_cap_was_not_cut() -> None:
    _, natural = run(ask())
    assert natural is not None
    length = natural.output_tokens
    reasons = [finish.reason for cap in (length - 1, length) if (finish := run(ask(num_predict=cap))[1])]
    assert reasons == ["length", "stop"]


def test_the_same_request_gets_the_same_answer_and_a_seed_changes_it() -> None:
    assert run(ask()) == run(ask())
    assert run(ask()) != run(ask(seed=1))


def test_some_frames_hold_several_tokens_and_some_tokens_make_no_frame() -> None:
    pieces, _ = run(ask(), answer_tokens=400)
    assert any(len(piece.tokens) > 1 for piece in pieces)
    assert any(piece.generated and not piece.visible for piece in pieces)


def test_an_answer_has_the_length_that_was_wished() -> None:
    _, by_behaviour = run(ask(), answer_tokens=77)
    _, by_prompt = run(ask("Tell it in 55 tokens"))
    assert by_behaviour is not None
    assert by_prompt is not None
    assert (by_behaviour.output_tokens, by_prompt.output_tokens) == (77, 55)


@pytest.mark.parametrize("num_predict", [0, -1, -2, -(2**63), 41, 10**9])
def test_no_limit_and_a_limit_beyond_it_are_ten_contexts(num_predict: int) -> None:
    assert output_limit(ask(num_predict=num_predict, num_ctx=4)) == 40


def test_the_answer_ends_before_a_stop_string_that_spans_tokens() -> None:
    whole = said(run(ask(), answer_tokens=60)[0])
    stop = whole[20:30]
    pieces, finish = run(ask(stop=(stop,)), answer_tokens=60)
    assert said(pieces) == whole[: whole.index(stop)]
    assert finish is not None
    assert finish.reason == "stop"


def test_a_text_that_only_begins_like_a_stop_string_is_not_lost() -> None:
    whole = said(run(ask(), answer_tokens=60)[0])
    assert said(run(ask(stop=(whole[-4:] + "never",)), answer_tokens=60)[0]) == whole


def test_a_model_that_repeats_itself_is_ended_without_a_finish() -> None:
    pieces, finish = run(ask("Please repeat A forever"))
    assert finish is None
    assert 31 <= sum(piece.generated for piece in pieces) <= 33


def test_a_thinking_model_thinks_unless_it_is_told_not_to_and_its_thoughts_are_counted() -> None:
    thought, finish = run(ask(), "qwen3:8b")
    silent, _ = run(ask(think=False), "qwen3:8b")
    assert any(piece.thinking for piece in thought)
    assert not any(piece.thinking for piece in silent)
    assert finish is not None
    shown = text.count_tokens("".join(piece.thinking + piece.content for piece in thought))
    assert finish.output_tokens == shown + 3, "two tags and the end mark"


def test_structured_output_of_a_thinking_model_hides_the_first_pass() -> None:
    pieces, finish = run(ask(format="json"), "qwen3:8b")
    thoughts = text.count_tokens("".join(piece.thinking for piece in pieces))
    assert finish is not None
    assert finish.output_tokens == sum(piece.generated for piece in pieces) - thoughts
    assert finish.prompt_tokens == count_prompt(ask(format="json")) + thoughts


def test_a_tool_is_called_when_the_user_names_it_and_costs_more_tokens_than_frames() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = (Tool("get_weather", schema),)
    pieces, finish = run(ask("get weather, please", tools=tools))
    calls = [piece.call for piece in pieces if piece.call]
    assert [call.name for call in calls] == ["get_weather"]
    assert isinstance(calls[0].arguments["city"], str)
    assert isinstance(calls[0].arguments["days"], int)
    assert finish is not None
    assert finish.output_tokens > 5
    assert run(ask("good morning", tools=tools))[0][0].call is None
    _, on_done = run(ask("get_weather", tools=tools), call_on_done=True)
    assert on_done is not None
    assert on_done.tail is not None
    assert on_done.tail.call is not None


def test_the_prompt_is_counted_with_its_turns_images_and_tools() -> None:
    bare = count_prompt(ask("a b c"))
    assert bare == 3 + 4
    assert count_prompt(ask("a b c", turns=(Turn("user", "a b c", images=2),))) == bare + 512
    assert count_prompt(ask("a b c", tools=(Tool("t", {}),))) > bare
    assert count_prompt(ask("word " * 9000)) == 4096
