"""The same quota on a Redis Cluster of three nodes."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.quota.port import Backlog, Progress
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Period
from tests.gateway.quota.builders import Clock, Ledger, admitted, asks, denial, drain, entry
from tests.gateway.quota.conftest import LEASE_S
from tests.redis_server import cluster

TENANTS = range(1, 25)
SHARDS = 12


async def test_a_cluster_serves_every_tenant_from_one_node() -> None:
    with cluster() as servers:
        settings = Settings(
            redis_url=SecretStr(servers[0].url), redis_timeout_s=5.0, redis_shards=SHARDS, hold_lease_s=LEASE_S
        )
        redis, ledger, clock = connect(settings), Ledger(), Clock()
        quota = RedisQuota(redis, settings, ledger.load, clock=clock, restore_s=0)

        holds = await asyncio.gather(*(admitted(quota, asks(tenant=tenant, key=tenant)) for tenant in TENANTS))
        assert all(server.client().dbsize() > 0 for server in servers)
        assert await quota.backlog() == Backlog(holds=24, events=0)
        assert all([await quota.renew(hold, Progress()) for hold in holds])
        clock.forward(LEASE_S)
        lost = await quota.expired(100)
        assert sorted(each.hold.request_id for each in lost) == sorted(hold.request_id for hold in holds)

        for server in servers[:2]:
            server.client().flushall()
        assert all([await quota.settle(entry(hold, output_tokens=7)) for hold in holds])
        assert not any([await quota.settle(entry(hold, output_tokens=7)) for hold in holds])
        await quota.record(denial())
        assert await quota.backlog() == Backlog(holds=0, events=25)
        assert await drain(quota, ledger) == 25
        assert await quota.backlog() == Backlog(holds=0, events=0)

        for tenant in TENANTS:
            await quota.release((await admitted(quota, asks(tenant=tenant, key=tenant))).request_id, tenant, tenant)
            counters = await quota.counters(tenant)
            assert counters is not None
            assert counters.used[tenant, Period.TOTAL] == 17

        servers[2].kill()
        outcomes = await asyncio.gather(
            *(quota.admit(asks(tenant=tenant, key=tenant)) for tenant in TENANTS), return_exceptions=True
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert failures
        for failure in failures:
            with pytest.raises(StoreUnavailable):
                raise failure
        await quota.aclose()
        await redis.aclose()
