"""The same quota on a Redis Cluster of three nodes."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.quota.port import Backlog, Hold, Progress
from gateway.quota.redis.quota import FIELDS_SLICE, RedisQuota
from gateway.settings import Settings
from gateway.stores.redis import connect
from gateway.values import Period
from tests.gateway.quota.builders import NOON_MS, Clock, Ledger, admitted, asks, denial, drain, entry
from tests.gateway.quota.conftest import LEASE_S, REBUILD_WAIT_S
from tests.redis_commands import script_calls, total_calls
from tests.redis_server import RedisServer, cluster

TENANTS = range(1, 25)
SHARDS = 12


async def test_a_denial_by_authz_costs_one_call_at_any_number_of_shards() -> None:
    with cluster() as servers:
        costs: list[list[int]] = []
        for shards in (1, 16, 64):
            settings = Settings(redis_url=SecretStr(servers[0].url), redis_timeout_s=5.0, redis_shards=64)
            # The cluster client in each case, so that only the number of shards differs.
            redis = connect(settings)
            quota = RedisQuota(redis, settings.model_copy(update={"redis_shards": shards}), Ledger().load)
            for server in servers:
                server.client().flushall()
            await quota.record(denial(), admission_unknown=True)
            costs.append([])
            for admission_unknown in (False, True):
                before = commands(servers)
                await quota.record(denial(), admission_unknown=admission_unknown)
                used = commands(servers) - before
                costs[-1].append(script_calls(used))
                assert admission_unknown or not {"eval", "exists", "hexists"} & set(used)
            assert await quota.backlog() == Backlog(holds=0, events=3)
            await quota.aclose()
            await redis.aclose()
        assert costs == [[1, 2], [1, 17], [1, 65]]


def commands(servers: list[RedisServer]) -> Counter[str]:
    """How often clients and scripts called each command at all nodes together."""
    return sum((total_calls(server.client()) for server in servers), Counter())


async def test_the_counters_of_tenants_with_many_keys_are_rebuilt_in_every_node() -> None:
    with cluster() as servers:
        settings = Settings(redis_url=SecretStr(servers[0].url), redis_timeout_s=5.0, redis_shards=SHARDS)
        redis, ledger = connect(settings), Ledger()
        quota = RedisQuota(redis, settings, ledger.load, clock=Clock(), restore_s=0, rebuild_wait_s=REBUILD_WAIT_S)
        tenants = range(1, 7)
        for tenant in tenants:
            for key in range(FIELDS_SLICE):
                recorded = entry(Hold(f"{tenant}-{key}", tenant, key, NOON_MS, 0, 0, ""), output_tokens=1)
                ledger.entries[recorded.request_id] = recorded
        await asyncio.gather(*(admitted(quota, asks(tenant=tenant, key=1)) for tenant in tenants))
        for tenant in tenants:
            counters = await quota.counters(tenant)
            assert counters is not None
            assert len(counters.used) == 3 * (FIELDS_SLICE + 1)
            assert counters.used[None, Period.MONTH] == FIELDS_SLICE
        await quota.aclose()
        await redis.aclose()


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
        assert await quota.renew_all([(hold, Progress()) for hold in holds]) == [True] * len(holds)
        clock.forward(LEASE_S)
        lost = await quota.expired(100)
        assert sorted(each.hold.request_id for each in lost) == sorted(hold.request_id for hold in holds)

        for server in servers[:2]:
            server.client().flushall()
        assert all([await quota.settle(entry(hold, output_tokens=7)) for hold in holds])
        assert not any([await quota.settle(entry(hold, output_tokens=7)) for hold in holds])
        await quota.record(denial())
        # Envoy's access log reports a denial without a tenant. The request ended in the shard of its tenant.
        for hold in holds:
            await quota.record(replace(denial(), request_id=hold.request_id), admission_unknown=True)
        assert await quota.backlog() == Backlog(holds=0, events=25)
        assert await drain(quota, ledger) == 25
        assert await quota.backlog() == Backlog(holds=0, events=0)

        # In the shard of its tenant the hold keeps it.
        reported = await admitted(quota, asks(tenant=TENANTS[1], key=TENANTS[1]))
        await quota.record(replace(denial(), request_id=reported.request_id), admission_unknown=True)
        assert await quota.backlog() == Backlog(holds=1, events=0)
        assert await quota.release(reported.request_id, TENANTS[1], TENANTS[1])
        assert await drain(quota, ledger) == 1

        for tenant in TENANTS:
            await quota.release((await admitted(quota, asks(tenant=tenant, key=tenant))).request_id, tenant, tenant)
            counters = await quota.counters(tenant)
            assert counters is not None
            assert counters.used[tenant, Period.TOTAL] == 17

        holds = await asyncio.gather(*(admitted(quota, asks(tenant=tenant, key=tenant)) for tenant in TENANTS))
        servers[2].kill()
        replies = await quota.renew_all([(hold, Progress()) for hold in holds])
        # The other nodes still serve their holds.
        assert {type(reply) for reply in replies} == {bool, StoreUnavailable}
        assert False not in replies
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
