from __future__ import annotations

import json
from typing import Any

import pytest

from authz.context import SMALLEST_CONTEXT, ContextDecision, ContextRule
from authz.policy import Permission
from authz.request import read_request
from gateway.errors import Code, Denied
from gateway.request.token_estimate import estimate_input
from gateway.values import Budgets, Principal
from gateway.wire.surfaces import BY_NAME, SURFACES, Surface
from tests.gateway.quota.builders import WIDE

PRINCIPAL = Principal(
    1, "acme", 11, "nz_abc", frozenset(), frozenset(), True, WIDE, WIDE, Budgets(), Budgets(), False, None
)
TRUNCATING = [surface for surface in SURFACES if surface.truncates]
OTHERS = [surface for surface in SURFACES if not surface.truncates]


async def uncorrected(_tenant_id: int, _model: str, tokens: int) -> int:
    return tokens


def body(surface: Surface, text: str, **fields: Any) -> dict[str, Any]:
    """A request whose prompt is `text`, in the field that the surface reads."""
    field = {"generate": "prompt", "embeddings": "prompt", "v1_completions": "prompt"}.get(surface.name, "input")
    if surface.name in ("chat", "v1_chat", "v1_messages"):
        return {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}], **fields}
    return {"model": "m", field: text, **fields}


async def decide(
    surface: Surface,
    document: dict[str, Any],
    *,
    in_force: int | None = 2048,
    refuses: bool = False,
    runner: bool = False,
) -> ContextDecision:
    permission = Permission("m:latest", ("b",), runner_options=runner, show_backend=False, context_tokens=in_force)
    read = read_request(surface, json.dumps(document).encode(), "")
    input_tokens = estimate_input(read.document, templates_prompt=surface.templates_prompt)
    return await ContextRule(uncorrected, refuses=refuses).decide(PRINCIPAL, permission, surface, read, input_tokens)


LARGER = {"num_ctx": 8192}


@pytest.mark.parametrize("surface", TRUNCATING, ids=lambda surface: surface.name)
async def test_a_caller_that_requests_a_larger_context_gets_no_answer_to_a_cut_prompt(surface: Surface) -> None:
    """W27 of the comparison with the real Ollama: 6399 tokens, of which it answered 1027."""
    document = body(surface, "word " * 6399, options=LARGER)
    with pytest.raises(Denied, match=r"about 10\d{3} tokens.* has 2048; the request asks for 8192") as denied:
        await decide(surface, document)
    assert denied.value.code is Code.CONTEXT_LENGTH_EXCEEDED
    near = await decide(surface, body(surface, "word " * 1300, options=LARGER))
    assert (near.refuses_overflow, near.requested) == (True, 8192)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize(
    ("options", "in_force", "runner"),
    [({}, 2048, False), ({"num_ctx": 1024}, 2048, False), (LARGER, None, False), (LARGER, 2048, True)],
    ids=["no request", "a smaller one", "unknown", "scope runner"],
)
async def test_any_other_long_prompt_is_left_to_ollama(
    surface: Surface, options: dict[str, int], in_force: int | None, runner: bool
) -> None:
    document = body(surface, "word " * 4000, options=options)
    decision = await decide(surface, document, in_force=in_force, runner=runner)
    assert (decision.refuses_overflow, decision.requested) == (False, 0)


async def test_a_caller_may_request_the_truncation() -> None:
    document = body(BY_NAME["chat"], "word " * 6399, options=LARGER, truncate=True)
    assert not (await decide(BY_NAME["chat"], document)).refuses_overflow
    assert (await decide(BY_NAME["chat"], body(BY_NAME["chat"], "Hi"), refuses=True)).refuses_overflow


@pytest.mark.parametrize("surface", OTHERS, ids=lambda surface: surface.name)
async def test_where_ollama_cannot_refuse_the_estimate_does(surface: Surface) -> None:
    document = body(surface, "x" * 3 * 2030)
    assert not (await decide(surface, document)).refuses_overflow
    with pytest.raises(Denied, match=r"the context of this model has 2048$"):
        await decide(surface, document, refuses=True)
    assert not (await decide(surface, body(surface, "x" * 3 * 1900), refuses=True)).refuses_overflow


@pytest.mark.parametrize("surface", TRUNCATING, ids=lambda surface: surface.name)
async def test_where_ollama_can_refuse_it_decides(surface: Surface) -> None:
    assert (await decide(surface, body(surface, "x" * 3 * 2030), refuses=True)).refuses_overflow
    assert (await decide(surface, body(surface, "Hi"), in_force=None, refuses=True)).refuses_overflow


async def test_each_text_of_a_list_to_embed_has_a_whole_context() -> None:
    document = {"model": "m", "input": ["x" * 3 * 1000] * 50}
    decision = await decide(BY_NAME["v1_embeddings"], document, refuses=True)
    assert decision.calibrates
    document["input"] = ["a", "x" * 3 * 3000]
    with pytest.raises(Denied, match="about 3000 tokens"):
        await decide(BY_NAME["v1_embeddings"], document, refuses=True)


@pytest.mark.parametrize("in_force", [2048, None])
async def test_a_prompt_that_is_cut_is_no_sample_for_the_calibration(in_force: int | None) -> None:
    """W15 of the comparison with the real Ollama: 17,600 estimated tokens, of which it counted 2,047."""
    surface = BY_NAME["embed"]
    assert not (await decide(surface, body(surface, "x" * 52_800), in_force=in_force)).calibrates
    assert (await decide(surface, body(surface, "x" * 3 * SMALLEST_CONTEXT), in_force=in_force)).calibrates
