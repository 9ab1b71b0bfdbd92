"""The same quota on a Redis that Sentinels watch, when its master dies under load."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.quota.port import Reserved
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Period
from tests.gateway.quota.builders import Ledger, asks, drain, entry, hold_of
from tests.gateway.quota.conftest import LEASE_S
from tests.redis_server import SentinelGroup, sentinel_group

CALLERS = 8
TENANT = 1
# How long a failover and the following rebuild may take before the test fails.
FAILOVER_TIMEOUT_S = 60.0


class RequestCounter:
    """Counts requests and sets `enough` at 50, which is enough load for the test."""

    def __init__(self) -> None:
        self._left = 50
        self.enough = asyncio.Event()

    def count(self) -> None:
        """Counts one request."""
        self._left -= 1
        if self._left <= 0:
            self.enough.set()


def settings_of(servers: SentinelGroup) -> Settings:
    return Settings(redis_url=SecretStr(servers.url), redis_timeout_s=1.0, hold_lease_s=LEASE_S)


async def test_nothing_is_admitted_during_a_failover_and_the_replica_rebuilds_from_the_ledger() -> None:
    with sentinel_group() as servers:
        settings, ledger = settings_of(servers), Ledger()
        redis = connect(settings)
        quota = RedisQuota(redis, settings, ledger.load)
        before, after, killed = RequestCounter(), RequestCounter(), asyncio.Event()
        denied = 0

        async def call_until_enough() -> None:
            nonlocal denied
            while not after.enough.is_set():
                admission = asks(tenant=TENANT, key=11)
                try:
                    answer = await quota.admit(admission)
                    assert isinstance(answer, Reserved)
                    await quota.settle(entry(hold_of(admission, answer), output_tokens=7))
                    (after if killed.is_set() else before).count()
                except StoreUnavailable:
                    denied += killed.is_set()
                    await asyncio.sleep(0.01)

        callers = [asyncio.create_task(call_until_enough()) for _ in range(CALLERS)]
        async with asyncio.timeout(FAILOVER_TIMEOUT_S):
            await before.enough.wait()
            # Only once, because the callers continue and the stream might never become empty.
            [stream] = quota.streams
            events = await stream.read("test", 100, 0)
            assert events
            ledger.append(events)
            await stream.acknowledge([event.id for event in events])
            # The Sentinel that is queried first dies with the master. Two of three still agree.
            servers.sentinels[0].kill()
            servers.master.kill()
            killed.set()
            await after.enough.wait()
        await asyncio.gather(*callers)
        assert denied > 0

        assert servers.replica.client().info("replication")["role"] == "master"
        await drain(quota, ledger)
        counters = await quota.counters(TENANT)
        assert counters is not None
        recorded = sum(each.input_tokens + each.output_tokens for each in ledger.entries.values())
        assert counters.used[None, Period.TOTAL] == recorded
        await quota.aclose()
        await redis.aclose()


async def test_without_a_reachable_sentinel_every_call_is_unavailable() -> None:
    settings = Settings(redis_url=SecretStr("redis+sentinel://127.0.0.1:1,127.0.0.1:2/gateway"), redis_timeout_s=1.0)
    redis = connect(settings)
    quota = RedisQuota(redis, settings, Ledger().load)
    with pytest.raises(StoreUnavailable):
        await quota.admit(asks())
    await quota.aclose()
    await redis.aclose()
