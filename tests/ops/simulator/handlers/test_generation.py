from typing import Any

import pytest

from ops.simulator.app import RunningSimulator
from tests.ops.simulator.bodies import CHAT
from tests.ops.simulator.raw_http import call, disconnect_when


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", CHAT),
        ("/api/chat", {**CHAT, "stream": False}),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/messages", {**CHAT, "max_tokens": 900, "stream": True}),
    ],
)
async def test_a_client_disconnect_stops_the_generation(
    server: RunningSimulator, path: str, body: dict[str, Any]
) -> None:
    server.simulator.behaviour.answer_tokens = 900
    server.simulator.behaviour.tokens_per_s = 50
    records = server.simulator.recorder.records
    await disconnect_when(lambda: bool(records) and records[-1].output_tokens >= 3, server.url, path, body)
    assert await server.simulator.recorder.wait_idle(5)
    assert records[-1].finished == "cancelled"
    assert 3 <= records[-1].output_tokens < 900


async def test_a_client_disconnect_stops_an_answer_without_a_pace(server: RunningSimulator) -> None:
    server.simulator.behaviour.answer_tokens = 40_000
    records = server.simulator.recorder.records
    body = {"model": "llama3.2", "prompt": "x"}
    await disconnect_when(lambda: bool(records) and records[-1].frames > 0, server.url, "/api/generate", body)
    assert await server.simulator.recorder.wait_idle(5)
    assert records[-1].finished == "cancelled"
    assert records[-1].output_tokens < 40_000


async def test_after_a_client_disconnect_during_loading_the_next_request_loads_the_model(
    server: RunningSimulator,
) -> None:
    server.simulator.behaviour.load_s = 60
    records = server.simulator.recorder.records
    await disconnect_when(lambda: bool(records), server.url, "/api/chat", CHAT)
    assert await server.simulator.recorder.wait_idle(5)
    assert (records[-1].finished, records[-1].output_tokens, records[-1].status) == ("cancelled", 0, None)
    server.simulator.behaviour.load_s = 0
    assert (await call(server.url, "/api/chat", CHAT)).status == 200


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "missing request body"),
        (b"{}", 400, "model is required"),
        (b'{"model":"a/b/c/d","messages":[]}', 400, "invalid model name"),
        (b'{"model":"m:cloud:local"}', 400, 'use either :local or :cloud, not both: "m:cloud:local"'),
        (b'{"model":"m:cloud"}', 401, "unauthorized"),
        (b'{"model":"llama3.2","options":{"num_ctx":"5"}}', 500, 'option "num_ctx" must be of type integer'),
        (b'{"model":"llama3.2","top_logprobs":21}', 400, "top_logprobs must be between 0 and 20"),
        (b'{"model":"llama3.2","think":"a lot"}', 400, 'invalid think value: "a lot" (must be "high",'),
        (b'{"model":"llama3.2","keep_alive":"soon"}', 400, "time: invalid duration"),
    ],
)
async def test_an_invalid_chat_gets_the_error_of_ollama(
    server: RunningSimulator, body: bytes, status: int, error: str
) -> None:
    reply = await call(server.url, "/api/chat", body)
    assert reply.status == status
    assert reply.json()["error"].startswith(error)


async def test_only_the_first_json_value_of_a_body_is_read(server: RunningSimulator) -> None:
    reply = await call(server.url, "/api/generate", b'{"model":"nope","MODEL":"llama3.2"} {"model":"nope"}')
    assert reply.json()["model"] == "llama3.2"
