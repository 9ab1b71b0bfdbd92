from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.request.runner_options import RUNNER_FIELDS, RUNNER_OPTIONS
from gateway.wire.surfaces import BY_NAME, SURFACES, Surface
from meter.rewrite import rewrite
from tests.meter.wire_corpus import grant_for

GENERATING = [surface for surface in SURFACES if surface.cap_field]
GRANTED = {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "options"}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e300, 1e300) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(["messages", "prompt", "tools", "format", "think", "seed", "Zürich 你好"]) | st.text(max_size=8),
    VALUES,
)


def rewritten(surface: Surface, body: dict[str, Any], **grant: Any) -> dict[str, Any]:
    return dict(json.loads(rewrite(json.dumps(body).encode(), grant_for(surface, **grant)).body))


def untouched(body: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in body.items() if key not in GRANTED and key not in RUNNER_FIELDS]


@given(st.sampled_from(SURFACES), FIELDS, st.booleans())
def test_every_field_outside_the_grant_keeps_its_value_and_its_order(
    surface: Surface, fields: dict[str, Any], stream: bool
) -> None:
    fields = dict(untouched(fields))
    body = {"model": "M", **fields, "options": {"num_predict": -1, "num_ctx": 1, "temperature": 0.5, "stop": ["a"]}}
    out = rewritten(surface, body, stream=stream)
    assert untouched(out) == list(fields.items())
    assert {"temperature": 0.5, "stop": ["a"]}.items() <= out["options"].items()


@given(st.sampled_from(GENERATING), VALUES, st.integers(1, 2**31))
def test_the_cap_is_the_granted_one_for_every_requested_one(surface: Surface, requested: Any, cap: int) -> None:
    body: Any = requested
    for field in reversed(surface.cap_field or ()):
        body = {field: body}
    out: Any = rewritten(surface, {"model": "M", **body}, output_cap=cap)
    for field in surface.cap_field or ():
        out = out[field]
    assert out == cap


@given(st.sampled_from(GENERATING), st.integers(max_value=0))
def test_a_generating_request_without_a_cap_is_never_sent(surface: Surface, cap: int) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        rewrite(b'{"model":"M"}', grant_for(surface, output_cap=cap))


def test_the_model_is_the_canonical_one_and_carried_values_keep_their_text() -> None:
    body = b' {"prompt" : "\\u00fc" , "model" : "LLAMA3.2" } \n'
    out = {surface.name: rewrite(body, grant_for(surface)).body for surface in SURFACES}
    start = b'{"prompt":"\\u00fc","model":"llama3.2:latest"'
    assert {name: each for name, each in out.items() if not (each.startswith(start) and each.endswith(b"}"))} == {}
    assert {json.loads(each)["model"] for each in out.values()} == {"llama3.2:latest"}


@pytest.mark.parametrize("stream", [True, False])
def test_the_stream_flag_is_explicit_where_the_surface_streams(stream: bool) -> None:
    assert {surface.name: rewritten(surface, {"model": "M"}, stream=stream).get("stream") for surface in SURFACES} == {
        surface.name: stream if surface.streams_by_default is not None else None for surface in SURFACES
    }


@pytest.mark.parametrize("requested", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
def test_an_openai_stream_always_requests_its_usage(requested: dict[str, Any]) -> None:
    for surface in (BY_NAME["v1_chat"], BY_NAME["v1_completions"]):
        out = rewritten(surface, {"model": "M", **requested}, stream=True)
        assert out["stream_options"] == {"include_usage": True}, surface.name
        assert "stream_options" not in rewritten(surface, {"model": "M"}, stream=False), surface.name


def test_max_completion_tokens_which_ollama_ignores_is_removed_from_a_chat() -> None:
    out = rewritten(BY_NAME["v1_chat"], {"model": "M", "max_completion_tokens": 9}, output_cap=9)
    assert out == {"model": "llama3.2:latest", "max_tokens": 9, "stream": False}


RUNNER_BODY = {
    "model": "M",
    "keep_alive": -1,
    "shift": True,
    "_debug_render_only": True,
    "options": {"temperature": 1, **dict.fromkeys(RUNNER_OPTIONS, 1)},
}


def test_options_that_reload_the_model_for_all_its_users_are_dropped_and_named() -> None:
    result = rewrite(json.dumps(RUNNER_BODY).encode(), grant_for(BY_NAME["chat"], output_cap=7))
    assert json.loads(result.body) == {
        "model": "llama3.2:latest",
        "options": {"temperature": 1, "num_predict": 7},
        "stream": True,
    }
    assert result.dropped_options == (
        "keep_alive", "shift", "_debug_render_only", "options.num_ctx", "options.num_batch", "options.num_gpu",
        "options.main_gpu", "options.use_mmap", "options.num_thread", "options.draft_num_predict",
        "options.numa", "options.low_vram", "options.f16_kv", "options.logits_all", "options.vocab_only",
        "options.use_mlock",
    )  # fmt: skip


def test_a_key_with_the_runner_scope_keeps_its_runner_options() -> None:
    grant = grant_for(BY_NAME["chat"], runner_options=True, output_cap=7)
    result = rewrite(json.dumps(RUNNER_BODY).encode(), grant)
    document = json.loads(result.body)
    assert result.dropped_options == ()
    assert {**RUNNER_BODY, "model": grant.model, "stream": True, "options": None} == {**document, "options": None}
    assert document["options"] == {"temperature": 1, **dict.fromkeys(RUNNER_OPTIONS, 1), "num_predict": 7}


@pytest.mark.parametrize("field", [*RUNNER_FIELDS, *(f"options.{name}" for name in RUNNER_OPTIONS)])
def test_an_option_that_is_null_requests_nothing_and_is_not_named(field: str) -> None:
    *parents, name = field.split(".")
    body: dict[str, Any] = {name: None}
    for parent in parents:
        body = {parent: body}
    result = rewrite(json.dumps({"model": "M", **body}).encode(), grant_for(BY_NAME["chat"]))
    assert result.dropped_options == ()
    assert name not in {**json.loads(result.body), **json.loads(result.body)["options"]}


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"id": {}, "ID": {}}}}}


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize("runner_options", [True, False])
@pytest.mark.parametrize(
    ("tools", "left"),
    [
        ([{"type": "web_search", "external_web_access": False}], []),
        ([FUNCTION, {"type": "web_search_20250305", "name": "s", "max_uses": 5}], [FUNCTION]),
        ([{"type": "WEB_SEARCH_preview"}, FUNCTION, 5, None], [FUNCTION, 5, None]),
        (
            [{"type": "namespace", "name": "n", "tools": [FUNCTION, {"type": "web_search"}]}, FUNCTION],
            [{"type": "namespace", "name": "n", "tools": [FUNCTION]}, FUNCTION],
        ),
    ],
    ids=["as Codex sends it", "as Claude Code sends it", "in any case", "in a namespace"],
)
def test_a_tool_that_the_backend_would_run_is_dropped_and_named(
    surface: Surface, runner_options: bool, tools: list[Any], left: list[Any]
) -> None:
    grant = grant_for(surface, runner_options=runner_options)
    result = rewrite(json.dumps({"model": "M", "tools": tools}).encode(), grant)
    assert json.loads(result.body)["tools"] == left
    assert result.dropped_options == ("tools.web_search",)


@pytest.mark.parametrize("tools", [None, [], {}, "web_search", [FUNCTION], [{"name": "web_search"}]])
def test_other_tools_keep_their_text(tools: Any) -> None:
    text = json.dumps(tools, indent=1)
    result = rewrite(b'{"model":"M","tools":%b}' % text.encode(), grant_for(BY_NAME["v1_responses"]))
    assert text.encode() in result.body
    assert result.dropped_options == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"model":', b"\xff{}"])
def test_a_body_that_is_not_a_json_object_raises(body: bytes) -> None:
    with pytest.raises(ValueError):
        rewrite(body, grant_for(BY_NAME["chat"]))
