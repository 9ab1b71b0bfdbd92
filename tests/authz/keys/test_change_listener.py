from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from authz.keys.change_listener import ChangeListener
from authz.keys.repository import KeyRepository
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.values import Limits
from ops.database.policies import PolicySubject
from ops.database.tenants import Key, TenantRepository
from tests.polling import eventually_async
from tests.postgres_relay import Relay
from tests.row_builders import HASH, add_key, new_key


class Received:
    """A change listener and the calls that it has made."""

    def __init__(self, database: Database) -> None:
        self.revoked: list[str] = []
        self.changed: list[int] = []
        self.gaps: list[datetime | None] = []
        self.change_listener = ChangeListener(
            database,
            on_revoked=self.revoked.append,
            on_policy_changed=self.changed.append,
            on_gap=self.gaps.append,
            heartbeat_s=0.02,
        )


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[Received]:
    received = Received(database)
    task = asyncio.create_task(received.change_listener.run())
    try:
        yield received
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def received(service_database: Database) -> AsyncIterator[Received]:
    async with listening(service_database) as received:
        await asyncio.wait_for(received.change_listener.wait_connected(), 10)
        yield received


@pytest.fixture
async def key(database: Database) -> Key:
    tenants = TenantRepository(database)
    await tenants.create_tenant("acme", {})
    return await add_key(tenants)


async def test_the_first_connection_reports_a_gap_without_a_start(received: Received) -> None:
    assert received.gaps == [None]
    assert received.change_listener.connected
    assert received.change_listener.staleness_s < 10


async def test_staleness_is_infinite_before_the_first_connection(database: Database) -> None:
    change_listener = Received(database).change_listener
    assert not change_listener.connected
    assert change_listener.staleness_s == float("inf")


async def test_a_revocation_is_received(key: Key, received: Received, database: Database) -> None:
    await TenantRepository(database).revoke_key(key.prefix, "lost")
    await eventually_async(lambda: received.revoked == [key.prefix])


@pytest.mark.parametrize("column", ["key_id", "prefix"])
async def test_a_bare_insert_into_revocations_is_a_whole_revocation(
    key: Key, received: Received, database: Database, column: str
) -> None:
    value = key.id if column == "key_id" else key.prefix
    await database.execute(f"INSERT INTO gateway.revocations ({column}) VALUES ($1)", value)  # noqa: S608
    await eventually_async(lambda: received.revoked == [key.prefix])
    assert (await TenantRepository(database).list_keys(None))[0].status == "revoked"


async def test_every_policy_change_is_received_with_its_tenant_id(
    key: Key, received: Received, database: Database
) -> None:
    tenants = TenantRepository(database)
    tenant_id = (await tenants.list_tenants())[0].id
    changes = (
        lambda: tenants.change_policy(PolicySubject("tenant", "acme"), {"rpm": 5}),
        lambda: tenants.change_policy(PolicySubject("key", key.prefix), {"tpm": 5}),
        lambda: tenants.set_tenant_enabled("acme", False),
        lambda: add_key(tenants, name="another"),
        lambda: database.execute("UPDATE gateway.api_keys SET scopes = '{chat}'"),
    )
    for change in changes:
        received.changed.clear()
        await change()
        await eventually_async(lambda: received.changed == [tenant_id])


async def test_neither_use_nor_rehash_of_a_key_is_a_change_of_policy(
    key: Key, received: Received, database: Database, service_database: Database
) -> None:
    key_repository = KeyRepository(service_database, Limits(1, 1, 1))
    await key_repository.touch([key.prefix], timedelta(0))
    await key_repository.store_hash(key.prefix, HASH, HASH.replace("t=1", "t=2"))
    await TenantRepository(database).set_tenant_enabled(
        "acme", True
    )  # Received after the notifications that the others would have caused.
    await eventually_async(lambda: bool(received.changed))
    assert len(received.changed) == 1


async def test_a_revocation_during_an_outage_is_received_before_the_listener_counts_as_connected(
    key: Key, received: Received, database: Database
) -> None:
    # In one transaction, so that the listener is gone before the revocation can be notified.
    async with database.transaction() as connection:
        await connection.execute(_END_LISTENERS)
        await connection.execute("INSERT INTO gateway.revocations (prefix) VALUES ($1)", key.prefix)
        await eventually_async(lambda: not received.change_listener.connected)
    await eventually_async(lambda: received.change_listener.connected)
    assert key.prefix in received.revoked
    first, *later = received.gaps
    assert first is None
    assert later
    assert None not in later


async def test_a_connection_that_stops_answering_without_closing_is_replaced(database_url: str) -> None:
    async with Relay.to(database_url) as relay:
        settings = Settings(database_url=relay.url, database_timeout_s=0.3)
        database = Database(settings)
        async with listening(database) as received:
            await asyncio.wait_for(received.change_listener.wait_connected(), 10)
            relay.open.clear()
            await eventually_async(lambda: not received.change_listener.connected)
            before = received.change_listener.staleness_s
            await eventually_async(lambda: received.change_listener.staleness_s > before)
            relay.open.set()
            await eventually_async(lambda: received.change_listener.connected)
            assert len(received.gaps) == 2
        await database.close()


async def test_a_rotated_key_without_grace_is_received_as_revoked(
    key: Key, received: Received, database: Database
) -> None:
    await TenantRepository(database).rotate_key(key.prefix, new_key(), timedelta())
    await eventually_async(lambda: received.revoked == [key.prefix])


_END_LISTENERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND query = 'SELECT clock_timestamp()'
"""
