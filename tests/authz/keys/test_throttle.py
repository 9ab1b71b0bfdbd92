from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from authz.keys.throttle import FailureThrottle, throttle_key
from gateway.errors import Code, Denied, StoreUnavailable
from gateway.settings import Settings
from gateway.stores.redis import Redis, connect


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(Settings(redis_url=SecretStr(redis_url), redis_timeout_s=5))
    await client.flushall()
    yield client
    await client.aclose()


async def test_an_address_is_refused_after_as_many_failures_as_are_allowed(redis: Redis) -> None:
    throttle = FailureThrottle(redis, failures_max=3, timeout_s=5.0)
    for _ in range(3):
        await throttle.check("192.0.2.1")
        await throttle.count("192.0.2.1")
    with pytest.raises(Denied) as refused:
        await throttle.check("192.0.2.1")
    assert refused.value.code is Code.AUTH_THROTTLED
    assert refused.value.retry_after_s is not None
    assert 0 < refused.value.retry_after_s <= 61
    await throttle.check("192.0.2.2")


async def test_every_counter_ends(redis: Redis) -> None:
    throttle = FailureThrottle(redis, failures_max=3, timeout_s=5.0)
    for _ in range(5):
        await throttle.count("192.0.2.1")
    (key,) = await redis.keys("*")
    assert 0 < await redis.ttl(key) <= 60


async def test_without_redis_every_check_is_unavailable() -> None:
    client = connect(Settings(redis_url=SecretStr("redis://127.0.0.1:1/0"), redis_timeout_s=0.5))
    with pytest.raises(StoreUnavailable):
        await FailureThrottle(client, 3, timeout_s=5.0).check("192.0.2.1")
    await client.aclose()


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", "unknown"),
        ("x\r\ny", "unknown"),
    ],
)
def test_an_ipv6_network_counts_as_one(address: str, counted: str) -> None:
    assert throttle_key(address) == counted
