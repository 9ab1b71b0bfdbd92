from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.request.generation import OUTPUT_TOKENS_MAX, GenerationRequest, read_generation_request
from gateway.wire.surfaces import BY_NAME, SURFACES, Dialect, Surface

GENERATING = [surface for surface in SURFACES if surface.cap_field]


def body_with_cap(surface_name: str, value: object) -> dict[str, Any]:
    body: Any = value
    for field in reversed(BY_NAME[surface_name].cap_field or ()):
        body = {field: body}
    return dict(body)


def caps_read(value: object) -> dict[str, int | None]:
    """The cap that each surface reads when its field has this value. Surfaces that refuse the value are left out."""
    bodies = {surface.name: body_with_cap(surface.name, value) for surface in GENERATING}
    return {
        surface.name: read_generation_request(surface, bodies[surface.name]).output_tokens
        for surface in GENERATING
        if refusal(surface, bodies[surface.name]) is None
    }


def reading(value: object) -> list[Surface]:
    """The surfaces that accept the value as a cap."""
    surfaces = GENERATING
    if value is None or (isinstance(value, int) and value <= 0):
        surfaces = [surface for surface in surfaces if not surface.cap_required]
    if isinstance(value, float):
        surfaces = [surface for surface in surfaces if surface.dialect is Dialect.NATIVE]
    return surfaces


@pytest.mark.parametrize(
    ("value", "tokens"),
    [(1, 1), (64, 64), (64.0, 64), (0, None), (-1, None), (-2, None), (None, None), (2**63, None), (1e300, None)],
)
def test_a_cap_is_read_from_the_field_of_its_surface_and_none_when_unlimited(value: object, tokens: int | None) -> None:
    assert caps_read(value) == {surface.name: tokens for surface in reading(value)}


@given(st.integers() | st.floats().filter(float.is_integer))
def test_every_whole_number_is_a_cap_or_unlimited_on_every_surface(value: float) -> None:
    tokens = int(value) if 0 < value <= OUTPUT_TOKENS_MAX else None
    assert caps_read(value) == {surface.name: tokens for surface in reading(value)}


def refusal(surface: Surface, body: dict[str, Any]) -> str | None:
    """The message of the ValueError for a body, None when the body is valid."""
    try:
        read_generation_request(surface, body)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("value", [True, "64", 0.9, 64.5, [64], {"a": 1}])
def test_the_error_for_a_cap_of_another_type_names_the_field(value: object) -> None:
    assert {surface.name: refusal(surface, body_with_cap(surface.name, value)) for surface in GENERATING} == {
        surface.name: f"the field '{'.'.join(surface.cap_field or ())}' must be a whole number of tokens"
        for surface in GENERATING
    }


def test_the_largest_integer_of_ollama_is_a_cap() -> None:
    assert (
        read_generation_request(BY_NAME["v1_chat"], {"max_tokens": OUTPUT_TOKENS_MAX}).output_tokens
        == OUTPUT_TOKENS_MAX
    )


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"max_tokens": 10, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 10}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": -1, "max_completion_tokens": 7}, 7),
    ],
)
def test_the_lower_of_the_two_openai_chat_caps_counts(body: dict[str, Any], tokens: int) -> None:
    assert read_generation_request(BY_NAME["v1_chat"], body).output_tokens == tokens


def test_options_that_are_not_an_object_are_refused() -> None:
    with pytest.raises(ValueError, match="'options' must be a JSON object"):
        read_generation_request(BY_NAME["chat"], {"options": [1]})


@pytest.mark.parametrize("body", [{}, {"stream": None}])
def test_an_absent_or_null_stream_is_the_default_of_its_surface(body: dict[str, Any]) -> None:
    assert {
        surface.name: read_generation_request(surface, {**body, "max_tokens": 9}).stream for surface in SURFACES
    } == {surface.name: bool(surface.streams_by_default) for surface in SURFACES}


def test_a_stream_that_is_not_a_boolean_is_refused() -> None:
    with pytest.raises(ValueError, match="'stream' must be true or false"):
        read_generation_request(BY_NAME["v1_chat"], {"stream": "false"})


def test_an_embedding_never_streams() -> None:
    assert read_generation_request(BY_NAME["embed"], {"stream": True}) == GenerationRequest(
        None, stream=False, usage=True
    )


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"stream": True}, False),
        ({"stream": True, "stream_options": None}, False),
        ({"stream": True, "stream_options": {"include_usage": None}}, False),
        ({"stream": True, "stream_options": {"include_usage": False}}, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True),
        ({"stream": False}, True),
    ],
)
def test_only_a_stream_without_the_option_has_no_usage_report(body: dict[str, Any], usage: bool) -> None:
    reported = {name: read_generation_request(BY_NAME[name], body).usage for name in ("v1_chat", "v1_completions")}
    assert reported == {"v1_chat": usage, "v1_completions": usage}


@pytest.mark.parametrize("options", [{"include_usage": 1}, [], "yes"])
def test_stream_options_of_another_type_are_refused(options: object) -> None:
    with pytest.raises(ValueError, match="'stream_options"):
        read_generation_request(BY_NAME["v1_chat"], {"stream": True, "stream_options": options})


@pytest.mark.parametrize(("value", "names_cap"), [(None, False), (0, True), (-1, True), (5, True)])
def test_a_request_names_a_cap_also_when_it_means_unlimited(value: object, names_cap: bool) -> None:
    read = {s.name: read_generation_request(s, body_with_cap(s.name, value)).names_cap for s in reading(value)}
    assert read == {surface.name: names_cap for surface in reading(value)}


@pytest.mark.parametrize("body", [{}, {"max_tokens": None}, {"max_tokens": 0}, {"max_tokens": -1}])
def test_messages_without_a_positive_cap_are_refused_as_ollama_refuses_them(body: dict[str, Any]) -> None:
    """W19 of the comparison with the real Ollama."""
    refusals = {surface.name: refusal(surface, body) for surface in GENERATING if refusal(surface, body)}
    assert refusals == {"v1_messages": "max_tokens is required and must be positive"}


def test_a_cap_that_ollama_ignores_is_not_one_that_it_reads() -> None:
    assert not read_generation_request(BY_NAME["v1_chat"], {"max_completion_tokens": 5}).names_cap
