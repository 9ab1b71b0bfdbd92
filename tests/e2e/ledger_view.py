"""The gateway's books, read where they are kept: audit rows and sums in PostgreSQL, live counters in Redis."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from gateway import settings
from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.quota import periods
from gateway.quota.port import Counters
from gateway.quota.rebuild import total
from gateway.quota.redis.quota import RedisQuota
from gateway.stores.postgres import Database
from gateway.stores.redis import Redis, connect
from tests.e2e.stack import WAIT_TIMEOUT_S, Stack
from tests.polling import eventually_async

Rows = Mapping[str, list[dict[str, Any]]]


class Books:
    """Of one running stack. `rows` and the like are what is recorded now; `settled` waits."""

    def __init__(self, database: Database, redis: Redis, quota: RedisQuota) -> None:
        self.redis = redis
        self._database = database
        self._quota = quota

    async def rows(self, request_ids: Collection[str]) -> Rows:
        """Every audit row of these requests, by request id."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        query = "SELECT * FROM gateway.audit_log WHERE request_id = ANY($1::text[])"
        for row in await self._database.fetch(query, list(request_ids)):
            found[row["request_id"]].append(dict(row))
        return found

    async def rows_once_there(self, request_ids: Collection[str], timeout_s: float = WAIT_TIMEOUT_S) -> Rows:
        """The same once each of them has one, or what there is when that never happens."""
        rows: Rows = {}

        async def all_there() -> bool:
            nonlocal rows
            rows = await self.rows(request_ids)
            return set(request_ids) <= rows.keys()

        with suppress(AssertionError):
            await eventually_async(all_there, timeout_s, retry_on=(StoreUnavailable,))
        return rows

    async def request_ids(self, user_agent: str) -> set[str]:
        """Every request that came from this client and has a row."""
        query = "SELECT request_id FROM gateway.audit_log WHERE user_agent = $1"
        return {row["request_id"] for row in await self._database.fetch(query, user_agent)}

    async def tenant_id(self, name: str) -> int:
        """The id of a tenant."""
        found: int = await self._database.fetchval("SELECT id FROM gateway.tenants WHERE name = $1", name)
        return found

    async def tenant_rows(self, tenant_id: int) -> list[dict[str, Any]]:
        """Every audit row of a tenant, oldest first."""
        query = "SELECT * FROM gateway.audit_log WHERE tenant_id = $1 ORDER BY ts"
        return [dict(row) for row in await self._database.fetch(query, tenant_id)]

    async def counters(self, tenant_id: int) -> Counters | None:
        """The live counters of a tenant. Where the drain was in doubt they are rebuilt, as an admission would do it."""
        if (found := await self._quota.counters(tenant_id)) is None:
            await self._quota._rebuilder.rebuild(tenant_id)
            found = await self._quota.counters(tenant_id)
        return found

    async def recorded(self, tenant_id: int) -> Counters:
        """What the live counters of a tenant must say once all of its requests are settled."""
        now_ms = int(time.time() * 1000)
        used = total(await Ledger(self._database).usage_of(tenant_id, periods.at(now_ms), ()), (), now_ms)
        return Counters({(who, period): tokens for (who, period, _), tokens in used.items()}, {}, {})

    async def settled(self, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Waits until no request is held and no event waits for PostgreSQL."""
        await eventually_async(self._is_idle, timeout_s, failure="a hold or an event remained")

    async def _is_idle(self) -> bool:
        backlog = await self._quota.backlog()
        return not backlog.events and not backlog.holds


@asynccontextmanager
async def opened(stack: Stack) -> AsyncIterator[Books]:
    """The books of `stack`, as long as the context lasts."""
    loaded = settings.load(Path(stack.ready["env_file"]))
    database, redis = Database(loaded), connect(loaded)
    quota = RedisQuota(redis, loaded, Ledger(database).usage_of)
    try:
        yield Books(database, redis, quota)
    finally:
        await quota.aclose()
        await redis.aclose()
        await database.close()


def row_of(stack: Stack, request_id: str) -> dict[str, Any]:
    """The audit row of a request, once it is there. There is never more than one."""

    async def look() -> dict[str, Any]:
        async with opened(stack) as books:
            rows = await books.rows_once_there([request_id])
        (row,) = rows[request_id]
        return row

    return asyncio.run(look())
