"""The slots of two replicas are learnt on a running stack: one runs one request at a time, the other four."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import aiohttp
import pytest

from gateway.queue.port import QueueRules
from gateway.queue.redis.queue import RedisQueue
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import client
from tests.e2e.queue_stack import PACE_TOKENS_PER_S, QueueStack
from tests.e2e.stack import Stack, simulator
from tests.polling import eventually_async

# How many requests each backend runs. It hosts the model that has its name.
SLOTS = {"one": 1, "four": 4}
ANSWER_TOKENS = 60
CALLERS = 8
# The requests of one tenant that may wait are fewer than the callers.
TENANTS = 2
LIMIT_S = 90.0


class Observation:
    """The most slots and the most running requests that the queue ever had at each backend."""

    def __init__(self, ledger_view: LedgerView) -> None:
        self._queue = RedisQueue(ledger_view.redis, 10.0, QueueRules())
        self.slots = dict.fromkeys(SLOTS, 0)
        self.running = dict.fromkeys(SLOTS, 0)

    async def update(self) -> None:
        """Reads the state of the queue."""
        for replica, each in (await self._queue.status()).replicas.items():
            if (name := replica.partition(":")[2]) not in SLOTS:
                continue
            self.slots[name] = max(self.slots[name], each.slots)
            self.running[name] = max(self.running[name], each.running)


@pytest.fixture
def stack(queue_stack: QueueStack) -> Iterator[Stack]:
    """The stack with two more backends, whose slots are learnt."""

    def arguments(name: str) -> tuple[str, ...]:
        pace = ("--tokens-per-s", str(PACE_TOKENS_PER_S))
        return (*pace, "--models", name, "--num-parallel", str(SLOTS[name]))

    with simulator(*arguments("one")) as one, simulator(*arguments("four")) as four:
        queue_stack.add_backends({"name": "one", "base_url": one.url}, {"name": "four", "base_url": four.url})
        yield queue_stack.stack
        queue_stack.add_backends()


async def test_a_replica_gets_as_many_requests_as_it_runs_and_one_more_as_a_probe(stack: Stack) -> None:
    keys = [stack.new_key(f"learner-{number}") for number in range(TENANTS * len(SLOTS))]
    async with client(stack.url, "learnt-slots") as session, open_ledger_view(stack) as ledger_view:
        for model in SLOTS:
            await eventually_async(partial(_is_served, session, keys[0], model), failure=f"{model} is not served")
        observation = Observation(ledger_view)
        is_over = asyncio.Event()

        async def caller(key: str, model: str) -> None:
            while not is_over.is_set():
                await _chat(session, key, model)

        async with asyncio.TaskGroup() as callers:
            for number, model in enumerate(SLOTS):
                for caller_number in range(CALLERS):
                    callers.create_task(caller(keys[TENANTS * number + caller_number % TENANTS], model))
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


async def _is_served(session: aiohttp.ClientSession, key: str, model: str) -> bool:
    body = {"model": model, "prompt": "x", "options": {"num_predict": 1}}
    async with session.post("/api/generate", json=body, headers={"authorization": f"Bearer {key}"}) as response:
        await response.read()
        return response.status == 200


async def _chat(session: aiohttp.ClientSession, key: str, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "options": {"num_predict": ANSWER_TOKENS}}
    async with session.post("/api/chat", json=body, headers={"authorization": f"Bearer {key}"}) as response:
        # The first use of a key is a hash, for which a busy machine may take longer than a check.
        assert response.status in (200, 503), await response.text()
        await response.read()
