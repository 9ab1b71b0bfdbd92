"""The official clients, unmodified: the lines of a stream, listings, and streaming through Caddy."""

from __future__ import annotations

import ssl
from typing import Any

import httpx
import pytest

from tests.e2e.ledger_view import audit_row
from tests.e2e.official_clients import Clients
from tests.e2e.stack import Stack

MODEL = "llama3.2:latest"
QUESTION: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture
def clients(stack: Stack, key: str) -> Clients:
    return Clients.of(stack, key, max_retries=0)


def test_a_stream_has_no_usage_report_that_was_not_requested(clients: Clients) -> None:
    with clients.openai.chat.completions.with_streaming_response.create(
        model=MODEL, messages=QUESTION, stream=True
    ) as answer:
        lines = list(answer.iter_lines())
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"
    assert not any("usage" in line for line in lines)


def test_listings_contain_the_models_that_the_key_may_use(stack: Stack, clients: Clients) -> None:
    import openai

    ids = {model.id for model in clients.openai.models.list()}
    assert MODEL in ids
    assert ids == {model.model for model in clients.ollama.list().models}
    assert clients.openai.models.retrieve(MODEL).id == MODEL
    stack.cli("create-tenant", "--name", "narrow", "--models", MODEL)
    narrow = stack.cli("create-key", "--tenant", "narrow", "--name", "k")["key"]
    listed = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=narrow).models.list()
    assert [model.id for model in listed] == [MODEL]


def test_a_chat_streams_through_caddy_with_a_certificate_of_its_internal_authority(stack: Stack, key: str) -> None:
    trust = ssl.create_default_context(cafile=str(stack.state_dir / "caddy-root.crt"))
    with (
        httpx.Client(verify=trust) as client,
        client.stream(
            "POST",
            f"{stack.ready['tls_url']}/api/chat",
            json={"model": MODEL, "messages": QUESTION},
            headers={"Authorization": f"Bearer {key}"},
        ) as answer,
    ):
        assert answer.status_code == 200
        lines = list(answer.iter_lines())
    assert '"done":true' in lines[-1]
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert "server" not in answer.headers
    assert audit_row(stack, answer.headers["x-request-id"])["outcome"] == "complete"
