"""A request that fails over takes a slot of the next backend or waits for one, on a running stack.

test_queue_faults.py causes faults meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import pairwise

import aiohttp
import pytest
import pytest_asyncio

from gateway.errors import StoreUnavailable
from gateway.queue.port import QueueRules, QueueStatus
from gateway.queue.redis.keys import PREFIX
from gateway.queue.redis.queue import RedisQueue
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import GenerationRequest, client
from tests.e2e.stack import PATIENT, Simulator, Stack, simulator, up
from tests.polling import eventually_async
from tests.ports import free_port

MAX_WAIT_S = 4
PACE_TOKENS_PER_S = 100
SPARE = "backend:spare"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Answer:
    """A finished answer."""

    status: int
    code: str | None
    request_id: str
    retry_after: str | None


@dataclass(frozen=True)
class Bench:
    """A stack with two backends of one slot each, of which the first breaks every connection."""

    stack: Stack
    broken: Simulator
    spare: Simulator
    session: aiohttp.ClientSession
    ledger_view: LedgerView
    key: str

    async def send(self, words: int, *, stream: bool = True) -> Answer:
        request = GenerationRequest("/api/chat", self.key, stream=stream, words=words, output_tokens_max=words)
        async with self.session.post(request.path, json=request.body, headers=request.headers) as response:
            await response.read()
            headers = response.headers
            code, retry_after = headers.get("x-gateway-error"), headers.get("retry-after")
            return Answer(response.status, code, headers["x-request-id"], retry_after)

    async def status(self) -> QueueStatus:
        return await RedisQueue(self.ledger_view.redis, 10.0, QueueRules()).status()

    async def attempts(self) -> list[int]:
        """The number of the attempt of each ticket, by which the queue orders the moves of a request."""
        return [json.loads(text)["attempt"] for text in await self.ledger_view.redis.hvals(f"{PREFIX}:tickets")]

    async def eventually(self, *, running: int, waiting: int) -> None:
        """Waits until `running` requests have a slot of the spare backend and `waiting` wait for it."""

        async def reached() -> bool:
            status = await self.status()
            found = status.replicas[SPARE].running if SPARE in status.replicas else 0
            waits = [each for each in status.tickets if each.replicas == (SPARE,)]
            return (found, len(waits)) == (running, waiting)

        await eventually_async(reached, 20, failure=f"never {running} and {waiting}")

    async def eventually_idle(self) -> None:
        """Waits until every slot is free."""
        await self.ledger_view.wait_until_settled()

        async def idle() -> bool:
            status = await self.status()
            return not status.tickets and not any(each.running for each in status.replicas.values())

        await eventually_async(idle, 20, retry_on=(StoreUnavailable,))


@pytest.fixture(scope="module")
def backends() -> Iterator[tuple[Simulator, Simulator]]:
    pace = ("--tokens-per-s", str(PACE_TOKENS_PER_S), "--num-parallel", "1")
    with simulator() as broken, simulator(*pace) as spare:
        yield broken, spare


@pytest.fixture(scope="module")
def stack(backends: tuple[Simulator, Simulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    names = zip(("broken", "spare"), backends, strict=True)
    with up(
        tmp_path_factory.mktemp("failover") / "state",
        *("--listen", f"127.0.0.1:{free_port()}", "--workers", "2"),
        OLLAMA_BACKENDS=json.dumps([{"name": name, "base_url": each.url, "slots": 1} for name, each in names]),
        QUEUE_MAX_WAIT_S=str(MAX_WAIT_S),
        **PATIENT,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    return stack.new_key("moves")


@pytest_asyncio.fixture(loop_scope="module")
async def bench(stack: Stack, backends: tuple[Simulator, Simulator], key: str) -> AsyncIterator[Bench]:
    broken, spare = backends
    async with client(stack.url, "failover-slots") as session, open_ledger_view(stack) as ledger_view:
        broken.behave(faults=[{"kind": "reset"}])
        spare.clear_records()
        yield Bench(stack, broken, spare, session, ledger_view, key)
        broken.behave()


async def test_requests_that_fail_over_run_one_after_the_other_at_a_backend_of_one_slot(bench: Bench) -> None:
    answers = [asyncio.create_task(bench.send(40, stream=number % 2 == 0)) for number in range(4)]
    await bench.eventually(running=1, waiting=3)
    # One of them may have its turn meanwhile.
    assert set(await bench.attempts()) == {2}
    assert [answer.status for answer in await asyncio.gather(*answers)] == [200] * 4
    records = [record for each in answers for record in bench.spare.requests(each.result().request_id)]
    assert len(records) == 4
    spans = sorted((record["started_at"], record["ended_at"]) for record in records)
    assert all(ended <= started for (_, ended), (started, _) in pairwise(spans))
    rows = await bench.ledger_view.wait_for_rows([each.result().request_id for each in answers])
    assert [len(found) for found in rows.values()] == [1] * 4
    assert {(row["outcome"], row["backend"]) for found in rows.values() for row in found} == {("complete", "spare")}
    await bench.eventually_idle()


async def test_a_request_that_finds_no_slot_in_time_after_it_failed_is_denied(bench: Bench) -> None:
    long = asyncio.create_task(bench.send((MAX_WAIT_S + 3) * PACE_TOKENS_PER_S))
    await bench.eventually(running=1, waiting=0)
    late = await bench.send(5)
    assert (late.status, late.code, late.retry_after) == (503, "queue_timeout", "1")
    (row,) = (await bench.ledger_view.wait_for_rows([late.request_id]))[late.request_id]
    assert (row["status"], row["code"], row["output_tokens"]) == (503, "queue_timeout", 0)
    assert bench.spare.requests(late.request_id) == []
    assert not long.done()
    assert (await long).status == 200
    await bench.eventually_idle()


async def test_a_caller_that_leaves_while_its_next_attempt_waits_frees_its_place(bench: Bench) -> None:
    long = asyncio.create_task(bench.send(3 * PACE_TOKENS_PER_S))
    await bench.eventually(running=1, waiting=0)
    leaves = asyncio.create_task(bench.send(5))
    await bench.eventually(running=1, waiting=1)
    leaves.cancel()
    await bench.eventually(running=1, waiting=0)
    assert (await long).status == 200
    await bench.eventually_idle()
    assert len(bench.spare.requests()) == 1
