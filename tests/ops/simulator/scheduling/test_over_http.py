"""Slots, loads and the prompt cache as a client of the simulator sees them."""

import asyncio
import json
from typing import Any

import pytest

from ops.simulator.app import RunningSimulator
from tests.ops.simulator.bodies import CHAT
from tests.ops.simulator.inspection import last_record
from tests.ops.simulator.raw_http import call, disconnect_when
from tests.polling import eventually_async

LONG_S = 3600.0
CRASHED = "model runner has unexpectedly stopped"
BROKEN = "an error was encountered while running the model: unexpected EOF"


async def _runners(server: RunningSimulator) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await call(server.url, "/_sim/runners")).json()
    return rows


async def test_a_loaded_model_runs_num_parallel_requests_and_refuses_none(server: RunningSimulator) -> None:
    await call(server.url, "/_sim/behaviour", {"num_parallel": 2, "max_queue": 0, "first_byte_s": LONG_S}, method="PUT")
    await call(server.url, "/api/generate", {"model": "llama3.2"})
    calls = [asyncio.create_task(call(server.url, "/api/chat", CHAT)) for _ in range(8)]

    async def are_queued() -> bool:
        [row] = await _runners(server)
        return bool(row["running"] + row["waiting"] == len(calls))

    await eventually_async(are_queued)
    assert await _runners(server) == [
        {"model": "llama3.2:latest", "is_loading": False, "running": 2, "waiting": 6},
    ]
    # Requests that are admitted from now on evaluate their prompt at once.
    await call(server.url, "/_sim/behaviour", {"num_parallel": 0}, method="PUT")
    await eventually_async(lambda: sum(task.done() for task in calls) == 6)
    await call(server.url, "/_sim/runners", method="DELETE")
    assert [(await task).status for task in calls] == [500, 500, *[200] * 6]


async def test_a_client_that_disconnects_leaves_the_line_and_its_slot(server: RunningSimulator) -> None:
    server.simulator.behaviour.num_parallel = 1
    server.simulator.behaviour.first_byte_s = LONG_S
    slots_taken = asyncio.create_task(call(server.url, "/api/chat", CHAT))
    scheduler = server.simulator.scheduler
    await eventually_async(lambda: [runner.slots.taken for runner in scheduler.runners()] == [1])
    [runner] = scheduler.runners()
    await disconnect_when(lambda: runner.slots.waiting == 1, server.url, "/api/chat", CHAT)
    await eventually_async(lambda: runner.slots.waiting == 0)
    server.simulator.behaviour.first_byte_s = 0
    slots_taken.cancel()
    assert (await call(server.url, "/api/chat", CHAT)).status == 200
    assert runner.slots.taken == 0


async def test_requests_beyond_the_queue_of_a_load_get_a_503_and_ps_shows_the_load(server: RunningSimulator) -> None:
    server.simulator.behaviour.load_s = LONG_S
    server.simulator.behaviour.max_queue = 1
    scheduler = server.simulator.scheduler
    waiting = [asyncio.create_task(call(server.url, "/api/chat", CHAT)) for _ in range(2)]
    await eventually_async(lambda: scheduler.pending == 1)
    reply = await call(server.url, "/api/chat", CHAT)
    assert reply.status == 503
    assert reply.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
    other = await call(server.url, "/v1/chat/completions", {**CHAT, "model": "qwen3:8b"})
    assert (other.status, other.json()["error"]["type"]) == (503, "api_error")
    assert [row["is_loading"] for row in await _runners(server)] == [True]
    [row] = (await call(server.url, "/api/ps")).json()["models"]
    assert row["name"] == "llama3.2:latest"
    for task in waiting:
        task.cancel()
    await eventually_async(lambda: not scheduler.runners())


@pytest.mark.parametrize("stream", [True, False])
async def test_a_killed_runner_breaks_its_answers_off(server: RunningSimulator, stream: bool) -> None:
    server.simulator.behaviour.tokens_per_s = 5
    answering = asyncio.create_task(call(server.url, "/api/chat", {**CHAT, "stream": stream}))
    records = server.simulator.recorder.records
    await eventually_async(lambda: bool(records) and records[-1].output_tokens >= 2)
    assert (await call(server.url, "/_sim/runners", method="DELETE")).status == 204
    reply = await answering
    assert reply.status == (200 if stream else 500)
    assert json.loads(reply.body.splitlines()[-1]) == {"error": BROKEN}
    assert await _runners(server) == []
    server.simulator.behaviour.tokens_per_s = 0
    assert (await call(server.url, "/api/chat", CHAT)).status == 200


async def test_a_runner_killed_while_it_evaluates_a_prompt_is_a_500(server: RunningSimulator) -> None:
    server.simulator.behaviour.first_byte_s = LONG_S
    answering = asyncio.create_task(call(server.url, "/api/chat", CHAT))
    scheduler = server.simulator.scheduler
    await eventually_async(lambda: [runner.slots.taken for runner in scheduler.runners()] == [1])
    await call(server.url, "/_sim/runners", method="DELETE")
    reply = await answering
    assert reply.status == 500
    assert reply.json()["error"].startswith(CRASHED)


async def test_the_next_turn_of_a_conversation_evaluates_only_what_is_new(server: RunningSimulator) -> None:
    server.simulator.behaviour.prefill_tokens_per_s = 100_000
    server.simulator.behaviour.num_parallel = 1
    messages = [{"role": "user", "content": "Name three rivers. " * 50}]
    first = (await call(server.url, "/api/chat", {**CHAT, "messages": messages, "stream": False})).json()
    assert last_record(server).cached_tokens == 0
    messages += [first["message"], {"role": "user", "content": "And one more"}]
    second = (await call(server.url, "/api/chat", {**CHAT, "messages": messages, "stream": False})).json()
    cached = last_record(server).cached_tokens
    assert cached > first["prompt_eval_count"]
    assert second["prompt_eval_count"] == last_record(server).prompt_tokens
    assert 0 < second["prompt_eval_count"] - cached < 20
    assert (second["prompt_eval_count"] - cached) / 100_000 <= second["prompt_eval_duration"] / 1e9
    await call(server.url, "/api/chat", {**CHAT, "messages": messages[:1], "stream": False})
    assert last_record(server).cached_tokens == first["prompt_eval_count"] - 1


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"truncate": False}, '{"error":{"code":400,"message":"request (3005 tokens) exceeds'),
        ({"shift": False}, "the prompt is longer than the context length currently available to the model;"),
    ],
)
async def test_a_request_can_forbid_that_its_prompt_is_shortened(
    server: RunningSimulator, fields: dict[str, Any], error: str
) -> None:
    long = {"model": "llama3.2", "messages": [{"role": "user", "content": "river " * 3000}]}
    options = {"num_ctx": 2048, "num_predict": 4}
    reply = await call(server.url, "/api/chat", {**long, **fields, "options": options, "stream": False})
    assert reply.status == 400
    assert reply.json()["error"].startswith(error)
    shortened = await call(server.url, "/api/chat", {**long, "options": options, "stream": False})
    assert shortened.json()["prompt_eval_count"] == last_record(server).prompt_tokens == 1027


async def test_the_parameters_of_a_model_apply_where_the_request_sets_none(server: RunningSimulator) -> None:
    server.simulator.library.replace_all([{"name": "capped", "parameters": {"num_predict": 12, "num_ctx": 2048}}])
    chat = {"model": "capped", "messages": [{"role": "user", "content": "Write forever"}], "stream": False}
    reply = (await call(server.url, "/api/chat", chat)).json()
    assert (reply["eval_count"], reply["done_reason"]) == (12, "length")
    assert (await call(server.url, "/v1/chat/completions", chat)).json()["usage"]["completion_tokens"] == 12
    assert (await call(server.url, "/api/chat", {**chat, "options": {"num_predict": 5}})).json()["eval_count"] == 5
    [row] = (await call(server.url, "/api/ps")).json()["models"]
    assert row["context_length"] == 2048
    assert "num_predict                    12" in (await call(server.url, "/api/show", {"model": "capped"})).json()[
        "parameters"
    ].split("\n")
