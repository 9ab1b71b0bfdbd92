"""Faults while 200 requests wait in the queue: no slot is lost, no request runs twice, and each has one row.

`make soak` runs it. SOAK_SECONDS is the duration and SOAK_SEED the random seed. With enough time, each fault happens at
least once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.fairness.arithmetic import Span, most_at_once
from gateway.errors import StoreUnavailable
from gateway.queue.port import QueueRules, QueueStatus
from gateway.queue.redis.queue import RedisQueue
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import CallResult, GenerationRequest, send
from tests.e2e.stack import Simulator, Stack, simulator, up
from tests.polling import eventually_async
from tests.ports import free_port

SECONDS = float(os.environ.get("SOAK_SECONDS", "10"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
TENANTS = 10
WAITING = 200
LEAVING = 500
REPLICAS = 2
SLOTS = 2
PACE_TOKENS_PER_S = 50
WORDS = 10
# Requests that run when the fault happens. Their callers disconnect a little later.
LONG_WORDS = 4000
LONG_S = 2.0
ARRIVALS_PER_S = 60
# Leases must expire, and PostgreSQL may have to recover.
TIMEOUT_S = 90.0
STORE_TIMEOUT_S = 10.0
SETTINGS = {
    "DEFAULT_RPM": "1000000",
    "DEFAULT_TPM": "1000000000",
    "DEFAULT_CONCURRENT": "100",
    "QUEUE_MAX_PER_TENANT": "100",
    "QUEUE_MAX_WAIT_S": "60",
    "HOLD_LEASE_S": "4",
    "MODEL_DISCOVERY_REFRESH_S": "1",
}
SERVED, REFUSED, BROKEN = "served", "503", "broken"


@dataclass(frozen=True)
class Fault:
    """What happens while WAITING requests wait, and how they may end. `extra` further requests wait as well."""

    name: str
    cause: Callable[[Sequence[asyncio.Task[None]]], Awaitable[None]]
    ends: frozenset[str]
    extra: int = 0
    moves_requests: bool = False


async def test_no_fault_while_requests_wait_loses_a_slot_or_runs_a_request_twice(tmp_path: Path) -> None:
    with running(tmp_path / "state") as (stack, replicas):
        keys = [stack.new_key(f"waits-{number}") for number in range(TENANTS)]
        async with open_ledger_view(stack) as ledger_view:
            await QueueSoak(stack, replicas, keys, ledger_view).run(SECONDS)


@contextmanager
def running(state_dir: Path) -> Iterator[tuple[Stack, list[Simulator]]]:
    """A stack with two workers of each service, whose only backend has two replicas with SLOTS slots each."""
    pace = ("--tokens-per-s", str(PACE_TOKENS_PER_S), "--num-parallel", str(SLOTS))
    with simulator(*pace) as first, simulator(*pace) as second:
        backend = {"name": "sim", "base_url": first.url, "replicas": [second.url], "slots": SLOTS}
        here = ("--listen", f"127.0.0.1:{free_port()}", "--workers", "2")
        with up(state_dir, *here, **SETTINGS, OLLAMA_BACKENDS=json.dumps([backend])) as stack:
            yield stack, [first, second]


class Crowd:
    """The requests of one epoch."""

    def __init__(self, session: aiohttp.ClientSession, keys: Sequence[str]) -> None:
        self._session = session
        self._keys = keys
        self.requests: dict[asyncio.Task[None], CallResult] = {}

    def send(self, words: int) -> asyncio.Task[None]:
        """Sends a request with the next key."""
        key = self._keys[len(self.requests) % len(self._keys)]
        result = CallResult(GenerationRequest("/api/chat", key, words=words))
        task = asyncio.create_task(send(self._session, result))
        self.requests[task] = result
        return task

    def running(self) -> int:
        """The number of requests without an answer."""
        return sum(not task.done() for task in self.requests)


class QueueSoak:
    """One run: causes one fault after another while requests wait, and checks the rows and the slots after each."""

    def __init__(
        self, stack: Stack, replicas: Sequence[Simulator], keys: Sequence[str], ledger_view: LedgerView
    ) -> None:
        self._stack = stack
        self._replicas = replicas
        self._keys = keys
        self._ledger_view = ledger_view
        self._queue = RedisQueue(ledger_view.redis, STORE_TIMEOUT_S, QueueRules())
        self._random = random.Random(SEED)  # noqa: S311 (nothing secret)
        self._records: list[dict[str, Any]] = []
        ends = frozenset({SERVED, REFUSED})
        may_break = ends | {BROKEN}
        self._faults = [
            *(
                Fault(f"kill {name}", self._signal(name, signal.SIGKILL), may_break)
                for name in sorted(stack.names())
                if name != "control"
            ),
            Fault("kill control", self._signal("control", signal.SIGKILL), ends),
            Fault("restart redis", self._signal("redis", signal.SIGTERM), may_break),
            Fault("flush redis", self._flush, ends),
            Fault("stop authz-0", self._signal("authz-0", signal.SIGTERM), ends),
            Fault("stop meter-0", self._signal("meter-0", signal.SIGTERM), ends),
            Fault("stop a replica", self._stop_replica, may_break, moves_requests=True),
            Fault("hang up", self._hang_up, ends, extra=LEAVING),
        ]

    async def run(self, seconds: float) -> None:
        """Causes faults for at least `seconds`, each one before any happens again."""
        deadline, caused = time.monotonic() + seconds, Counter[str]()
        while not caused or time.monotonic() < deadline:
            for fault in self._random.sample(self._faults, len(self._faults)):
                await self._run_epoch(fault, f"{fault.name} {sum(caused.values())}")
                caused[fault.name] += 1
                if time.monotonic() > deadline:
                    break
        print(f"\n{WAITING} requests waited during each of: {dict(sorted(caused.items()))}")  # noqa: T201

    async def _run_epoch(self, fault: Fault, name: str) -> None:
        for replica in self._replicas:
            replica.clear_records()
        self._records = []
        timeout = aiohttp.ClientTimeout(total=2 * TIMEOUT_S)
        async with aiohttp.ClientSession(
            self._stack.url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=timeout,
            headers={"User-Agent": name},
        ) as session:
            crowd = Crowd(session, self._keys)
            long = [crowd.send(LONG_WORDS) for _ in range(REPLICAS * SLOTS)]
            await self._eventually(lambda status: _running(status) == len(long), "the slots do not fill")
            await self._fill(crowd, fault.extra + WAITING)
            waiting = {task: result for task, result in crowd.requests.items() if task not in long and not task.done()}
            extra = list(waiting)[: fault.extra]
            waited = [result for task, result in waiting.items() if task not in extra]
            print(f"{time.strftime('%X')} {name}", flush=True)  # noqa: T201
            await fault.cause(extra)
            await asyncio.sleep(LONG_S)
            for each in long:
                each.cancel()
            await asyncio.gather(*crowd.requests, return_exceptions=True)
        await self._check(fault, name, waited, len(crowd.requests))
        await self._check_slots()

    async def _fill(self, crowd: Crowd, count: int) -> None:
        """Sends requests until `count` wait. On a busy machine some are denied because a store misses its deadline."""
        long = len(crowd.requests)

        async def all_wait() -> bool:
            missing = count + long - crowd.running()
            for _ in range(missing):
                crowd.send(WORDS)
                await asyncio.sleep(1 / ARRIVALS_PER_S)
            return not missing and len((await self._queue.status()).tickets) == count

        await eventually_async(
            all_wait, TIMEOUT_S, poll_s=0.2, retry_on=(StoreUnavailable,), failure=f"never {count} requests waited"
        )

    async def _check(self, fault: Fault, name: str, waited: Sequence[CallResult], sent: int) -> None:
        """Checks how the waiting requests ended, the rows of all, and that none ran twice."""
        answers = Counter(f"{_end(result)} {result.code or ''}".strip() for result in waited)
        print(f"{time.strftime('%X')}     {dict(answers)}", flush=True)  # noqa: T201
        assert len(waited) == WAITING
        assert {_end(result) for result in waited} <= fault.ends
        await eventually_async(self._stack.is_running, TIMEOUT_S)
        await self._eventually(lambda status: not status.tickets and not _running(status), "a slot or ticket remained")
        await self._ledger_view.wait_until_settled(TIMEOUT_S)
        ids: set[str] = set()

        async def all_recorded() -> bool:
            ids.clear()
            ids.update(await self._ledger_view.request_ids(name))
            return len(ids) >= sent

        await eventually_async(
            all_recorded, TIMEOUT_S, retry_on=(StoreUnavailable,), failure=lambda: f"{len(ids)} of {sent} have a row"
        )
        rows = await self._ledger_view.rows(ids)
        assert {len(found) for found in rows.values()} == {1}
        assert len(rows) == sent
        assert {result.request_id for result in waited if result.request_id} <= rows.keys()
        records = [*self._records, *(record for replica in self._replicas for record in replica.requests())]
        assert {record["headers"]["x-request-id"] for record in records} <= rows.keys()
        runs = Counter(record["headers"]["x-request-id"] for record in records)
        completed = Counter(record["headers"]["x-request-id"] for record in records if record["finished"] == "complete")
        assert set(completed.values()) <= {1}
        assert fault.moves_requests or set(runs.values()) == {1}

    async def _check_slots(self) -> None:
        """Checks that each replica runs SLOTS requests at the same time, and no more."""

        async def all_run() -> bool:
            for replica in self._replicas:
                replica.clear_records()
            async with aiohttp.ClientSession(self._stack.url) as session:
                results = [
                    CallResult(GenerationRequest("/api/chat", self._keys[number % TENANTS], words=2 * WORDS))
                    for number in range(3 * REPLICAS * SLOTS)
                ]
                await asyncio.gather(*(send(session, result) for result in results))
            most = [_most_at_once(replica.requests()) for replica in self._replicas]
            assert max(most) <= SLOTS
            return all(result.complete for result in results) and most == [SLOTS] * REPLICAS

        await eventually_async(all_run, TIMEOUT_S, failure="a slot is lost")
        await self._eventually(lambda status: not _running(status), "a slot remained")

    async def _eventually(self, reached: Callable[[QueueStatus], bool], failure: str) -> None:
        async def is_reached() -> bool:
            return reached(await self._queue.status())

        await eventually_async(is_reached, TIMEOUT_S, poll_s=0.1, retry_on=(StoreUnavailable,), failure=failure)

    def _signal(self, name: str, number: signal.Signals) -> Callable[[Sequence[asyncio.Task[None]]], Awaitable[None]]:
        async def cause(_: Sequence[asyncio.Task[None]]) -> None:
            os.kill(self._stack.pids(name)[0], number)

        return cause

    async def _flush(self, _: Sequence[asyncio.Task[None]]) -> None:
        await self._ledger_view.redis.flushall()

    async def _stop_replica(self, _: Sequence[asyncio.Task[None]]) -> None:
        replica = self._random.choice(self._replicas)
        self._records = replica.requests()
        replica.stop()
        await asyncio.sleep(LONG_S)
        replica.start()

    async def _hang_up(self, extra: Sequence[asyncio.Task[None]]) -> None:
        for each in extra:
            each.cancel()


def _running(status: QueueStatus) -> int:
    return sum(each.running for each in status.replicas.values())


def _end(result: CallResult) -> str:
    if result.complete:
        return SERVED
    return REFUSED if result.status == 503 else BROKEN


def _most_at_once(records: Sequence[dict[str, Any]]) -> int:
    """The largest number of these requests that the replica had at the same time, including its own line."""
    return most_at_once(Span(record["started_at"], record["ended_at"]) for record in records)
