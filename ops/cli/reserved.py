"""The tokens that running requests hold of each budget, which only Redis knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeAlias

from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.quota.port import Counters
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from ops.database.reports import BudgetRow

HeldTokens: TypeAlias = Callable[[BudgetRow], int | None]
"""Returns the tokens held of a budget, None while Redis is unavailable."""


async def reserved_tokens(settings: Settings, database: Database, budgets: Sequence[BudgetRow]) -> HeldTokens:
    """Reads the counters of every tenant that has a budget, once each."""
    async with AsyncExitStack() as stack:
        redis = connect(settings)
        stack.push_async_callback(redis.aclose)
        quota = RedisQuota(redis, settings, Ledger(database).usage_of)
        stack.push_async_callback(quota.aclose)
        try:
            tenants = {tenant_id: await quota.counters(tenant_id) for tenant_id in {row.tenant_id for row in budgets}}
        except StoreUnavailable:
            return lambda _: None
    return lambda row: _held(tenants[row.tenant_id], row)


def _held(counters: Counters | None, row: BudgetRow) -> int:
    # No counters: Redis has admitted no request of the tenant since it started empty, so no tokens are held.
    key_id = row.subject_id if row.scope == "key" else None
    return counters.held.get((key_id, row.period), 0) if counters else 0
