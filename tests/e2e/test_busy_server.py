"""Requests that Ollama refuses with "server busy" while it loads a model, on a running stack with a queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from gateway.queue.port import QueueRules
from gateway.queue.redis.queue import RedisQueue
from gateway.wire.timeouts import BUSY_BACK_OFF_MAX_S
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import GenerationRequest, client
from tests.e2e.stack import PATIENT, Simulator, Stack, simulator, up
from tests.polling import eventually_async
from tests.ports import free_port

MAX_WAIT_S = 8
SLOTS = 2
BUSY = {"kind": "status", "status": 503}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Bench:
    """A stack whose only replica refuses requests while it loads a model, a client with a key, and the ledger."""

    stack: Stack
    ollama: Simulator
    session: aiohttp.ClientSession
    ledger_view: LedgerView
    key: str

    async def send(self, path: str = "/api/chat", *, stream: bool = True) -> tuple[int, str, str]:
        """The status, the request id and the body of an answer."""
        request = GenerationRequest(path, self.key, stream=stream, words=5)
        async with self.session.post(request.path, json=request.body, headers=request.headers) as response:
            return response.status, response.headers["x-request-id"], await response.text()

    async def running(self) -> int:
        """The number of slots in use."""
        status = await RedisQueue(self.ledger_view.redis, 10.0, QueueRules()).status()
        return sum(each.running for each in status.replicas.values())

    async def check_rows(self, request_ids: list[str], status: int, outcome: str) -> None:
        """Checks that each of these requests has exactly one row, and that every slot is free."""
        rows = await self.ledger_view.wait_for_rows(request_ids)
        assert [len(rows[request_id]) for request_id in request_ids] == [1] * len(request_ids)
        assert {(row["status"], row["outcome"]) for found in rows.values() for row in found} == {(status, outcome)}
        await self.ledger_view.wait_until_settled()

        async def idle() -> bool:
            return await self.running() == 0

        await eventually_async(idle, 20)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(stack: tuple[Stack, Simulator]) -> AsyncIterator[Bench]:
    running, ollama = stack
    key = running.new_key("busy")
    async with client(running.url, "busy-server") as session, open_ledger_view(running) as ledger_view:
        yield Bench(running, ollama, session, ledger_view, key)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Simulator]]:
    with simulator("--tokens-per-s", "100") as ollama:
        backends = [{"name": "sim", "base_url": ollama.url, "slots": SLOTS}]
        with up(
            tmp_path_factory.mktemp("busy") / "state",
            *("--listen", f"127.0.0.1:{free_port()}", "--workers", "2"),
            OLLAMA_BACKENDS=json.dumps(backends),
            QUEUE_MAX_WAIT_S=str(MAX_WAIT_S),
            **PATIENT,
        ) as running:
            yield running, ollama


async def test_requests_that_a_loading_ollama_refuses_are_served_after_the_load(bench: Bench) -> None:
    bench.ollama.clear_records()
    bench.ollama.behave(tokens_per_s=100, load_s=3, max_queue=0)
    paths = ["/api/chat", "/v1/chat/completions", "/v1/messages"]
    answers = await asyncio.gather(*(bench.send(path, stream=stream) for path in paths for stream in (True, False)))
    assert {status for status, *_ in answers} == {200}
    attempts = [[record["status"] for record in bench.ollama.requests(each)] for _, each, _ in answers]
    # One of the first two loads the model, and the other is refused meanwhile. The others wait in the queue.
    assert all(statuses == [503] * (len(statuses) - 1) + [200] for statuses in attempts)
    assert sum(503 in statuses for statuses in attempts) == SLOTS - 1
    await bench.check_rows([each for _, each, _ in answers], 200, "complete")


async def test_a_server_that_stays_busy_is_reported_when_the_time_is_over(bench: Bench) -> None:
    bench.ollama.behave(faults=[BUSY])
    (status, request_id, body), (waited, second_id, _) = await asyncio.gather(
        bench.send(stream=False), bench.send("/v1/messages")
    )
    assert (status, waited) == (503, 503)
    assert "server busy" in json.loads(body)["error"]
    attempts = bench.ollama.requests(request_id)
    assert len(attempts) == 1 + int(MAX_WAIT_S / BUSY_BACK_OFF_MAX_S)
    await bench.check_rows([request_id, second_id], 503, "upstream_error")
    bench.ollama.behave()
    status, *_ = await bench.send()
    assert status == 200


async def test_a_caller_that_leaves_a_busy_server_frees_its_slot(bench: Bench) -> None:
    bench.ollama.clear_records()
    bench.ollama.behave(faults=[BUSY])
    leaves = [asyncio.create_task(bench.send()) for _ in range(SLOTS)]

    async def refused() -> list[str]:
        ids = {record["headers"]["x-request-id"] for record in bench.ollama.requests()}
        return list(ids) if len(ids) == SLOTS else []

    request_ids = await eventually_async(refused, 10)
    stays = asyncio.create_task(bench.send())
    for each in leaves:
        each.cancel()
    await asyncio.gather(*leaves, return_exceptions=True)
    bench.ollama.behave()
    status, *_ = await stays
    assert status == 200
    await bench.check_rows(request_ids, 499, "client_gone")
    assert all(record["status"] == 503 for each in request_ids for record in bench.ollama.requests(each))
