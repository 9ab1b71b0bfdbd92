"""The connection to Redis: what becomes of a command that is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from gateway.settings import Settings
from gateway.stores.redis import Redis, connect, guarded

# More steps of the event loop than one command takes, so that a task is cancelled at each of them.
STEPS_MAX = 60
REPEATED = 4
ENDED_TIMEOUT_S = 5.0


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(Settings(redis_url=SecretStr(redis_url), redis_timeout_s=5))
    yield client
    await client.aclose()


async def _ask(redis: Redis, enough: asyncio.Event) -> None:
    while not enough.is_set():
        async with guarded(1.0):
            await redis.get("nothing")


@pytest.mark.parametrize("steps", range(STEPS_MAX))
async def test_a_task_that_is_cancelled_ends_wherever_its_command_is(redis: Redis, steps: int) -> None:
    for _ in range(REPEATED):
        enough = asyncio.Event()
        task = asyncio.create_task(_ask(redis, enough))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=ENDED_TIMEOUT_S)
        enough.set()
        assert done == {task}
        assert task.cancelled()
