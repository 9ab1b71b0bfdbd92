"""The faults that a handler raises itself."""

import json

import pytest

from ops.simulator.app import RunningSimulator
from tests.ops.simulator.bodies import CHAT
from tests.ops.simulator.inspection import inject, last_record
from tests.ops.simulator.raw_http import call


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_over_cap_generates_more_than_the_cap_and_reports_it(server: RunningSimulator, path: str) -> None:
    inject(server, "over_cap")
    capped = {**CHAT, "options": {"num_predict": 10}, "max_tokens": 10, "stream": False}
    reply = (await call(server.url, path, capped)).json()
    usage = reply.get("usage", reply)
    reported = usage.get("eval_count") or usage.get("completion_tokens") or usage.get("output_tokens")
    assert reported == last_record(server).output_tokens == 74


async def test_no_usage_omits_the_counts(server: RunningSimulator) -> None:
    inject(server, "no_usage")
    last_line = (await call(server.url, "/api/chat", CHAT)).body.splitlines()[-1]
    assert json.loads(last_line)["done"] is True
    assert b"eval_count" not in last_line
    with_usage = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    assert b"usage" not in (await call(server.url, "/v1/chat/completions", with_usage)).body
    assert last_record(server).output_tokens > 0


async def test_a_fault_affects_only_its_paths_and_at_most_its_times(server: RunningSimulator) -> None:
    inject(server, "status", status=500, times=2, paths=["/api/tags"])
    assert [(await call(server.url, "/api/tags")).status for _ in range(3)] == [500, 500, 200]
    inject(server, "status", paths=["/api/tags"])
    assert (await call(server.url, "/api/chat", CHAT)).status == 200


async def test_an_unknown_model_is_a_404_regardless_of_faults(server: RunningSimulator) -> None:
    inject(server, "status")
    assert (await call(server.url, "/api/chat", {**CHAT, "model": "nope"})).status == 404
