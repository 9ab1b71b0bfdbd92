"""The drain against a real PostgreSQL whose audit log refuses some rows."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from gateway.ledger.store import Ledger
from gateway.record.entry import Entry
from gateway.stores.postgres import Database
from gateway.values import Period
from meter.drain import Drain
from tests.gateway.quota.builders import Clock, admitted, asks, denial, entry
from tests.gateway.quota.builders import Ledger as EmptyLedger
from tests.gateway.quota.model.quota import MemoryQuota
from tests.polling import eventually_async
from tests.row_builders import entry as row


@pytest.fixture
async def quota() -> AsyncIterator[MemoryQuota]:
    made = MemoryQuota(now_ms=Clock(), lease_s=15, backlog_max=1000, load=EmptyLedger().load, restore_s=0)
    yield made
    await made.aclose()


@pytest.fixture
async def picky(database: Database) -> AsyncIterator[Database]:
    """A database whose audit log refuses requests of one address."""
    constraint = "ALTER TABLE gateway.audit_log {} CONSTRAINT picky {}"
    await database.execute(constraint.format("ADD", "CHECK (client_ip <> '192.0.2.66')"))
    yield database
    await database.execute(constraint.format("DROP", ""))


async def drained(quota: MemoryQuota, ledger: Ledger) -> Drain:
    """A drain that has emptied the stream."""
    drain = Drain(quota, ledger, "one")
    task = asyncio.create_task(drain.run())
    await eventually_async(lambda: len(quota.streams[0]) == 0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return drain


async def test_rows_that_a_constraint_refuses_are_set_aside_and_the_others_are_recorded(
    quota: MemoryQuota, picky: Database, service_database: Database
) -> None:
    refused: list[Entry] = []
    for number in range(50):
        each = denial()
        if number % 10 == 7:
            object.__setattr__(each, "client_ip", "192.0.2.66")
            refused.append(each)
        await quota.record(each)
    hold = await admitted(quota, asks())
    assert await quota.settle(entry(hold, output_tokens=5))
    drain = await drained(quota, Ledger(service_database))
    assert drain.rejected == len(refused)
    assert await picky.fetchval("SELECT count(*) FROM gateway.audit_log") == 51 - len(refused)
    rows = await picky.fetch("SELECT request_id, reason, entry FROM gateway.ledger_rejects ORDER BY id")
    assert [Entry.from_json(row["entry"]) for row in rows] == refused
    assert {row["request_id"] for row in rows} == {each.request_id for each in refused}
    assert all("picky" in row["reason"] for row in rows)


@pytest.mark.parametrize("text", ["", "half of {", "[]", "{}", '{"request_id": 7}', "null"])
async def test_an_event_without_a_readable_entry_is_logged_and_holds_up_no_other(
    text: str, quota: MemoryQuota, database: Database, service_database: Database
) -> None:
    first, last = denial(), denial()
    for each in (first, denial(), last):
        await quota.record(each)
    stream = quota.streams[0]
    events = await stream.read("one", 10, 0)
    events[1] = dataclasses.replace(events[1], text=text)
    with capture_logs() as logs:
        await Drain(quota, Ledger(service_database), "one").record(stream, events)
    assert [(each["event"], each["entry"]) for each in logs] == [("event_unreadable", text)]
    rows = await database.fetch("SELECT request_id FROM gateway.audit_log")
    assert {row["request_id"] for row in rows} == {first.request_id, last.request_id}
    assert len(stream) == 0


async def test_an_entry_that_is_set_aside_counts_once(picky: Database, service_database: Database) -> None:
    ledger, now = Ledger(service_database), datetime.now(UTC)
    refused = row("refused", now, client_ip="192.0.2.66", input_tokens=30, output_tokens=12)
    other = row("other", now, input_tokens=1, output_tokens=2)
    assert await ledger.reject(refused, "a constraint") == frozenset()
    assert await ledger.reject(refused, "a constraint") == {refused.tenant_id}
    assert await ledger.append([other]) == frozenset()
    assert await picky.fetchval("SELECT count(*) FROM gateway.ledger_rejects") == 1
    usage = await ledger.usage_of(1, now, ["refused", "other", "missing"])
    assert [(each.subject, each.period, each.tokens) for each in usage.used if each.subject == "tenant"] == [
        ("tenant", period, 45) for period in Period
    ]
    assert usage.recorded == {"refused", "other"}


async def test_a_denial_that_is_delivered_again_is_set_aside_once(picky: Database, service_database: Database) -> None:
    ledger, each = Ledger(service_database), denial()
    for _ in range(2):
        assert await ledger.reject(each, "a constraint") == frozenset()
    assert await picky.fetchval("SELECT count(*) FROM gateway.ledger_rejects") == 1
    assert await picky.fetchval("SELECT count(*) FROM gateway.budget_usage") == 0
