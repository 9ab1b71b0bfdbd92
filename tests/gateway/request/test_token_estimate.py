from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.request.token_estimate import IMAGE_TOKENS, PROMPT_FIELDS, TEMPLATE_TOKENS, estimate_input
from gateway.wire.surfaces import BY_PATH, SURFACES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_json_value_has_an_estimate(document: Any) -> None:
    assert estimate_input(document) >= 0


@given(st.sampled_from(PROMPT_FIELDS), JSON)
def test_any_json_value_in_a_prompt_field_has_an_estimate(field: str, value: Any) -> None:
    assert estimate_input({"model": "m", field: value}) >= 0


@pytest.mark.parametrize("empty", [{}, [], "", None])
def test_an_empty_item_of_a_list_counts(empty: object) -> None:
    assert estimate_input({"messages": [empty] * 1000}) == 1000
    assert estimate_input({"messages": []}) == 0


@given(st.text(min_size=1), st.text())
def test_a_longer_prompt_never_has_a_smaller_estimate_and_no_prompt_is_free(prompt: str, more: str) -> None:
    for body, longer in (
        ({"prompt": prompt}, {"prompt": prompt + more}),
        ({"input": [prompt]}, {"input": [prompt, more]}),
        ({"messages": [{"content": prompt}]}, {"messages": [{"content": prompt}, {"content": more}]}),
        ({"tools": [{"function": {"name": prompt}}]}, {"tools": [{"function": {"name": prompt + more}}]}),
    ):
        assert 1 <= estimate_input(body) <= estimate_input(longer)


def test_a_lone_surrogate_is_estimated_like_any_character() -> None:
    assert estimate_input({"prompt": "\ud800"}) == 1


def test_fields_that_never_reach_the_model_are_not_estimated() -> None:
    assert estimate_input({"model": "m" * 900, "options": {"stop": ["x" * 900]}, "keep_alive": "5m"}) == 0


def test_a_nesting_beyond_the_recursion_limit_is_estimated() -> None:
    deep: Any = "text"
    for _ in range(50_000):
        deep = [deep]
    assert estimate_input({"input": deep}) == 2


PIXELS = "iVBORw0KGgo" * 10_000


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "x", "images": [PIXELS]}]},
        {"prompt": "x", "images": [PIXELS]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXELS}"}}]}]},
        {"input": [{"content": [{"type": "input_image", "image_url": f"data:image/png;base64,{PIXELS}"}]}]},
        {"messages": [{"content": [{"type": "image", "source": {"type": "base64", "data": PIXELS}}]}]},
        {"messages": [{"content": [{"type": "input_audio", "input_audio": {"format": "wav", "data": PIXELS}}]}]},
    ],
)
def test_an_image_counts_as_an_image_and_not_by_its_bytes(body: dict[str, Any]) -> None:
    assert IMAGE_TOKENS < estimate_input(body) < IMAGE_TOKENS + 40


@pytest.mark.parametrize(
    "arguments",
    [{"images": "x" * 9000}, {"format": 1, "data": "x" * 9000}, {"url": "data:" + "x" * 9000}, {"n": [1e15 / 3] * 500}],
    ids=list,
)
def test_tools_and_their_calls_count_by_their_bytes(arguments: dict[str, Any]) -> None:
    for body in (
        {"tools": [{"function": {"parameters": {"$defs": arguments}}}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]},
        {"messages": [{"content": [{"type": "tool_use", "name": "f", "input": arguments}]}]},
    ):
        assert estimate_input(body) > 2500


def test_a_data_url_in_a_text_counts_by_its_bytes() -> None:
    assert estimate_input({"prompt": "data:" + "x" * 9000}) > 3000


def test_the_names_in_a_tool_are_part_of_the_prompt() -> None:
    assert estimate_input({"tools": [{"properties": {"x" * 300: None}}]}) > 100


def test_each_number_of_a_tokenised_input_is_one_token() -> None:
    assert estimate_input({"input": [1, 2, 30_000]}) == 3


@pytest.mark.parametrize("path", ["/api/generate", "/v1/completions"])
def test_the_template_around_a_single_prompt_counts(path: str) -> None:
    """W14 of the comparison with the real Ollama, which counts 12 tokens for this prompt."""
    templated = BY_PATH[path].templates_prompt
    body = {"prompt": "The sea is"}
    assert estimate_input(body, templates_prompt=templated) == estimate_input(body) + TEMPLATE_TOKENS == 12
    assert estimate_input({**body, "raw": True}, templates_prompt=templated) == 4
    assert estimate_input({"prompt": ""}, templates_prompt=templated) == 0


def test_no_other_surface_has_a_template_around_a_prompt() -> None:
    assert {surface.name for surface in SURFACES if surface.templates_prompt} == {"generate", "v1_completions"}
