"""What running requests hold of the budgets right now, which only Redis knows."""

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

Reserved: TypeAlias = Callable[[BudgetRow], int | None]
"""Tokens held of a budget; None while Redis cannot be asked."""


async def reserved_tokens(settings: Settings, database: Database, budgets: Sequence[BudgetRow]) -> Reserved:
    """Asks once for each tenant that has a budget."""
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
    # Without counters no request of the tenant has been admitted since Redis has its data, so none holds anything.
    key_id = row.subject_id if row.scope == "key" else None
    return counters.held.get((key_id, row.period), 0) if counters else 0
