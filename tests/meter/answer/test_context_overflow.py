"""The refusals of a long prompt, as the real Ollama writes them."""

from __future__ import annotations

import json

import pytest

from gateway.errors import Code, Denied
from gateway.values import Outcome
from gateway.wire.surfaces import BY_NAME
from meter.exchange import Exchange
from meter.rewrite import rewrite
from tests.meter.wire_corpus import grant_for, json_of

LLAMA_SERVER = json.dumps(
    {
        "error": {
            "code": 400,
            "message": "request (3010 tokens) exceeds the available context size (2048 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 3010,
            "n_ctx": 2048,
        }
    }
)
NO_SHIFT = "the prompt is longer than the context length currently available. Increase the context length"


@pytest.mark.parametrize(
    ("surface", "status", "text", "sentence"),
    [
        ("chat", 400, LLAMA_SERVER, "the prompt has 3010 tokens, and the context of this model has 2048"),
        ("v1_chat", 400, LLAMA_SERVER, "the prompt has 3010 tokens, and the context of this model has 2048"),
        ("v1_messages", 400, LLAMA_SERVER, "the prompt has 3010 tokens, and the context of this model has 2048"),
        ("generate", 400, NO_SHIFT, "the prompt has about 11 tokens, and the context of this model has 4096"),
        ("embed", 400, "the input length exceeds the context length", "the prompt has about 11 tokens, and the"),
        ("embeddings", 500, "the input length exceeds the context length", "the prompt has about 11 tokens, and the"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("requested", [0, 8192])
def test_the_refusal_of_a_long_prompt_has_one_code_and_the_numbers(
    surface: str, status: int, text: str, sentence: str, requested: int
) -> None:
    grant = grant_for(BY_NAME[surface], context_tokens=4096, requested_context=requested)
    body = {"error": text if surface in ("chat", "generate", "embed", "embeddings") else {"message": text}}
    exchange = Exchange(grant, json_of(grant), lambda: 0.0)
    exchange.request_body(b'{"model":"m"}')
    data = json.dumps(body).encode()
    exchange.response_headers(status, "application/json", "near", end_of_stream=False, body_bytes=len(data))
    assert exchange.holds_answer
    denied = exchange.response_body(data, True)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.status) == (Code.CONTEXT_LENGTH_EXCEEDED, 400)
    assert denied.message.startswith(sentence)
    assert ("asks for 8192" in denied.message) == bool(requested)
    entry = exchange.close().entry
    assert (entry.status, entry.code, entry.outcome) == (400, "context_length_exceeded", Outcome.UPSTREAM_ERROR)


@pytest.mark.parametrize("status", [400, 500])
def test_another_error_passes_with_the_code_of_its_status(status: int) -> None:
    grant = grant_for(BY_NAME["chat"])
    exchange = Exchange(grant, json_of(grant), lambda: 0.0)
    exchange.request_body(b'{"model":"m"}')
    data = b'{"error":"the context is unknown"}'
    exchange.response_headers(status, "application/json", "near", end_of_stream=False, body_bytes=len(data))
    assert exchange.response_body(data, True) == data
    assert exchange.close().entry.status == status


@pytest.mark.parametrize("body_bytes", [0, 65_537])
def test_an_error_of_unknown_or_great_length_is_not_held(body_bytes: int) -> None:
    grant = grant_for(BY_NAME["chat"])
    exchange = Exchange(grant, json_of(grant), lambda: 0.0)
    exchange.request_body(b'{"model":"m"}')
    exchange.response_headers(400, "application/json", "near", end_of_stream=False, body_bytes=body_bytes)
    assert not exchange.holds_answer


@pytest.mark.parametrize("name", ["chat", "generate", "embed", "embeddings", "v1_chat", "v1_embeddings"])
def test_ollama_refuses_a_long_prompt_where_it_can(name: str) -> None:
    surface = BY_NAME[name]
    for refuses in (True, False):
        grant = grant_for(surface, refuses_overflow=refuses)
        sent = json.loads(rewrite(b'{"model":"m","truncate":true}', grant).body)
        assert sent["truncate"] is not (refuses and surface.truncates)
