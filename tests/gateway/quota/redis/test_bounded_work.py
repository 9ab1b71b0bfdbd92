"""The work of one call to Redis does not grow with the keys of a tenant, or with the events and holds of a shard."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from gateway.quota.port import Hold
from gateway.quota.redis.quota import FIELDS_SLICE
from gateway.quota.redis.waiting import EVENTS_SLICE
from gateway.values import Period
from tests.gateway.quota.builders import NOON_MS, Ledger, admitted, asks, entry
from tests.gateway.quota.conftest import Bench
from tests.redis_commands import counted_calls, unbounded_calls

KEYS = 3000
COUNTERS = "nz:{s0}:counters:1"
DAY_S = timedelta(days=1).total_seconds()
# One step of HSCAN returns whole buckets, which may have several fields.
PRUNED_MAX = 400
# Commands whose cost depends only on their arguments. DEL is for small keys.
CONSTANT = frozenset(
    "DEL EXISTS GET HDEL HEXISTS HGET HINCRBY HLEN HMGET HSET INFO PERSIST PEXPIRE RENAME SET TIME UNLINK XACK XADD"
    " XDEL XINFO XLEN ZADD ZREM ZSCORE".split()
)


def record_one_request_per_key(ledger: Ledger) -> None:
    """Makes each of KEYS keys of tenant 1 have used one token."""
    for key in range(KEYS):
        recorded = entry(Hold(f"by{key}", 1, key, NOON_MS, 0, 0, ""), output_tokens=1)
        ledger.entries[recorded.request_id] = recorded


def test_scripts_call_only_commands_of_bounded_cost() -> None:
    assert unbounded_calls("gateway.quota.redis", CONSTANT) == []


async def test_an_admission_after_midnight_checks_a_bounded_number_of_fields(
    redis_bench: Bench, redis_client: Any
) -> None:
    record_one_request_per_key(redis_bench.ledger)
    await admitted(redis_bench.quota, asks(key=1))
    before = redis_client.hlen(COUNTERS)
    redis_bench.clock.forward(DAY_S)
    admissions, deleted = 0, 0
    while redis_client.hexists(COUNTERS, "prune") or not deleted:
        with counted_calls(redis_client) as calls:
            await admitted(redis_bench.quota, asks(key=1))
        assert calls["hscan"] == 1
        assert calls["hdel"] <= PRUNED_MAX
        admissions, deleted = admissions + 1, before - redis_client.hlen(COUNTERS)
    assert deleted == KEYS + 1, "the day's sum of each key and of the tenant"
    assert admissions <= before / 50
    with counted_calls(redis_client) as calls:
        await admitted(redis_bench.quota, asks(key=1))
    assert "hscan" not in calls


async def test_past_periods_are_deleted_even_if_a_day_has_too_few_admissions(
    redis_bench: Bench, redis_client: Any
) -> None:
    record_one_request_per_key(redis_bench.ledger)
    await admitted(redis_bench.quota, asks(key=1))
    first_month = [field for field in redis_client.hkeys(COUNTERS) if b":2025-11" in field]
    assert len(first_month) == 2 * (KEYS + 1)
    for _ in range(400):
        redis_bench.clock.forward(DAY_S)
        await admitted(redis_bench.quota, asks(key=1))
    assert not any(redis_client.hmget(COUNTERS, first_month))
    assert redis_client.hlen(COUNTERS) < KEYS + 20


async def test_a_rebuild_writes_the_counters_slice_by_slice(redis_bench: Bench, redis_client: Any) -> None:
    record_one_request_per_key(redis_bench.ledger)
    with counted_calls(redis_client) as calls:
        await admitted(redis_bench.quota, asks(key=1))
    assert calls["hset"] > 3 * KEYS / FIELDS_SLICE
    counters = await redis_bench.quota.counters(1)
    assert counters is not None
    assert len(counters.used) == 3 * (KEYS + 1)
    assert {n for (key, _), n in counters.used.items() if key is not None} == {1}
    assert counters.used[None, Period.TOTAL] == KEYS


async def test_rebuilds_of_many_tenants_read_the_events_once(redis_bench: Bench, redis_client: Any) -> None:
    tenants, others = range(1, 41), 2 * EVENTS_SLICE + 1
    for tenant in tenants:
        hold = await admitted(redis_bench.quota, asks(tenant=tenant))
        await redis_bench.quota.settle(entry(hold, output_tokens=tenant))
        await redis_bench.quota.invalidate_counters(tenant)
    text = entry(Hold("other", 99, 990, NOON_MS, 0, 0, "")).to_json()
    for _ in range(others):
        redis_client.xadd("nz:{s0}:events", {"t": 99, "e": text})
    sent_before = redis_client.info("stats")["total_net_output_bytes"]
    with counted_calls(redis_client) as calls:
        await asyncio.gather(
            *(redis_bench.quota.admit(asks(tenant=tenant, limits=asks().key_limits)) for tenant in tenants)
        )
    sent = redis_client.info("stats")["total_net_output_bytes"] - sent_before
    assert calls["xrange"] == (others + len(tenants)) // EVENTS_SLICE + len(tenants)
    assert sent < 2 * others * len(text)
    for tenant in tenants:
        counters = await redis_bench.quota.counters(tenant)
        assert counters is not None
        assert counters.used[None, Period.DAY] == 10 + tenant
