"""What is particular to the queue in Redis: its cost, its notifications, a cluster, and restarts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.queue.port import QueueRules, Turn, Waiting
from gateway.queue.redis.queue import RedisQueue
from gateway.queue.redis.turns import RedisTurns
from gateway.settings import Settings
from gateway.stores.redis import Redis, connect
from tests.gateway.queue.builders import RULES, replicas, running, ticket
from tests.gateway.queue.conftest import Bench
from tests.gateway.quota.builders import Clock
from tests.redis_commands import counted_calls, script_calls, unbounded_calls
from tests.redis_server import cluster, one_server

WIDE = QueueRules(wait_max_s=600, tickets_max=1000, bytes_max=10**9, ticket_lease_s=600, restore_s=0)
# Commands whose cost depends only on their arguments, or on the logarithm of the number of tickets. DEL is for the
# counters of one busy period, HKEYS for the pools with tickets, which are no more than the models, and HGETALL for at
# most 1,000 slots, once for each trial.
CONSTANT = frozenset(
    "DEL EXISTS HDEL HEXISTS HGET HGETALL HINCRBY HKEYS HLEN HMGET HSET HSETNX PUBLISH SET ZADD ZLEXCOUNT ZREM".split()
)


def test_scripts_call_only_commands_of_bounded_cost() -> None:
    assert unbounded_calls("gateway.queue.redis", CONSTANT) == []


async def test_a_request_that_does_not_wait_costs_one_call_on_arrival_and_one_at_its_end(
    redis_bench: Bench, redis_client: Any
) -> None:
    await redis_bench.queue.finish((ticket()).request_id)
    await redis_bench.queue.enter(ticket(candidates=replicas("b")))
    request = ticket()
    with counted_calls(redis_client) as calls:
        assert isinstance(await redis_bench.queue.enter(request), Turn)
        await redis_bench.queue.finish(request.request_id, 20)
    assert script_calls(calls) == 2
    assert calls.total() < 60


class TestManyTickets:
    @pytest.fixture
    def rules(self) -> QueueRules:
        return WIDE

    async def test_the_work_to_grant_a_slot_does_not_grow_with_the_tickets_of_a_key(
        self, redis_bench: Bench, redis_client: Any
    ) -> None:
        holder = ticket(tenant=9)
        await redis_bench.queue.enter(holder)
        costs = []
        for tickets in (1, 9, 90):
            for tenant in range(1, 21):
                for _ in range(tickets):
                    await redis_bench.queue.enter(ticket(tenant=tenant))
            with counted_calls(redis_client) as calls:
                await redis_bench.queue.finish(holder.request_id, 20)
            costs.append(calls.total())
            # The slot is taken again by a request that the next round can finish.
            [holder_id] = [each.decode() for each in redis_client.hkeys("nz:{s0}:queue:3:slots")]
            holder = ticket(request_id=holder_id)
        assert max(costs) <= costs[0] + 10
        assert costs[0] < 20 * 10

    async def test_many_leases_that_expire_at_once_are_handled_in_slices(
        self, redis_bench: Bench, redis_client: Any
    ) -> None:
        for _ in range(250):
            await redis_bench.queue.enter(ticket())
        redis_bench.clock.forward(600)
        left = []
        for _ in range(3):
            await redis_bench.queue.set_slots({"a": 0})
            left.append(redis_client.zcard("nz:{s0}:queue:3:leases"))
        assert left == [150, 50, 0]
        # Nothing is left of them.
        assert set(redis_client.keys("nz:*")) == {b"nz:{s0}:queue:3:state"}


async def test_when_redis_is_out_of_memory_no_slot_is_taken_and_requests_end(
    redis_bench: Bench, redis_client: Any
) -> None:
    holder, waiting = ticket(), ticket()
    await redis_bench.queue.enter(holder)
    await redis_bench.queue.enter(waiting)
    before = await redis_bench.queue.status()
    redis_client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable):
            await redis_bench.queue.enter(ticket(candidates=replicas("b")))
        assert await redis_bench.queue.status() == before
        assert await redis_bench.queue.finish(holder.request_id, 10)
    finally:
        redis_client.config_set("maxmemory", "0")
    assert isinstance(await redis_bench.queue.enter(waiting), Turn)


async def test_the_owner_of_a_ticket_is_notified_of_its_turn(redis_bench: Bench, connection: Redis) -> None:
    holder, mine, other = ticket(), ticket(owner="w1"), ticket(tenant=2, owner="w2")
    for each in (holder, mine, other):
        await redis_bench.queue.enter(each)
    async with RedisTurns(connection, 5.0).of("w1") as next_turn:
        await redis_bench.queue.finish(holder.request_id, 10)
        assert await next_turn(0.01) is None
        await redis_bench.queue.finish(other.request_id)
        assert await next_turn(5) == mine.request_id


async def test_the_queue_is_in_one_slot_of_a_cluster_and_notifies_from_every_node() -> None:
    with cluster() as servers:
        settings = Settings(redis_url=SecretStr(servers[0].url), redis_timeout_s=5.0, redis_shards=12)
        redis = connect(settings)
        queue = RedisQueue(redis, 5.0, RULES, Clock())
        holder, waiting = ticket(), ticket(tenant=2)
        turn = await queue.enter(holder)
        assert isinstance(turn, Turn)
        assert isinstance(await queue.enter(waiting), Waiting)
        assert await queue.renew([running(holder, turn, 30)]) == [True]
        async with RedisTurns(redis, 5.0).of("worker") as next_turn:
            assert await queue.finish(holder.request_id, 40)
            assert await next_turn(5) == waiting.request_id
        assert [type(place) for place in await queue.poll([waiting.request_id])] == [Turn]
        assert sum(server.client().dbsize() > 0 for server in servers) == 1
        await redis.aclose()


async def test_after_a_restart_with_its_data_redis_grants_no_slot_until_running_requests_are_re_established() -> None:
    with one_server("--appendonly", "yes", "--appendfsync", "always") as server:
        redis = connect(Settings(redis_url=SecretStr(server.url), redis_timeout_s=2.0))
        clock = Clock()
        queue = RedisQueue(redis, 2.0, QueueRules(restore_s=1.5), clock)
        await queue.set_slots({"a": 1})
        clock.forward(1.5)
        holder, waiting = ticket(), ticket(tenant=2)
        turn = await queue.enter(holder)
        assert isinstance(turn, Turn)
        assert isinstance(await queue.enter(waiting), Waiting)
        server.kill()
        with pytest.raises(StoreUnavailable):
            await queue.poll([waiting.request_id])
        server.start()
        # The holder's lease has expired in the meantime, and its meter has not renewed it yet.
        clock.forward(16)
        again = ticket(tenant=2, request_id=waiting.request_id, arrived_at_ms=clock.now_ms - 16_000)
        assert isinstance(await queue.enter(again), Waiting)
        assert await queue.renew([running(holder, turn, 30)]) == [True]
        clock.forward(1.5)
        assert [type(place) for place in await queue.poll([waiting.request_id])] == [Waiting]
        assert await queue.finish(holder.request_id, 40)
        assert [type(place) for place in await queue.poll([waiting.request_id])] == [Turn]
        await redis.aclose()
