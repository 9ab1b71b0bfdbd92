from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from authz.admit import Admitter
from authz.catalog.view import CatalogView
from authz.check import CheckPipeline
from authz.checked_request import CheckedRequest
from authz.denials import DenialLog
from authz.keys.hashing import KeyHasher
from authz.keys.key_format import generate
from authz.keys.last_used import LastUsed
from authz.keys.throttle import FailureThrottle
from gateway.catalog.store import CatalogStore
from gateway.errors import Code, Denied
from gateway.ledger.outbox import Outbox
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from tests.authz.keys.test_authenticate import Bench
from tests.gateway.quota.builders import Clock
from tests.gateway.quota.model.quota import MemoryQuota


class BusyHasher(KeyHasher):
    """One whose queue is long: nothing is verified before `turn`."""

    turn: asyncio.Event

    async def verify(self, stored: str | None, key: SecretStr) -> bool:
        await self.turn.wait()
        return await super().verify(stored, key)


CLIENT_IP = "192.0.2.9"


@dataclass
class Busy:
    """A pipeline whose hasher is busy, and its throttle, which refuses after one failure."""

    pipeline: CheckPipeline
    throttle: FailureThrottle
    hasher: BusyHasher

    async def leave(self) -> None:
        """Asks to be let in with a key that nobody knows, and does not wait for the verdict."""
        attempt = CheckedRequest("r", "POST", "/api/chat", generate().secret, CLIENT_IP, "", "", b"")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await self.pipeline.identify(attempt)


@pytest.fixture
async def busy(database_url: str, redis_url: str) -> AsyncIterator[Busy]:
    settings = Settings(database_url=SecretStr(database_url), redis_url=SecretStr(redis_url), redis_timeout_s=5)
    async with AsyncExitStack() as stack:
        database, redis = Database(settings), connect(settings)
        stack.push_async_callback(database.close)
        stack.push_async_callback(redis.aclose)
        await redis.flushall()
        hasher = BusyHasher(time_cost=1, memory_cost_kib=64, parallelism=1)
        stack.callback(hasher.close)
        hasher.turn = asyncio.Event()
        bench, ledger, throttle = (
            Bench(database, hasher),
            Ledger(database),
            FailureThrottle(redis, failures_max=1, timeout_s=5.0),
        )
        quota = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=10, load=ledger.usage_of)
        pipeline = CheckPipeline(
            bench.authenticator,
            throttle,
            LastUsed(bench.key_repository),
            CatalogView(CatalogStore(redis, settings.redis_timeout_s)),
            Admitter(quota, settings.max_num_predict),
            DenialLog(quota, Outbox(quota, ledger, 10)),
            prefer_loaded=False,
            detached_max=2,
        )
        yield Busy(pipeline, throttle, hasher)


def detached() -> int:
    """How many failures are still to be counted for those who left."""
    return sum(task.get_name() == "authentication" for task in asyncio.all_tasks())


async def test_a_wrong_key_counts_also_when_nobody_waited_for_the_verdict(busy: Busy) -> None:
    await busy.leave()
    assert detached() == 1
    busy.hasher.turn.set()
    async with asyncio.timeout(20):
        with pytest.raises(Denied) as refused:
            while True:
                await busy.throttle.check(CLIENT_IP)
    assert refused.value.code is Code.AUTH_THROTTLED


async def test_disconnecting_callers_leave_a_bounded_number_of_verifications(busy: Busy) -> None:
    for _ in range(4):
        await busy.leave()
    assert detached() == 2
