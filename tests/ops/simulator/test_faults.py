import json
from typing import Any

import pytest

from ops.simulator.app import RunningSimulator
from ops.simulator.control.behaviour import Behaviour, Fault
from tests.ops.simulator import wire

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "Say hello"}]}
STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", CHAT),
    ("/api/generate", {"model": "llama3.2", "prompt": "Say hello"}),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {"model": "llama3.2", "prompt": "Say hello", "stream": True}),
    ("/v1/responses", {"model": "llama3.2", "input": "Say hello", "stream": True}),
    ("/v1/messages", {**CHAT, "max_tokens": 500, "stream": True}),
]
surfaces = pytest.mark.parametrize(("path", "body"), STREAMS, ids=[path for path, _ in STREAMS])


def fail(server: RunningSimulator, kind: str, **fields: Any) -> None:
    server.simulator.behaviour.faults = [Fault.model_validate({"kind": kind, **fields})]


def last(server: RunningSimulator) -> Any:
    return server.simulator.recorder.records[-1]


@surfaces
async def test_a_reset_before_the_headers_leaves_no_byte(
    server: RunningSimulator, path: str, body: dict[str, Any]
) -> None:
    fail(server, "reset")
    with pytest.raises(ConnectionResetError):
        await wire.call(server.url, path, body)
    assert last(server).finished == "failed"
    assert (last(server).status, last(server).frames) == (None, 0)


@surfaces
async def test_a_death_after_some_frames_leaves_them_and_no_end(
    server: RunningSimulator, path: str, body: dict[str, Any]
) -> None:
    fail(server, "close", after_frames=5)
    reply = await wire.call(server.url, path, body)
    assert reply.status == 200
    assert reply.chunks is not None
    assert len(reply.chunks) == last(server).frames == 5
    assert reply.cut


async def test_a_reset_in_the_middle_is_seen_as_a_reset(server: RunningSimulator) -> None:
    fail(server, "reset", after_frames=2)
    server.simulator.behaviour.tokens_per_s = 50
    reply = await wire.call(server.url, "/api/chat", CHAT)
    assert (reply.cut, reply.reset) == (True, True)
    assert last(server).finished == "failed"


async def test_a_close_before_the_headers_is_no_reset(server: RunningSimulator) -> None:
    fail(server, "close")
    with pytest.raises(EOFError):
        await wire.call(server.url, "/api/chat", CHAT)


async def test_a_close_after_the_headers_leaves_a_head_alone(server: RunningSimulator) -> None:
    fail(server, "close", after_frames=0)
    reply = await wire.call(server.url, "/api/chat", CHAT)
    assert (reply.status, reply.body, reply.cut, reply.reset) == (200, b"", True, False)


async def test_a_whole_answer_is_cut_in_its_middle(server: RunningSimulator) -> None:
    fail(server, "close", after_frames=1)
    reply = await wire.call(server.url, "/api/chat", {**CHAT, "stream": False})
    assert reply.cut
    assert len(reply.body) == int(reply.headers["content-length"]) // 2


@pytest.mark.parametrize("place", [None, 0, 3])
async def test_a_stall_holds_the_connection_until_the_client_leaves(
    server: RunningSimulator, place: int | None
) -> None:
    fail(server, "stall", after_frames=place)
    records = server.simulator.recorder.records
    await wire.leave(server.url, "/api/chat", CHAT, lambda: bool(records) and records[-1].frames == (place or 0))
    assert await server.simulator.recorder.wait_idle(5)
    assert last(server).finished == "cancelled"


async def test_a_stall_ends_after_its_time(server: RunningSimulator) -> None:
    server.simulator.behaviour.stall_s = 0.01
    fail(server, "stall", after_frames=1)
    reply = await wire.call(server.url, "/api/chat", CHAT)
    assert reply.cut


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_over_the_cap_says_more_than_was_allowed_and_owns_up(server: RunningSimulator, path: str) -> None:
    fail(server, "over_cap")
    capped = {**CHAT, "options": {"num_predict": 10}, "max_tokens": 10, "stream": False}
    reply = (await wire.call(server.url, path, capped)).json()
    usage = reply.get("usage", reply)
    said = usage.get("eval_count") or usage.get("completion_tokens") or usage.get("output_tokens")
    assert said == last(server).output_tokens == 74


async def test_no_usage_leaves_the_counts_out(server: RunningSimulator) -> None:
    fail(server, "no_usage")
    native = (await wire.call(server.url, "/api/chat", CHAT)).body.splitlines()[-1]
    assert json.loads(native)["done"] is True
    assert b"eval_count" not in native
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    assert b"usage" not in (await wire.call(server.url, "/v1/chat/completions", asked)).body
    assert last(server).output_tokens > 0


async def test_a_fault_strikes_as_often_and_where_it_says(server: RunningSimulator) -> None:
    fail(server, "status", status=500, times=2, paths=["/api/tags"])
    assert [(await wire.call(server.url, "/api/tags")).status for _ in range(3)] == [500, 500, 200]
    fail(server, "status", paths=["/api/tags"])
    assert (await wire.call(server.url, "/api/chat", CHAT)).status == 200


def test_probability_is_a_share_that_the_seed_repeats() -> None:
    def strikes(seed: int) -> list[bool]:
        behaviour = Behaviour(seed=seed, faults=[Fault(kind="reset", probability=0.3)])
        return [bool(behaviour.draw_faults("/api/chat", runs_model=True)) for _ in range(1000)]

    assert strikes(1) == strikes(1) != strikes(2)
    assert 200 < sum(strikes(1)) < 400


async def test_a_model_that_is_not_there_is_not_found_whatever_the_faults_are(server: RunningSimulator) -> None:
    fail(server, "status")
    assert (await wire.call(server.url, "/api/chat", {**CHAT, "model": "nope"})).status == 404
