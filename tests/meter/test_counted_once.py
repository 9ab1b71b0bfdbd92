"""Redis lost a request that PostgreSQL has recorded or is about to record: the request still counts once.

Real Redis and real PostgreSQL, with the drain of a meter and the reaper of control.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.quota.port import Hold, Progress, Reserved
from gateway.quota.redis.quota import RedisQuota
from gateway.record.entry import Ending, Entry, settled_entry
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.values import Outcome, Usage, UsageSource
from gateway.wire.surfaces import BY_NAME
from meter.drain import Drain
from ops.control.reaper import Reaper
from ops.database.tenants import TenantRepository
from tests.e2e.ledger_view import LedgerView
from tests.gateway.quota.builders import asks, hold_of, renew
from tests.meter.wire_corpus import draft_of, grant_for
from tests.polling import eventually_async
from tests.redis_server import RedisServer, one_server
from tests.row_builders import add_key

LEASE_S = 0.5


@dataclass
class Gateway:
    """The accounting over a separate Redis, which drains only when a test calls for it."""

    redis: RedisServer
    quota: RedisQuota
    ledger_view: LedgerView
    tenant_id: int
    key_id: int
    ledger: Ledger
    drain: Drain

    async def admit(self) -> Hold:
        """A hold with the grant in it. A rebuild of the counters on a busy machine may outlast one call."""
        request = asks(tenant=self.tenant_id, key=self.key_id)
        grant = grant_for(
            BY_NAME["chat"],
            request_id=request.request_id,
            tenant_id=self.tenant_id,
            key_id=self.key_id,
            log_prompts=False,
        )
        request = replace(request, grant_draft=draft_of(grant))
        answer = await eventually_async(lambda: self.quota.admit(request), retry_on=(StoreUnavailable,))
        assert isinstance(answer, Reserved)
        return hold_of(request, answer)

    async def drain_all(self) -> None:
        """Records every event that waits in the ledger."""

        async def wait_idle() -> bool:
            return not (await self.quota.backlog()).events

        task = asyncio.create_task(self.drain.run())
        try:
            await eventually_async(wait_idle, retry_on=(StoreUnavailable,))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def counters_are_right(self) -> None:
        """Runs another request, after which the live counters equal the ledger."""
        assert await self.quota.settle(ended(await self.admit()))
        await self.drain_all()
        counters = await self.quota.counters(self.tenant_id)
        assert counters is not None
        assert counters.used
        assert counters == await self.ledger_view.expected_counters(self.tenant_id)


def ended(hold: Hold) -> Entry:
    """A complete answer of 10 and 50 tokens."""
    usage = Usage(10, 50, UsageSource.EXACT)
    ending = Ending(Outcome.COMPLETE, 200, None, "sim", usage, ttft_ms=1, duration_ms=2, response_bytes=3)
    return settled_entry(hold.grant(), ending)


@asynccontextmanager
async def gateway_over(redis: RedisServer, database_url: str) -> AsyncIterator[Gateway]:
    settings = Settings(
        redis_url=SecretStr(redis.url),
        database_url=SecretStr(database_url),
        redis_timeout_s=5.0,
        hold_lease_s=LEASE_S,
    )
    database, connection = Database(settings), connect(settings)
    ledger, tenants = Ledger(database), TenantRepository(database)
    quota = RedisQuota(connection, settings, ledger.usage_of, restore_s=0)
    try:
        tenant = await tenants.create_tenant("acme", {})
        key = await add_key(tenants)
        ledger_view = LedgerView(database, connection, quota)
        yield Gateway(redis, quota, ledger_view, tenant.id, key.id, ledger, Drain(quota, ledger, "one"))
    finally:
        await quota.aclose()
        await connection.aclose()
        await database.close()


async def test_a_hold_that_comes_back_with_a_log_cut_short_is_reaped_and_not_counted(database_url: str) -> None:
    """Redis replies before its log is on the disk, so a crash may restore the state before the settlement."""
    with one_server("--appendonly", "yes", "--appendfsync", "always") as server:
        async with gateway_over(server, database_url) as gateway:
            hold = await gateway.admit()
            assert await renew(gateway.quota, hold, Progress(input_tokens=10, output_tokens=40, response_bytes=2))
            on_disk = server.aof_bytes()
            assert await gateway.quota.settle(ended(hold))
            await gateway.drain_all()
            server.kill()
            server.truncate_aof(on_disk)
            server.start()
            assert (await gateway.quota.backlog()).holds == 1
            # The counters are rebuilt, including the tokens of the hold that no process owns any more.
            assert await gateway.quota.settle(ended(await gateway.admit()))
            await eventually_async(Reaper(gateway.quota, LEASE_S).reap, retry_on=(StoreUnavailable,))
            await gateway.drain_all()
            await gateway.counters_are_right()


@pytest.mark.parametrize("late_renewal", [False, True], ids=["settlement", "settlement and a late renewal"])
async def test_an_entry_resubmitted_after_a_rebuild_is_counted_once(database_url: str, late_renewal: bool) -> None:
    with one_server() as server:
        async with gateway_over(server, database_url) as gateway:
            hold = await gateway.admit()
            assert await gateway.quota.settle(ended(hold))
            await gateway.drain_all()
            with server.client() as client:
                client.flushall()
            assert await gateway.quota.settle(ended(await gateway.admit()))
            if late_renewal:
                assert await renew(gateway.quota, hold)
            assert await gateway.quota.settle(ended(hold))
            await gateway.drain_all()
            await gateway.counters_are_right()


async def test_an_entry_recorded_only_after_redis_lost_it_is_counted(database_url: str) -> None:
    """Its process would resubmit it, unless that died too or is the reaper."""
    with one_server() as server:
        async with gateway_over(server, database_url) as gateway:
            assert await gateway.quota.settle(ended(await gateway.admit()))
            [stream] = gateway.quota.streams
            events = await stream.read("one", 10, 10)
            with server.client() as client:
                client.flushall()
            assert await gateway.quota.settle(ended(await gateway.admit()))
            await gateway.drain.record(stream, events)
            await gateway.counters_are_right()


async def test_an_event_whose_acknowledgement_was_lost_is_counted_once(database_url: str) -> None:
    with one_server() as server:
        async with gateway_over(server, database_url) as gateway:
            hold = await gateway.admit()
            assert await gateway.quota.settle(ended(hold))
            [stream] = gateway.quota.streams
            [event] = await stream.read("dead", 10, 10)
            await gateway.ledger.append([Entry.from_json(event.text)])
            await gateway.drain.record(stream, await stream.claim("heir", 10, 0))
            await gateway.counters_are_right()
