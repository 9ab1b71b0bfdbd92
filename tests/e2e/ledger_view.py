"""Reads the ledger of a running stack: audit rows and totals in PostgreSQL, live counters in Redis."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from gateway import settings
from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.quota import periods
from gateway.quota.port import Counters, Watermark
from gateway.quota.rebuild import Rebuilder, total
from gateway.quota.redis import codec, keys
from gateway.quota.redis.quota import RedisQuota
from gateway.record.entry import Entry
from gateway.stores.postgres import Database
from gateway.stores.redis import Redis, connect
from tests.e2e.stack import WAIT_TIMEOUT_S, Stack
from tests.polling import eventually_async

T = TypeVar("T")

STORE_TIMEOUT_S = 10.0
Rows = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Lease:
    """When the hold of a request expires, in ms since 1970 by the clock of Redis, and its stored output tokens."""

    deadline_ms: int
    output_tokens: int


class LedgerView:
    """The ledger of one stack. Methods that wait have `wait` in their names; the others return the current state."""

    def __init__(self, database: Database, redis: Redis, quota: RedisQuota) -> None:
        self.redis = redis
        self._database = database
        self._quota = quota
        self._rebuilder = Rebuilder(quota, Ledger(database).usage_of)

    async def rows(self, request_ids: Collection[str]) -> Rows:
        """All rows of these requests, by request id: audit rows, and entries that PostgreSQL refused."""
        return await _rows(self._database, request_ids)

    async def refuse_rows(self, modulus: int) -> None:
        """From now on PostgreSQL refuses one audit row in `modulus`, chosen by the request id."""
        constraint = f"CHECK (hashtext(request_id) % {modulus} <> 0) NOT VALID"
        await self._database.execute(f"ALTER TABLE gateway.audit_log ADD CONSTRAINT soak {constraint}")

    async def rejected(self) -> int:
        """How many entries PostgreSQL refused."""
        count: int = await self._database.fetchval("SELECT count(*) FROM gateway.ledger_rejects")
        return count

    async def recorded_tokens(self, tenant_id: int) -> int:
        """The tokens of all audit rows and refused entries of a tenant."""
        query = "SELECT sum(input_tokens + output_tokens)::bigint FROM gateway.audit_log WHERE tenant_id = $1"
        tokens: int = await self._database.fetchval(query, tenant_id) or 0
        for row in await self._database.fetch("SELECT entry FROM gateway.ledger_rejects"):
            rejected = Entry.from_json(row["entry"])
            if rejected.tenant_id == tenant_id:
                tokens += rejected.input_tokens + rejected.output_tokens
        return tokens

    async def budget_usage(self, tenant_id: int) -> int:
        """The tokens that count against the total budget of a tenant."""
        query = """SELECT input_tokens + output_tokens FROM gateway.budget_usage
            WHERE subject = 'tenant' AND subject_id = $1 AND period = 'total'"""
        tokens: int = await self._database.fetchval(query, tenant_id) or 0
        return tokens

    async def wait_for_rows(self, request_ids: Collection[str], timeout_s: float = WAIT_TIMEOUT_S) -> Rows:
        """Waits until each of these requests has a row. After `timeout_s`, returns the rows that exist."""
        return await _wait_for_rows(self._database, request_ids, timeout_s)

    async def request_ids(self, user_agent: str) -> set[str]:
        """The ids of all requests with this user agent that have a row."""
        query = "SELECT request_id FROM gateway.audit_log WHERE user_agent = $1"
        return {row["request_id"] for row in await self._database.fetch(query, user_agent)}

    async def tenant_id(self, name: str) -> int:
        """The id of a tenant."""
        found: int = await self._database.fetchval("SELECT id FROM gateway.tenants WHERE name = $1", name)
        return found

    async def tenant_rows(self, tenant_id: int) -> list[dict[str, Any]]:
        """All audit rows of a tenant, oldest first."""
        query = "SELECT * FROM gateway.audit_log WHERE tenant_id = $1 ORDER BY ts"
        return [dict(row) for row in await self._database.fetch(query, tenant_id)]

    async def counters(self, tenant_id: int) -> Counters | None:
        """The live counters of a tenant. If they are invalid, they are rebuilt first, as an admission would do."""
        if (found := await self._quota.counters(tenant_id)) is None:
            await self._rebuilder.rebuild(tenant_id)
            found = await self._quota.counters(tenant_id)
        return found

    async def expected_counters(self, tenant_id: int) -> Counters:
        """The values that the live counters of a tenant must have when all its requests are settled."""
        now_ms = int(time.time() * 1000)
        used = total(await Ledger(self._database).usage_of(tenant_id, periods.at(now_ms), ()), (), now_ms)
        return Counters({(subject, period): tokens for (subject, period, _), tokens in used.items()}, {}, {})

    async def lease(self, request_id: str) -> Lease:
        """The lease of a running request. Its progress may be newer than its deadline, and never older."""
        holds, deadlines, *_ = keys.of_shard(0)
        deadline_ms = await self.redis.zscore(deadlines, request_id)
        hold: Any = await self.redis.hget(holds, request_id)
        assert deadline_ms and hold, f"{request_id} is not held"
        return Lease(int(deadline_ms), codec.expired_hold(request_id.encode(), hold).progress.output_tokens)

    async def wait_until_settled(self, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Waits until no request is held and no event waits for PostgreSQL."""
        await eventually_async(
            self._is_idle, timeout_s, retry_on=(StoreUnavailable,), failure="a hold or an event remained"
        )

    async def wait_until_released(self, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Waits until no request is held. Raises AssertionError that names the holds."""
        held: list[str] = []

        async def released() -> bool:
            held[:] = [request_id.decode() for request_id in await self._deadlines()]
            return not held

        await eventually_async(
            released, timeout_s, poll_s=0.1, retry_on=(StoreUnavailable,), failure=lambda: f"still held: {held}"
        )

    async def wait_until_recorded(self, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Waits until PostgreSQL has every event that is in Redis now, and each hold is renewed or settled.

        Nothing of a process that has died is left in Redis then.
        """
        held = await self._deadlines()
        first: Watermark | None = None

        async def renewed() -> bool:
            now = await self._deadlines()
            return all(now.get(request_id, math.inf) > deadline for request_id, deadline in held.items())

        async def recorded() -> bool:
            nonlocal first
            now = await self._quota.watermark()
            if first is None or first.epoch != now.epoch:
                first = now
            return now.has_passed(first)

        await eventually_async(renewed, timeout_s, failure="a hold was neither renewed nor settled")
        await eventually_async(recorded, timeout_s, retry_on=(StoreUnavailable,), failure="an event remained")

    async def _deadlines(self) -> dict[bytes, float]:
        """When each hold expires, by request id."""
        pairs: Any = await self.redis.zrange(keys.of_shard(0)[1], 0, -1, withscores=True)
        return dict(pairs)

    async def _is_idle(self) -> bool:
        backlog = await self._quota.backlog()
        return not backlog.events and not backlog.holds


async def _rows(database: Database, request_ids: Collection[str]) -> Rows:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    query = "SELECT * FROM gateway.audit_log WHERE request_id = ANY($1::text[])"
    for row in await database.fetch(query, list(request_ids)):
        found[row["request_id"]].append(dict(row))
    query = "SELECT entry FROM gateway.ledger_rejects WHERE request_id = ANY($1::text[])"
    for row in await database.fetch(query, list(request_ids)):
        rejected = Entry.from_json(row["entry"])
        found[rejected.request_id].append(asdict(rejected))
    return found


async def _wait_for_rows(database: Database, request_ids: Collection[str], timeout_s: float) -> Rows:
    rows: Rows = {}

    async def all_have_rows() -> bool:
        nonlocal rows
        rows = await _rows(database, request_ids)
        return set(request_ids) <= rows.keys()

    with suppress(AssertionError):
        await eventually_async(all_have_rows, timeout_s, retry_on=(StoreUnavailable,))
    return rows


@asynccontextmanager
async def open_ledger_view(stack: Stack) -> AsyncIterator[LedgerView]:
    """A view of the ledger of `stack`, open until the context ends."""
    # A service gives up soon. These tests wait for a store that a busy machine delays.
    patient = {"redis_timeout_s": STORE_TIMEOUT_S, "database_timeout_s": STORE_TIMEOUT_S}
    loaded = settings.load(Path(stack.ready["env_file"])).model_copy(update=patient)
    database, redis = Database(loaded), connect(loaded)
    quota = RedisQuota(redis, loaded, Ledger(database).usage_of)
    try:
        yield LedgerView(database, redis, quota)
    finally:
        await quota.aclose()
        await redis.aclose()
        await database.close()


def audit_row(stack: Stack, request_id: str) -> dict[str, Any]:
    """Waits for the audit row of a request and returns it. Raises ValueError if there is more than one."""
    (row,) = _read(stack, lambda database: _wait_for_rows(database, [request_id], WAIT_TIMEOUT_S))[request_id]
    return row


def tenant_rows(stack: Stack, tenant: str) -> list[dict[str, Any]]:
    """The audit rows of a tenant that exist now."""
    query = """SELECT * FROM gateway.audit_log
        WHERE tenant_id = (SELECT id FROM gateway.tenants WHERE name = $1)"""
    return [dict(row) for row in _read(stack, lambda database: database.fetch(query, tenant))]


def prompt_log(stack: Stack, request_ids: Collection[str]) -> list[dict[str, Any]]:
    """The rows of the prompt log of these requests."""
    rows = _read(stack, lambda database: database.fetch("SELECT * FROM gateway.prompt_log"))
    return [dict(row) for row in rows if row["request_id"] in request_ids]


# The open database of each stack that tests without an event loop have read. A new connection takes 30 ms of CPU time.
_DATABASES: dict[str, Database] = {}


@functools.cache
def _reading_loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread, which the connections belong to."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ledger view", daemon=True).start()
    return loop


def _read(stack: Stack, query: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        env_file = stack.ready["env_file"]
        if env_file not in _DATABASES:
            loaded = settings.load(Path(env_file)).model_copy(update={"database_timeout_s": STORE_TIMEOUT_S})
            _DATABASES[env_file] = Database(loaded)
        return await query(_DATABASES[env_file])

    return asyncio.run_coroutine_threadsafe(run(), _reading_loop()).result()
