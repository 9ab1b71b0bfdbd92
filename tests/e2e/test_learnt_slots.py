"""The slots of two replicas are learnt on a running stack: one runs one request at a time, the other four."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import aiohttp
import pytest

from gateway.queue.port import QueueRules
from gateway.queue.redis.queue import RedisQueue
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import client
from tests.e2e.stack import Stack, simulator, up
from tests.ports import free_port

SLOTS = {"one": 1, "four": 4}
PACE_TOKENS_PER_S = 50
ANSWER_TOKENS = 60
CALLERS = 8
LIMIT_S = 90.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with two workers per service. Each backend hosts the model that has its name."""

    def arguments(name: str) -> tuple[str, ...]:
        pace = ("--tokens-per-s", str(PACE_TOKENS_PER_S))
        return (*pace, "--models", name, "--num-parallel", str(SLOTS[name]))

    with simulator(*arguments("one")) as one, simulator(*arguments("four")) as four:
        backends = [{"name": "one", "base_url": one.url}, {"name": "four", "base_url": four.url}]
        with up(
            tmp_path_factory.mktemp("learnt") / "state",
            *("--listen", f"127.0.0.1:{free_port()}", "--workers", "2"),
            OLLAMA_BACKENDS=json.dumps(backends),
            DEFAULT_RPM="10000",
            DEFAULT_TPM="10000000",
            DEFAULT_CONCURRENT="100",
            # A busy machine must not fail a request.
            REDIS_TIMEOUT_S="3",
            DATABASE_TIMEOUT_S="10",
        ) as running:
            yield running


class Observation:
    """The most slots and the most running requests that the queue ever had at each backend."""

    def __init__(self, ledger_view: LedgerView) -> None:
        self._queue = RedisQueue(ledger_view.redis, 10.0, QueueRules())
        self.slots = dict.fromkeys(SLOTS, 0)
        self.running = dict.fromkeys(SLOTS, 0)

    async def update(self) -> None:
        """Reads the state of the queue."""
        for replica, each in (await self._queue.status()).replicas.items():
            name = replica.partition(":")[2]
            self.slots[name] = max(self.slots[name], each.slots)
            self.running[name] = max(self.running[name], each.running)


async def test_a_replica_gets_as_many_requests_as_it_runs_and_one_more_as_a_probe(stack: Stack) -> None:
    key = stack.new_key("learner")
    async with client(stack.url, "learnt-slots") as session, open_ledger_view(stack) as ledger_view:
        observation = Observation(ledger_view)
        is_over = asyncio.Event()

        async def caller(model: str) -> None:
            while not is_over.is_set():
                await _chat(session, key, model)

        async with asyncio.TaskGroup() as callers:
            for model in SLOTS:
                for _ in range(CALLERS):
                    callers.create_task(caller(model))
            async with asyncio.timeout(LIMIT_S):
                while observation.slots["four"] < SLOTS["four"]:
                    await observation.update()
                    await asyncio.sleep(0.05)
            # With all slots, probes go on.
            for _ in range(60):
                await observation.update()
                await asyncio.sleep(0.05)
            is_over.set()
        assert observation.slots == SLOTS
        assert all(observation.running[name] <= slots + 1 for name, slots in SLOTS.items())
        await ledger_view.wait_until_settled()


async def _chat(session: aiohttp.ClientSession, key: str, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "options": {"num_predict": ANSWER_TOKENS}}
    async with session.post("/api/chat", json=body, headers={"authorization": f"Bearer {key}"}) as response:
        # The first use of a key is a hash, for which a busy machine may take longer than a check.
        assert response.status in (200, 503), await response.text()
        await response.read()
