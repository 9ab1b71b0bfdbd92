"""A dead replica gets no slot of the queue, on a running stack with two replicas of one slot each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import aiohttp
import pytest

from gateway.queue.port import QueueRules, QueueStatus
from gateway.queue.redis.queue import RedisQueue
from gateway.wire.names import replica_clusters
from tests.e2e.ledger_view import open_ledger_view
from tests.e2e.load import GenerationRequest, client
from tests.e2e.stack import PATIENT, Simulator, Stack, simulator, up
from tests.polling import eventually_async
from tests.ports import free_port

REQUESTS = 4


@pytest.fixture(scope="module")
def replicas() -> Iterator[tuple[Simulator, Simulator]]:
    with simulator("--tokens-per-s", "100") as one, simulator("--tokens-per-s", "100") as other:
        yield one, other


@pytest.fixture(scope="module")
def stack(replicas: tuple[Simulator, Simulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    one, other = replicas
    backends = [{"name": "pair", "base_url": one.url, "replicas": [other.url], "slots": 1}]
    with up(
        tmp_path_factory.mktemp("down") / "state",
        *("--listen", f"127.0.0.1:{free_port()}", "--workers", "2"),
        OLLAMA_BACKENDS=json.dumps(backends),
        **PATIENT,
    ) as running:
        yield running


async def send(session: aiohttp.ClientSession, key: str) -> int:
    request = GenerationRequest("/api/chat", key, words=100, output_tokens_max=100)
    async with session.post(request.path, json=request.body, headers=request.headers) as response:
        await response.read()
        return response.status


async def test_requests_wait_for_the_replica_that_lives_while_the_dead_one_has_a_free_slot(
    stack: Stack, replicas: tuple[Simulator, Simulator]
) -> None:
    key = stack.new_key("down")
    dead, alive = replica_clusters("pair", [each.url.partition("://")[2] for each in replicas])
    async with client(stack.url, "replica-down") as session, open_ledger_view(stack) as ledger_view:
        queue = RedisQueue(ledger_view.redis, 10.0, QueueRules())

        async def eventually(state: tuple[int, int, int]) -> None:
            """Waits for these numbers of requests at the dead replica, at the other one, and in the queue."""

            def seen(status: QueueStatus) -> tuple[int, ...]:
                running = [status.replicas[name].running if name in status.replicas else 0 for name in (dead, alive)]
                return (*running, len(status.tickets))

            async def reached() -> bool:
                return seen(await queue.status()) == state

            await eventually_async(reached, 20, failure=f"never {state}")

        both = [asyncio.create_task(send(session, key)) for _ in range(2)]
        await eventually((1, 1, 0))
        assert await asyncio.gather(*both) == [200, 200]
        replicas[0].stop()

        async def is_suspended() -> bool:
            replica = (await queue.status()).replicas.get(dead)
            return replica is not None and replica.is_suspended

        await eventually_async(is_suspended, 20)
        answers = [asyncio.create_task(send(session, key)) for _ in range(REQUESTS)]
        await eventually((0, 1, REQUESTS - 1))
        assert await asyncio.gather(*answers) == [200] * REQUESTS
        replicas[0].start()

        async def is_used_again() -> bool:
            again = [asyncio.create_task(send(session, key)) for _ in range(2)]
            await asyncio.gather(*again)
            return bool(replicas[0].requests())

        await eventually_async(is_used_again, 40)
