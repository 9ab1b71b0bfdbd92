"""What `/readyz` says, and how often it asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from gateway.ledger.store import Ledger
from gateway.quota.redis.quota import RedisQuota
from gateway.service.readiness import Readiness
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect


class CountingDatabase(Database):
    """PostgreSQL, which counts its pings."""

    pings = 0

    async def ping(self) -> None:
        self.pings += 1
        await super().ping()


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return Settings(database_url=SecretStr(database_url), redis_url=SecretStr(redis_url), redis_timeout_s=5)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[CountingDatabase]:
    opened = CountingDatabase(settings)
    yield opened
    await opened.close()


@pytest.fixture
async def quota(settings: Settings, database: Database) -> AsyncIterator[RedisQuota]:
    redis = connect(settings)
    yield RedisQuota(redis, settings, Ledger(database).usage_of)
    await redis.aclose()


async def test_concurrent_readiness_requests_share_one_query_of_the_stores(
    database: CountingDatabase, quota: RedisQuota
) -> None:
    ready = Readiness(database, quota, lambda: True)
    answers = await asyncio.gather(*(ready.missing() for _ in range(300)))
    assert "postgresql" not in {name for names in answers for name in names}
    # One, or a few more on a machine so slow that an answer grows old meanwhile.
    assert 1 <= database.pings < 30


async def test_a_missing_dependency_is_named_until_it_is_available(
    settings: Settings, quota: RedisQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [False]
    elsewhere = settings.model_copy(update={"database_url": SecretStr("postgresql://nobody@127.0.0.1:1/none")})
    ready = Readiness(Database(elsewhere), quota, lambda: known[0], cache_s=0.0)
    assert [name for name in await ready.missing() if name != "counters"] == ["postgresql", "backends"]
    known[0] = True
    assert [name for name in await ready.missing() if name != "counters"] == ["postgresql"]
