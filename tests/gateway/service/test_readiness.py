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
    """PostgreSQL, and how often it was asked whether it is there."""

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


async def test_many_who_ask_at_once_are_one_question_to_the_stores(
    database: CountingDatabase, quota: RedisQuota
) -> None:
    ready = Readiness(database, quota, lambda: True)
    answers = await asyncio.gather(*(ready.missing() for _ in range(300)))
    assert "postgresql" not in {name for names in answers for name in names}
    # One, or a few more on a machine so slow that an answer grows old meanwhile.
    assert 1 <= database.pings < 30


async def test_what_is_missing_is_named_and_no_longer_when_it_is_back(
    settings: Settings, quota: RedisQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [False]
    elsewhere = settings.model_copy(update={"database_url": SecretStr("postgresql://nobody@127.0.0.1:1/none")})
    ready = Readiness(Database(elsewhere), quota, lambda: known[0], cache_s=0.0)
    assert [name for name in await ready.missing() if name != "counters"] == ["postgresql", "backends"]
    known[0] = True
    assert [name for name in await ready.missing() if name != "counters"] == ["postgresql"]
