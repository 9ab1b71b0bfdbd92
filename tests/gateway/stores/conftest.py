"""An open Database for the tests of the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from gateway.settings import Settings
from gateway.stores.postgres import Database


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings for that database, with cheap hashing."""
    return Settings(database_url=database_url, argon2_time_cost=1, argon2_memory_cost_kib=64, argon2_parallelism=1)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """An open Database."""
    database = Database(settings)
    yield database
    await database.close()


@pytest.fixture
async def service_database(settings: Settings, service_database_url: str) -> AsyncIterator[Database]:
    """The same one as authz and meter open it."""
    database = Database(settings.model_copy(update={"database_url": SecretStr(service_database_url)}))
    yield database
    await database.close()
