"""What the gateway takes from a model's backend: its output cap, context, size of a token, and that it was deleted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e.ledger_view import audit_row
from tests.e2e.one_worker import CAP, CONTEXT, LIMITED_MODELS, OneWorker
from tests.e2e.one_worker import CAPPED as MODEL
from tests.e2e.stack import Simulator, Stack
from tests.polling import eventually

FOREVER = [{"role": "user", "content": "Write forever"}]
# Three bytes are one token for the estimate and for the simulated models, so that Ollama decides where it can.
LONG, SHORT = "at " * 2200, "at " * 1500


@dataclass(frozen=True)
class Running:
    stack: Stack
    ollama: Simulator
    client: httpx.Client


@pytest.fixture(scope="module")
def running(one_worker: OneWorker) -> Iterator[Running]:
    key = one_worker.stack.new_key("context")
    with httpx.Client(base_url=one_worker.stack.url, headers={"x-api-key": key}, timeout=60) as client:
        eventually(lambda: MODEL in client.get("/api/tags").text, failure="the model is not in the catalog")
        yield Running(one_worker.stack, one_worker.limited, client)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": FOREVER}),
        ("/api/generate", {"prompt": "Write forever"}),
        ("/v1/chat/completions", {"messages": FOREVER}),
        ("/v1/completions", {"prompt": "Write forever"}),
        ("/v1/responses", {"input": FOREVER}),
    ],
)
def test_a_request_without_a_cap_keeps_that_of_the_model(running: Running, path: str, body: dict[str, Any]) -> None:
    answer = running.client.post(path, json={"model": MODEL, "stream": False, **body})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    counts = document.get("usage", document)
    reported = [counts[name] for name in ("eval_count", "completion_tokens", "output_tokens") if name in counts]
    row = audit_row(running.stack, answer.headers["x-request-id"])
    assert (reported, row["output_tokens"], row["usage_source"]) == ([CAP], CAP, "exact")


@pytest.mark.parametrize(
    ("path", "body", "reaches_ollama"),
    [
        ("/api/chat", {"messages": [{"role": "user", "content": LONG}]}, True),
        ("/api/generate", {"prompt": LONG}, True),
        ("/api/embed", {"model": "embedder", "input": LONG}, True),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}, False),
        ("/v1/responses", {"input": LONG}, False),
        ("/v1/messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 8}, False),
    ],
)
def test_a_prompt_that_is_longer_than_the_context_is_refused(
    running: Running, path: str, body: dict[str, Any], reaches_ollama: bool
) -> None:
    running.ollama.clear_records()
    answer = running.client.post(path, json={"model": MODEL, "stream": False, **body})
    assert answer.status_code == 400, answer.text
    assert answer.headers["x-gateway-error"] == "context_length_exceeded"
    assert str(CONTEXT) in answer.text
    row = audit_row(running.stack, answer.headers["x-request-id"])
    assert (row["code"], row["output_tokens"]) == ("context_length_exceeded", 0)
    records = running.ollama.requests()
    assert [record["status"] for record in records] == ([400] if reaches_ollama else [])
    assert all(json.loads(record["body"])["truncate"] is False for record in records)


def test_a_prompt_that_fits_the_context_is_answered(running: Running) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": SHORT}], "stream": False}
    answer = running.client.post("/api/chat", json=body)
    assert answer.status_code == 200
    assert (
        audit_row(running.stack, answer.headers["x-request-id"])["input_tokens"] == answer.json()["prompt_eval_count"]
    )


def test_the_404_of_a_backend_is_followed_by_a_new_list_of_its_models(running: Running) -> None:
    """W10 of the comparison with the real Ollama. The next regular discovery is up to a minute later.

    This is the first 404 of this backend: after others a new list could come before the first request here.
    """
    running.ollama.install(*LIMITED_MODELS, {"name": "doomed"}, {"name": "silent"})
    client = running.client
    assert client.post("/api/show", json={"model": "listed"}).status_code == 200
    refused = client.post("/api/chat", json={"model": "listed", "messages": FOREVER, "stream": False})
    assert refused.headers["x-gateway-error"] == "model_not_allowed"
    eventually(lambda: client.post("/api/show", json={"model": "listed"}).status_code == 403, timeout_s=10)
    assert "listed" not in client.get("/api/tags").text + client.get("/v1/models").text
    unknown = client.post("/api/show", json={"model": "nosuch"})
    assert client.post("/api/show", json={"model": "listed"}).content == unknown.content
    assert client.post("/api/show", json={"model": MODEL}).status_code == 200


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_a_model_that_its_backend_has_deleted_is_refused_like_an_unknown_one(running: Running, path: str) -> None:
    """Before the next discovery: Ollama's own 404 has the same effect."""
    running.ollama.install(*LIMITED_MODELS, {"name": "silent"})
    body = {"messages": FOREVER, "max_tokens": 8, "stream": False}
    deleted, unknown = (running.client.post(path, json={"model": name, **body}) for name in ("doomed", "nosuch"))
    assert deleted.status_code == unknown.status_code == 403
    assert deleted.headers["x-gateway-error"] == "model_not_allowed"
    texts = [answer.text.replace(answer.headers["x-request-id"], "") for answer in (deleted, unknown)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_does_not_show_the_cap_of_the_gateway_as_that_of_the_caller(running: Running, stream: bool) -> None:
    """W2 of the comparison with the real Ollama."""
    for requested in (None, 7, 100_000):
        body = {"model": MODEL, "input": FOREVER, "stream": stream} | (
            {} if requested is None else {"max_output_tokens": requested}
        )
        answer = running.client.post("/v1/responses", json=body)
        assert answer.status_code == 200
        shown = set(re.findall(r'"max_output_tokens":\s*(\w+)', answer.text))
        assert shown == {"null" if requested is None else str(requested)}


def test_the_estimate_of_embeddings_is_the_count_that_the_model_taught(running: Running) -> None:
    """W16 of the comparison with the real Ollama, which reports no count on /api/embeddings."""
    text = "The sea is wide and blue, and its waves are not counted yet. " * 3
    for _ in range(12):
        counted = running.client.post("/api/embed", json={"model": "embedder", "input": text}).json()[
            "prompt_eval_count"
        ]
    for prompt, expected in ((text, counted), (text[: len(text) // 3], counted / 3)):
        answer = running.client.post("/api/embeddings", json={"model": "embedder", "prompt": prompt})
        row = audit_row(running.stack, answer.headers["x-request-id"])
        assert (answer.status_code, row["usage_source"], row["output_tokens"]) == (200, "estimated", 0)
        assert row["input_tokens"] == pytest.approx(expected, rel=0.1, abs=1)


def test_a_whole_answer_that_its_caller_abandons_is_not_free(running: Running) -> None:
    """W17 of the comparison with the real Ollama."""
    running.ollama.behave(tokens_per_s=100, answer_tokens=1000)
    body = {"model": "paced", "messages": FOREVER, "stream": False}
    try:
        answer = running.client.post("/api/chat", json={**body, "options": {"num_predict": 30}})
        assert answer.json()["eval_count"] == 30
        with pytest.raises(httpx.ReadTimeout):
            running.client.post("/api/chat", json={**body, "options": {"num_predict": 900}}, timeout=1.5)
    finally:
        running.ollama.behave()
    row = eventually(lambda: next((r for r in running.stack.cli("show-audit") if r["status"] == 499), None))
    assert (row["outcome"], row["usage_source"], row["model"]) == ("client_gone", "estimated", "paced:latest")
    # At most 100 tokens per second, for more than a second.
    assert 10 < row["output_tokens"] < 900


def test_an_answer_without_counts_is_counted_by_the_tokens_of_the_models_earlier_answers(running: Running) -> None:
    def answer(tokens: int) -> tuple[int, dict[str, Any]]:
        """The tokens that the backend generated, and the audit row."""
        messages = [{"role": "user", "content": f"Write {tokens} words"}]
        body = {"model": "silent", "messages": messages, "stream": False}
        request_id = running.client.post("/api/chat", json=body).headers["x-request-id"]
        (record,) = running.ollama.requests(request_id)
        return record["output_tokens"], audit_row(running.stack, request_id)

    for tokens in (200, 300, 400):
        assert answer(tokens)[1]["usage_source"] == "exact"
    running.ollama.behave(faults=[{"kind": "no_usage"}])
    try:
        generated, row = answer(350)
    finally:
        running.ollama.behave()
    assert row["usage_source"] == "estimated"
    # Three bytes per token, which apply before the first answer, would be a third too many.
    assert row["output_tokens"] == pytest.approx(generated, rel=0.15)
