from __future__ import annotations

from gateway.ledger.store import Ledger
from gateway.stores.postgres import Database
from gateway.values import Outcome
from ops.database.recorded_tokens import RecordedUsage, recorded_tokens
from ops.database.tenants import TenantRepository
from tests.row_builders import entry


async def test_the_tokens_of_rows_and_of_refused_entries_count_once(database: Database) -> None:
    await TenantRepository(database).create_tenant("acme", {})
    tenant_id = await database.fetchval("SELECT id FROM gateway.tenants")
    ledger = Ledger(database)
    rows = [entry(name, tenant_id=tenant_id) for name in "ab"]
    await ledger.append([*rows, entry("d", tenant_id=tenant_id, outcome=Outcome.DENIED)])
    await ledger.append(rows)
    await ledger.reject(entry("c", tenant_id=tenant_id), "for this test")
    await ledger.append([entry("gone", tenant_id=999, key_id=999)])
    assert await recorded_tokens(database) == [RecordedUsage("acme", 9, 12), RecordedUsage(None, 3, 4)]
