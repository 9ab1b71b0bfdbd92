"""Data of layout 1, in which COUNTERS also counted the holds, and processes that still write it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.quota.port import Backlog, Counters, Hold, Quota
from gateway.record.grant import seal
from gateway.values import Budgets, Period
from tests.gateway.quota.builders import NOON_MS, admitted, asks, drain, entry, renew
from tests.gateway.quota.conftest import LEASE_S, Bench

HOLDS, DEADLINES, EVENTS, EPOCH = (f"nz:{{s0}}:{name}" for name in ("holds", "deadlines", "events", "epoch"))
COUNTERS, HELD = "nz:{s0}:counters:1", "nz:{s0}:held:3:1"


class EarlierProcess:
    """Writes what the scripts of layout 1 write."""

    def __init__(self, client: Any) -> None:
        self.client = client
        run_id = client.info("server")["run_id"]
        client.hset(EPOCH, mapping={"run": run_id, "since": NOON_MS})
        client.hset(COUNTERS, mapping={"ready": run_id, "day": "2025-11-21", "used:t:total": 5})

    def admit(self, request_id: str) -> Hold:
        """Admits a request of tenant 1."""
        hold = Hold(request_id, 1, 11, NOON_MS, 10, 90, seal(asks().grant_draft, NOON_MS, 10, 90))
        stored = {
            "idempotency_token": "t", "tenant": 1, "key": 11, "at": NOON_MS, "day": "2025-11-21", "month": "2025-11",
            "second": NOON_MS // 1000, "model": "m", "estimate": 10, "input": 10, "cap": 90, "grant": hold.grant_json,
            "in": 0, "out": 0, "bytes": 0,
        }  # fmt: skip
        self.client.hset(HOLDS, request_id, json.dumps(stored))
        self.client.zadd(DEADLINES, {request_id: NOON_MS + int(LEASE_S * 1000)})
        self._count(1)
        return hold

    def settle(self, hold: Hold, output_tokens: int) -> None:
        """Settles a request of tenant 1."""
        self.client.hdel(HOLDS, hold.request_id)
        self.client.zrem(DEADLINES, hold.request_id)
        self._count(-1)
        for subject in ("t", "k11"):
            for period in ("day:2025-11-21", "month:2025-11", "total"):
                self.client.hincrby(COUNTERS, f"used:{subject}:{period}", 10 + output_tokens)
        self.client.set(f"nz:{{s0}}:finished:{hold.request_id}", "settled")
        self.client.xadd(EVENTS, {"t": 1, "e": entry(hold, output_tokens=output_tokens).to_json()})

    def _count(self, sign: int) -> None:
        for subject in ("t", "k11"):
            self.client.hincrby(COUNTERS, f"in_flight:{subject}", sign)
            self.client.hincrby(COUNTERS, f"held:{subject}:total", 100 * sign)


@pytest.fixture
def earlier(redis_bench: Bench, redis_client: Any) -> EarlierProcess:
    """A process of the earlier version that has served requests of tenant 1."""
    assert redis_bench
    return EarlierProcess(redis_client)


@pytest.fixture
def quota(redis_bench: Bench) -> Quota:
    """The quota of this version."""
    return redis_bench.quota


async def denied(quota: Quota) -> None:
    """An admission is denied because the counters are unavailable."""
    with pytest.raises(StoreUnavailable):
        await quota.admit(asks())


async def test_counters_without_holds_are_rebuilt(earlier: EarlierProcess, quota: Quota) -> None:
    assert await quota.counters(1) is None
    await admitted(quota, asks())
    counters = await quota.counters(1)
    assert counters is not None
    assert (counters.used, counters.in_flight) == ({}, {None: 1, 11: 1})


@pytest.mark.parametrize("renewed", [False, True])
async def test_nothing_is_admitted_until_a_request_of_the_earlier_version_ends(
    earlier: EarlierProcess, quota: Quota, renewed: bool
) -> None:
    hold = earlier.admit("earlier")
    await denied(quota)
    if renewed:
        assert await renew(quota, hold)
    assert await quota.settle(entry(hold, output_tokens=7))
    await admitted(quota, asks())
    counters = await quota.counters(1)
    assert counters is not None
    assert set(counters.used.values()) == {17}
    assert counters.in_flight == {None: 1, 11: 1}
    assert set(counters.held.values()) == {100}


async def test_an_abandoned_request_of_the_earlier_version_is_reaped(
    redis_bench: Bench, earlier: EarlierProcess, quota: Quota, redis_client: Any
) -> None:
    hold = earlier.admit("earlier")
    redis_bench.clock.forward(LEASE_S)
    [lost] = await quota.expired(10)
    assert lost.hold == hold
    assert await quota.settle(entry(hold), only_if_expired=True)
    assert not redis_client.exists(HELD)
    await admitted(quota, asks())
    assert await quota.backlog() == Backlog(holds=1, events=1)


async def test_a_request_that_the_earlier_version_settles_leaves_nothing_held(
    redis_bench: Bench, earlier: EarlierProcess, quota: Quota
) -> None:
    """Both versions run, and a meter of the earlier one gets requests that this version admitted."""
    first, second = [await admitted(quota, asks()) for _ in range(2)]
    earlier.settle(first, 1)
    await denied(quota)
    assert await quota.settle(entry(second, output_tokens=2))
    await drain(quota, redis_bench.ledger)
    # The budget has capacity for this request, but for no leftover of the first one.
    third = await admitted(quota, asks(budgets=Budgets(total=123)))
    assert third.output_cap == 90
    await quota.settle(entry(third, input_tokens=0))
    assert await quota.counters(1) == Counters(
        {(subject, period): 23 for subject in (None, 11) for period in Period}, {}, {}
    )


async def test_an_admission_by_the_earlier_version_stops_those_of_this_one(
    earlier: EarlierProcess, quota: Quota, redis_client: Any
) -> None:
    held = await admitted(quota, asks())
    other = earlier.admit("other")
    await denied(quota)
    await quota.settle(entry(held))
    await denied(quota)
    await quota.release(other.request_id, 1, 11)
    await admitted(quota, asks())
    assert redis_client.hget(EPOCH, "counted:3") == b"1"
