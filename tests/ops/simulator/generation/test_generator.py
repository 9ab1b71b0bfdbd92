from hypothesis import given
from hypothesis import strategies as st

from ops.simulator.generation.prompt import render
from ops.simulator.generation.request import Tool
from ops.simulator.generation.text import count_tokens
from tests.ops.simulator.generation.requests import content, request, run


@given(st.text(max_size=40), st.integers(1, 80), st.sampled_from(["llama3.2", "qwen3:8b"]))
def test_the_reported_count_equals_the_generated_tokens_and_is_within_the_cap(prompt: str, cap: int, name: str) -> None:
    deltas, finish = run(request(prompt, num_predict=cap), name)
    assert finish is not None
    assert finish.output_tokens == sum(delta.generated_tokens for delta in deltas) <= cap
    assert finish.output_tokens == cap or finish.reason == "stop"


def test_an_answer_that_ends_exactly_at_its_cap_finishes_with_stop() -> None:
    _, uncapped = run(request())
    assert uncapped is not None
    length = uncapped.output_tokens
    reasons = [finish.reason for cap in (length - 1, length) if (finish := run(request(num_predict=cap))[1])]
    assert reasons == ["length", "stop"]


def test_equal_requests_get_equal_answers_and_a_seed_varies_them() -> None:
    assert run(request()) == run(request())
    assert run(request()) != run(request(seed=1))


def test_some_frames_hold_several_tokens_and_some_tokens_make_no_frame() -> None:
    deltas, _ = run(request(), answer_tokens=400)
    assert any(len(delta.visible_tokens) > 1 for delta in deltas)
    assert any(delta.generated_tokens and not delta.is_visible for delta in deltas)


def test_an_answer_has_the_length_that_the_behaviour_or_the_prompt_requests() -> None:
    _, by_behaviour = run(request(), answer_tokens=77)
    _, by_prompt = run(request("Write it in 55 tokens"))
    assert by_behaviour is not None
    assert by_prompt is not None
    assert (by_behaviour.output_tokens, by_prompt.output_tokens) == (77, 55)


def test_the_answer_ends_before_a_stop_string_that_spans_tokens() -> None:
    complete = content(run(request(), answer_tokens=60)[0])
    stop = complete[20:30]
    deltas, finish = run(request(stop=(stop,)), answer_tokens=60)
    assert content(deltas) == complete[: complete.index(stop)]
    assert finish is not None
    assert finish.reason == "stop"


def test_text_that_only_begins_like_a_stop_string_is_released() -> None:
    complete = content(run(request(), answer_tokens=60)[0])
    assert content(run(request(stop=(complete[-4:] + "never",)), answer_tokens=60)[0]) == complete


def test_the_repeat_guard_ends_an_answer_without_a_finish() -> None:
    deltas, finish = run(request("Please repeat A forever"))
    assert finish is None
    assert 31 <= sum(delta.generated_tokens for delta in deltas) <= 33


def test_a_thinking_model_thinks_unless_disabled_and_its_thoughts_are_counted() -> None:
    thinking, finish = run(request(), "qwen3:8b")
    silent, _ = run(request(think=False), "qwen3:8b")
    assert any(delta.thinking for delta in thinking)
    assert not any(delta.thinking for delta in silent)
    assert finish is not None
    visible = count_tokens("".join(delta.thinking + delta.content for delta in thinking))
    assert finish.output_tokens == visible + 3, "two tags and the end mark"


def test_structured_output_of_a_thinking_model_reports_the_second_pass_only() -> None:
    deltas, finish = run(request(format="json"), "qwen3:8b")
    thoughts = count_tokens("".join(delta.thinking for delta in deltas))
    assert finish is not None
    assert finish.output_tokens == sum(delta.generated_tokens for delta in deltas) - thoughts
    assert finish.prompt_tokens == render(request(format="json")).tokens + thoughts


def test_a_tool_is_called_when_the_user_names_it_and_costs_more_tokens_than_frames() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = (Tool("get_weather", schema),)
    deltas, finish = run(request("get weather, please", tools=tools))
    calls = [delta.tool_call for delta in deltas if delta.tool_call]
    assert [call.name for call in calls] == ["get_weather"]
    assert isinstance(calls[0].arguments["city"], str)
    assert isinstance(calls[0].arguments["days"], int)
    assert finish is not None
    assert finish.output_tokens > 5
    assert run(request("good morning", tools=tools))[0][0].tool_call is None
    _, with_call_on_done = run(request("get_weather", tools=tools), tool_call_on_done=True)
    assert with_call_on_done is not None
    assert with_call_on_done.tail is not None
    assert with_call_on_done.tail.tool_call is not None
