from __future__ import annotations

from typing import Any

import pytest

from gateway.request.runner_options import decisive_option
from gateway.wire.surfaces import BY_NAME, SURFACES

HELLO = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "input": "Hi"}
NATIVE = {"chat", "generate", "embed", "embeddings"}


def surfaces_with(option: str, document: dict[str, Any]) -> set[str]:
    return {surface.name for surface in SURFACES if decisive_option(surface, document) == option}


@pytest.mark.parametrize("empty", [{}, {"messages": [], "prompt": "", "input": []}, {"messages": None, "input": ""}])
@pytest.mark.parametrize("keep_alive", [0, 0.5, -0.0, "0", "0s", "-0m", "999ms", "1us"])
def test_an_unload_is_decided_by_its_keep_alive(keep_alive: object, empty: dict[str, Any]) -> None:
    """W3 of the comparison with the real Ollama."""
    assert surfaces_with("keep_alive", {**empty, "keep_alive": keep_alive}) == NATIVE


@pytest.mark.parametrize("keep_alive", [None, -1, 1, 1e9, "1s", "-1s", "1h30m", "1.5h", ".5m"])
def test_any_other_keep_alive_changes_only_how_long_the_model_stays(keep_alive: object) -> None:
    assert surfaces_with("keep_alive", {"keep_alive": keep_alive}) == set()
    assert surfaces_with("keep_alive", {**HELLO, "keep_alive": 0}) == set()


@pytest.mark.parametrize(
    "keep_alive", ["5 minutes", "", "5", "m", "1d", True, [], {}, "infinity", " 5m", "1" * 1_000_000]
)
def test_a_keep_alive_that_ollama_refuses_is_refused(keep_alive: object) -> None:
    """W20."""
    for surface in SURFACES:
        if surface.name in NATIVE:
            with pytest.raises(ValueError, match="'keep_alive' must be"):
                decisive_option(surface, {**HELLO, "keep_alive": keep_alive})
        else:
            assert decisive_option(surface, {**HELLO, "keep_alive": keep_alive}) is None


def test_a_rendered_template_and_a_refused_shift_are_other_requests() -> None:
    rendered = {"chat", "generate", "v1_chat", "v1_completions"}
    assert surfaces_with("_debug_render_only", {**HELLO, "_debug_render_only": True}) == rendered
    assert surfaces_with("shift", {**HELLO, "shift": False}) == {"chat", "generate"}


@pytest.mark.parametrize("fields", [{"_debug_render_only": False}, {"shift": True}, {"shift": None}])
def test_the_default_of_an_option_decides_nothing(fields: dict[str, Any]) -> None:
    assert {decisive_option(surface, {**HELLO, **fields}) for surface in SURFACES} == {None}


@pytest.mark.parametrize("name", ["shift", "_debug_render_only"])
def test_a_flag_of_another_type_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' must be true or false"):
        decisive_option(BY_NAME["chat"], {name: "no"})
