"""A superuser who changes sealed rows, links or the tree, and may seal everything again, is found against a checkpoint
that was signed before.

Each trial tampers in a transaction that is rolled back. `TRIALS=1000 pytest tests/ops/database/test_tampering.py` runs
more of them than the suite does.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import asyncpg
import pytest

from gateway.ledger.store import Ledger
from gateway.stores.postgres import Database
from ops.checkpoint import checkpoint
from ops.checkpoint.signed_note import PrivateKey
from ops.database.audit_chain import AuditChain, ChainReport
from ops.database.audit_seal import AuditSealer
from ops.database.policies import PolicySubject
from ops.database.tenants import TenantRepository
from tests.row_builders import entry

TRIALS = int(os.environ.get("TRIALS", "64"))
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
LINKS = 4
# The tree stores nodes over 256 rows.
FIRST_ROWS = 600

Connection = Any
Step = Callable[[Connection, random.Random], Awaitable[None]]


class SameConnection:
    """The part of a Database that a verification needs, on a connection with uncommitted changes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def transaction(self, **_: Any) -> AsyncIterator[Connection]:
        yield self._connection


async def verify(connection: Connection, noted: tuple[int, str] | None = None) -> ChainReport:
    return await AuditChain(cast(Database, SameConnection(connection))).verify(LONG_AGO, noted)


@pytest.fixture
async def connection(database: Database, database_url: str) -> AsyncIterator[Connection]:
    """A superuser's connection to a log of LINKS links, each with three or FIRST_ROWS requests and two changes."""
    tenants, ledger = TenantRepository(database), Ledger(database)
    await tenants.create_tenant("acme", {})
    for link in range(LINKS):
        await ledger.append([entry(f"r{link}-{number}") for number in range(3 if link else FIRST_ROWS)])
        for rpm in (2 * link + 1, 2 * link + 2):
            await tenants.change_policy(PolicySubject("tenant", "acme"), {"rpm": rpm})
        await AuditSealer(database, link_every_s=0).seal()
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def _seqs(connection: Connection, table: str, draw: random.Random) -> list[int]:
    rows = await connection.fetch(f"SELECT seq FROM gateway.{table}")  # noqa: S608 (ours)
    return draw.sample([row["seq"] for row in rows], 2)


def _table(draw: random.Random) -> str:
    return draw.choice(["audit_log", "policy_changes"])


async def delete(connection: Connection, draw: random.Random) -> None:
    table = _table(draw)
    seqs = (await _seqs(connection, table, draw))[: draw.randint(1, 2)]
    await connection.execute(f"DELETE FROM gateway.{table} WHERE seq = ANY($1::bigint[])", seqs)  # noqa: S608 (ours)


async def change(connection: Connection, draw: random.Random) -> None:
    table, assignment = draw.choice(
        [
            *(
                ("audit_log", f"{name} = {name} + 1")
                for name in ("input_tokens", "output_tokens", "tenant_id", "status")
            ),
            *(
                ("audit_log", f"{name} = 'x'")
                for name in ("tenant", "reason", "client_ip", "model", "code", "request_id")
            ),
            *(
                ("policy_changes", f"{name} = 'x'")
                for name in ("command", "os_user", "host", "database_role", "tenant")
            ),
            ("policy_changes", "after = after || '{\"rpm\": 99999}'"),
            ("policy_changes", "ts = ts - interval '1 second'"),
            ("audit_log", "ts = ts + interval '1 microsecond'"),
        ]
    )
    (seq, _) = await _seqs(connection, table, draw)
    await connection.execute(f"UPDATE gateway.{table} SET {assignment} WHERE seq = $1", seq)  # noqa: S608 (ours)


async def insert(connection: Connection, draw: random.Random) -> None:
    table = _table(draw)
    (seq, _) = await _seqs(connection, table, draw)
    copied = {
        "audit_log": f"'request_id', 'forged', 'seq', {draw.choice([seq, -seq])}",
        "policy_changes": f"'seq', {-seq}",
    }
    await connection.execute(
        f"INSERT INTO gateway.{table} SELECT (jsonb_populate_record(NULL::gateway.{table},"  # noqa: S608 (ours)
        f" to_jsonb(a) || jsonb_build_object({copied[table]}))).* FROM gateway.{table} a WHERE seq = $1",
        seq,
    )


async def reorder(connection: Connection, draw: random.Random) -> None:
    table = _table(draw)
    first, second = await _seqs(connection, table, draw)
    for old, new in ((first, -1), (second, first), (-1, second)):
        await connection.execute(f"UPDATE gateway.{table} SET seq = $2 WHERE seq = $1", old, new)  # noqa: S608 (ours)


async def truncate(connection: Connection, draw: random.Random) -> None:
    """Removes the end of the log with its links, so that what is left is a whole chain."""
    link = draw.randint(1, LINKS - 1)
    last_seq = await connection.fetchval("SELECT last_seq FROM gateway.audit_chain WHERE link = $1", link)
    for table in ("audit_log", "policy_changes"):
        await connection.execute(f"DELETE FROM gateway.{table} WHERE seq > $1", last_seq)  # noqa: S608 (ours)
    await connection.execute("DELETE FROM gateway.audit_chain WHERE link > $1", link)


async def unlink(connection: Connection, draw: random.Random) -> None:
    await connection.execute("DELETE FROM gateway.audit_chain WHERE link = $1", draw.randint(1, LINKS))


async def change_link(connection: Connection, draw: random.Random) -> None:
    assignment = draw.choice(
        [
            *(
                f"{name} = {name} + 1"
                for name in ("first_seq", "last_seq", "rows", "rows_total", "changes", "tree_size")
            ),
            *(f"{name} = sha256({name})" for name in ("digest", "previous", "hash", "changes_digest", "tree_peaks")),
            *(f"{name} = {name} - interval '1 second'" for name in ("first_ts", "last_ts", "sealed_at")),
        ]
    )
    link = draw.randint(1, LINKS)
    await connection.execute(f"UPDATE gateway.audit_chain SET {assignment} WHERE link = $1", link)  # noqa: S608 (ours)


async def change_tree(connection: Connection, draw: random.Random) -> None:
    statement = draw.choice(
        [
            "UPDATE gateway.audit_tree SET hash = sha256(hash) WHERE index = $1",
            "DELETE FROM gateway.audit_tree WHERE index = $1",
            "INSERT INTO gateway.audit_tree SELECT index + 2, hash FROM gateway.audit_tree WHERE index = $1",
            "UPDATE gateway.audit_tree SET index = index + 2 WHERE index = $1",
        ]
    )
    await connection.execute(statement, draw.randint(0, 1))


async def seal_again(connection: Connection, draw: random.Random) -> None:
    """Builds a whole new chain over what is there, as someone does who covers up."""
    await connection.execute("DELETE FROM gateway.audit_chain")
    sealed = 1
    last = await connection.fetchval("SELECT last_value FROM gateway.audit_log_seq")
    while sealed:
        size = draw.choice([5, 6, 10_000])
        sealed = await connection.fetchval("SELECT gateway.seal_audit_log($1, '0', $2, interval '0')", last, size)


async def test_random_manipulations_are_found_against_a_noted_head(connection: Connection) -> None:
    head, key = (await verify_committed(connection)).head, PrivateKey.generate(checkpoint.ORIGIN)
    assert head is not None
    noted = checkpoint.opened(checkpoint.signed(head, key), key.public)
    assert noted == head
    steps: tuple[Step, ...] = (delete, change, insert, reorder, truncate, unlink, change_link, change_tree)
    for seed in range(TRIALS):
        draw = random.Random(seed)  # noqa: S311 (trials, no secrets)
        step, covers_up = steps[seed % len(steps)], draw.random() < 0.5
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SET LOCAL session_replication_role = replica")
        await step(connection, draw)
        if covers_up and step is not change_tree:
            await seal_again(connection, draw)
        report = await verify(connection, (noted.link, noted.hash))
        await transaction.rollback()
        assert report.problems, (seed, step.__name__, covers_up)


async def verify_committed(connection: Connection) -> ChainReport:
    """The report before any manipulation, which has no problems."""
    async with connection.transaction():
        report = await verify(connection)
    assert (report.links, report.rows, report.changes, report.problems) == (
        LINKS,
        FIRST_ROWS + 3 * (LINKS - 1),
        2 * LINKS + 2,
        (),
    )
    return report
