"""The official clients, unchanged, through the gateway: what they read, and the row each request leaves."""

from __future__ import annotations

import ssl
from typing import Any

import httpx
import ollama as ollama_client
import openai
import pytest

from tests.e2e.stack import Simulator, Stack, eventually

MODEL = "llama3.2:latest"
QUESTION: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]


class SeenIds:
    """Notes the request ids of the answers a client got."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def __call__(self, response: Any) -> None:
        self.ids.append(response.headers["x-request-id"])


@pytest.fixture
def seen() -> SeenIds:
    return SeenIds()


@pytest.fixture
def openai_client(stack: Stack, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def native_client(stack: Stack, key: str, seen: SeenIds) -> Any:
    return ollama_client.Client(
        host=stack.url, headers={"Authorization": f"Bearer {key}"}, event_hooks={"response": [seen]}
    )


def check_row(stack: Stack, ollama: Simulator, request_id: str, surface: str, *, stream: bool) -> dict[str, Any]:
    """The one row says what the backend itself counted."""
    row = stack.row(request_id)
    (truth,) = eventually(lambda: [each for each in ollama.requests(request_id) if each["ended_at"]])
    assert (row["input_tokens"], row["output_tokens"]) == (truth["prompt_tokens"], truth["output_tokens"])
    assert row["output_tokens"] > 0
    assert (row["surface"], row["stream"], row["model"]) == (surface, stream, MODEL)
    assert (row["usage_source"], row["outcome"], row["status"]) == ("exact", "complete", 200)
    assert (row["backend"], row["tenant"]) == ("sim", "clients")
    return row


def test_openai_chat_whole(stack: Stack, ollama: Simulator, openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.with_raw_response.create(model=MODEL, messages=QUESTION)
    chat = answer.parse()
    assert chat.choices[0].message.content
    row = check_row(stack, ollama, answer.headers["x-request-id"], "v1_chat", stream=False)
    assert chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (row["input_tokens"], row["output_tokens"])


def test_openai_chat_streamed_without_asking_for_usage(
    stack: Stack, ollama: Simulator, openai_client: openai.OpenAI
) -> None:
    with openai_client.chat.completions.with_streaming_response.create(
        model=MODEL,
        messages=QUESTION,
        stream=True,
    ) as answer:
        lines = list(answer.iter_lines())
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"
    assert not any("usage" in line for line in lines)
    check_row(stack, ollama, answer.headers["x-request-id"], "v1_chat", stream=True)


def test_openai_chat_streamed_with_usage(stack: Stack, ollama: Simulator, openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.with_raw_response.create(
        model=MODEL,
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(answer.parse())
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    row = check_row(stack, ollama, answer.headers["x-request-id"], "v1_chat", stream=True)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == row["output_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_openai_completions(stack: Stack, ollama: Simulator, openai_client: openai.OpenAI, stream: bool) -> None:
    answer = openai_client.completions.with_raw_response.create(model=MODEL, prompt="Once upon a time", stream=stream)
    parsed: Any = answer.parse()
    text = "".join(c.choices[0].text for c in parsed if c.choices) if stream else parsed.choices[0].text
    assert text
    check_row(stack, ollama, answer.headers["x-request-id"], "v1_completions", stream=stream)


@pytest.mark.parametrize("stream", [False, True])
def test_native_chat(stack: Stack, ollama: Simulator, native_client: Any, seen: SeenIds, stream: bool) -> None:
    answer: Any = native_client.chat(model=MODEL, messages=QUESTION, stream=stream)
    parts = list(answer) if stream else [answer]
    assert "".join(part.message.content or "" for part in parts)
    assert parts[-1].done
    row = check_row(stack, ollama, seen.ids[-1], "chat", stream=stream)
    assert (parts[-1].prompt_eval_count, parts[-1].eval_count) == (row["input_tokens"], row["output_tokens"])


@pytest.mark.parametrize("stream", [False, True])
def test_native_generate(stack: Stack, ollama: Simulator, native_client: Any, seen: SeenIds, stream: bool) -> None:
    answer: Any = native_client.generate(model=MODEL, prompt="Tell me about rivers.", stream=stream)
    parts = list(answer) if stream else [answer]
    assert "".join(part.response for part in parts)
    check_row(stack, ollama, seen.ids[-1], "generate", stream=stream)


def test_listings_show_what_the_key_may_use(stack: Stack, openai_client: openai.OpenAI, native_client: Any) -> None:
    ids = {model.id for model in openai_client.models.list()}
    assert MODEL in ids
    assert ids == {model.model for model in native_client.list().models}
    assert openai_client.models.retrieve(MODEL).id == MODEL
    stack.cli("create-tenant", "--name", "narrow", "--models", MODEL)
    narrow = stack.cli("create-key", "--tenant", "narrow", "--name", "k")["key"]
    listed = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=narrow).models.list()
    assert [model.id for model in listed] == [MODEL]


def test_a_chat_streams_through_caddy_with_a_certificate_of_its_own_authority(stack: Stack, key: str) -> None:
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
    assert stack.row(answer.headers["x-request-id"])["outcome"] == "complete"
