"""Faults while hundreds of requests wait in the queue: no slot is lost, no request runs twice, and each has one row.

Most wait for their first slot. Others wait for a slot after they failed over, or for a busy server to serve them.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.errors import StoreUnavailable
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import MODEL, CallResult
from tests.e2e.queue_crowd import (
    BROKEN,
    REFUSED,
    SERVED,
    TIMEOUT_S,
    Crowd,
    QueueView,
    Record,
    all_running,
    check_rows,
    check_runs,
    end_of,
    ids_of,
    most_at_once,
    waiting_for,
)
from tests.e2e.stack import Simulator, Stack, simulator, up
from tests.polling import eventually_async
from tests.ports import free_port

SECONDS = float(os.environ.get("SOAK_SECONDS", "10"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
TENANTS = 10
WAITING = 200
LEAVING = 500
# The requests that wait after they failed over, and those that wait for their first slot of a busy server.
MOVING, WAITING_FOR_BUSY = 20, 20
# The slots of each replica.
SLOTS = 2
# Requests for the second model fail at `broken` and wait for `spare`. The server of the third one is busy.
MOVES, BUSY = "moves", "busy"
MODELS = {"first": MODEL, "second": MODEL, "broken": MOVES, "spare": MOVES, "busy": BUSY}
REPLICAS = ("first", "second")
PACE_TOKENS_PER_S = 50
WORDS = 10
# Requests that run when the fault happens. Their callers disconnect a little later.
LONG_WORDS = 4000
LONG_S = 2.0
ARRIVALS_PER_S = 60
SETTINGS = {
    "DEFAULT_RPM": "1000000",
    "DEFAULT_TPM": "1000000000",
    "DEFAULT_CONCURRENT": "100",
    "QUEUE_MAX_PER_TENANT": "100",
    "QUEUE_MAX_WAIT_S": "60",
    "HOLD_LEASE_S": "4",
    "MODEL_DISCOVERY_REFRESH_S": "1",
}


@dataclass(frozen=True)
class Fault:
    """What happens while requests wait, and how those may end. `extra` further requests wait as well."""

    name: str
    cause: Callable[[Sequence[asyncio.Task[None]]], Awaitable[None]]
    ends: frozenset[str]
    extra: int = 0
    moves_requests: bool = False


async def test_no_fault_while_requests_wait_loses_a_slot_or_runs_a_request_twice(tmp_path: Path) -> None:
    with running(tmp_path / "state") as (stack, backends):
        keys = [stack.new_key(f"waits-{number}") for number in range(TENANTS)]
        async with open_ledger_view(stack) as ledger_view:
            await QueueSoak(stack, backends, keys, ledger_view).run(SECONDS)


@contextmanager
def running(state_dir: Path) -> Iterator[tuple[Stack, dict[str, Simulator]]]:
    """A stack with two workers of each service, and its simulated Ollamas. The first two belong to one backend."""
    with ExitStack() as simulators:
        arguments = ("--tokens-per-s", str(PACE_TOKENS_PER_S), "--num-parallel", str(SLOTS), "--models")
        backends = {name: simulators.enter_context(simulator(*arguments, model)) for name, model in MODELS.items()}
        first, second, *others = backends.items()
        entries = [
            {"name": "sim", "base_url": first[1].url, "replicas": [second[1].url], "slots": SLOTS},
            *({"name": name, "base_url": each.url, "slots": SLOTS} for name, each in others),
        ]
        here = ("--listen", f"127.0.0.1:{free_port()}", "--workers", "2")
        with up(state_dir, *here, **SETTINGS, OLLAMA_BACKENDS=json.dumps(entries)) as stack:
            yield stack, backends


class QueueSoak:
    """One run: causes one fault after another while requests wait, and checks the rows and the slots after each."""

    def __init__(
        self, stack: Stack, backends: dict[str, Simulator], keys: Sequence[str], ledger_view: LedgerView
    ) -> None:
        self._stack = stack
        self._backends = backends
        self._keys = keys
        self._ledger_view = ledger_view
        self._queue = QueueView(ledger_view)
        self._random = random.Random(SEED)  # noqa: S311 (nothing secret)
        # Those of a replica that was stopped.
        self._records: list[Record] = []
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
        for backend in self._backends.values():
            backend.clear_records()
        self._records = []
        self._backends["broken"].behave(faults=[{"kind": "reset"}])
        self._backends["busy"].behave(faults=[{"kind": "status", "status": 503}])
        timeout = aiohttp.ClientTimeout(total=2 * TIMEOUT_S)
        async with aiohttp.ClientSession(
            self._stack.url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=timeout,
            headers={"User-Agent": name},
        ) as session:
            crowd = Crowd(session, self._keys)
            long = [crowd.send(LONG_WORDS) for _ in range(len(REPLICAS) * SLOTS)]
            long += [crowd.send(LONG_WORDS, MOVES) for _ in range(SLOTS)]
            await self._queue.wait_for(lambda status: all_running(status) == len(long), "the slots do not fill", 0.1)
            await self._fill(crowd, BUSY, SLOTS + WAITING_FOR_BUSY, WAITING_FOR_BUSY)
            await self._fill(crowd, MOVES, SLOTS + MOVING, WAITING_FOR_BUSY + MOVING)
            waiting = fault.extra + WAITING
            await self._fill(crowd, MODEL, len(REPLICAS) * SLOTS + waiting, WAITING_FOR_BUSY + MOVING + waiting)
            await self._queue.wait_for(lambda status: waiting_for(status, "backend:spare") == MOVING, "none moves")
            waits = {model: [task for task in crowd.open(model) if task not in long] for model in (MODEL, MOVES, BUSY)}
            extra = waits[MODEL][: fault.extra]
            print(f"{time.strftime('%X')} {name}", flush=True)  # noqa: T201
            await fault.cause(extra)
            await asyncio.sleep(LONG_S)
            self._backends["busy"].behave()
            for each in long:
                each.cancel()
            await crowd.wait()
        waited = {model: crowd.results(task for task in tasks if task not in extra) for model, tasks in waits.items()}
        await self._check(fault, name, waited, list(crowd.requests.values()))
        await self._check_slots()

    async def _fill(self, crowd: Crowd, model: str, open_requests: int, tickets: int) -> None:
        """Sends requests until this number are open for the model, and `tickets` wait in the queue for any model.

        On a busy machine some are denied because a store misses its deadline.
        """

        async def all_wait() -> bool:
            missing = open_requests - len(crowd.open(model))
            for _ in range(missing):
                crowd.send(WORDS, model)
                await asyncio.sleep(1 / ARRIVALS_PER_S)
            return not missing and len((await self._queue.status()).tickets) == tickets

        await eventually_async(
            all_wait, TIMEOUT_S, poll_s=0.2, retry_on=(StoreUnavailable,), failure=f"never {tickets} requests waited"
        )

    async def _check(
        self, fault: Fault, name: str, waited: dict[str, list[CallResult]], sent: Sequence[CallResult]
    ) -> None:
        """Checks how the waiting requests ended, the rows of all, and that none ran twice."""
        for model, results in waited.items():
            answers = Counter(f"{end_of(result)} {result.code or ''}".strip() for result in results)
            print(f"{time.strftime('%X')}     {model}: {dict(answers)}", flush=True)  # noqa: T201
            assert {end_of(result) for result in results} <= fault.ends
        expected = {MODEL: WAITING, MOVES: MOVING, BUSY: SLOTS + WAITING_FOR_BUSY}
        assert {model: len(results) for model, results in waited.items()} == expected
        await eventually_async(self._stack.is_running, TIMEOUT_S)
        await self._queue.wait_until_idle()
        await self._ledger_view.wait_until_settled(TIMEOUT_S)
        recorded = await check_rows(self._ledger_view, name, sent)
        records = {model: [*self._records] if model == MODEL else [] for model in waited}
        for backend, model in MODELS.items():
            records[model] += self._backends[backend].requests()
        for each in records.values():
            assert set(ids_of(each)) <= recorded
            check_runs(each)
        runs = {model: Counter(ids_of(each)) for model, each in records.items()}
        assert fault.moves_requests or set(runs[MODEL].values()) == {1}
        assert max(Counter(ids_of(self._backends["spare"].requests())).values()) == 1

    async def _check_slots(self) -> None:
        """Checks that each replica runs SLOTS requests at the same time, and no more."""
        self._backends["broken"].behave()

        async def all_run() -> bool:
            for backend in self._backends.values():
                backend.clear_records()
            async with aiohttp.ClientSession(self._stack.url) as session:
                crowd = Crowd(session, self._keys)
                for model in MODELS.values():
                    for _ in range(3 * SLOTS):
                        crowd.send(2 * WORDS, model)
                await crowd.wait()
            most = [most_at_once(backend.requests()) for backend in self._backends.values()]
            assert max(most) <= SLOTS
            return all(result.complete for result in crowd.requests.values()) and most == [SLOTS] * len(most)

        await eventually_async(all_run, TIMEOUT_S, failure="a slot is lost")
        await self._queue.wait_for(lambda status: not all_running(status), "a slot remained")

    def _signal(self, name: str, number: signal.Signals) -> Callable[[Sequence[asyncio.Task[None]]], Awaitable[None]]:
        async def cause(_: Sequence[asyncio.Task[None]]) -> None:
            os.kill(self._stack.pids(name)[0], number)

        return cause

    async def _flush(self, _: Sequence[asyncio.Task[None]]) -> None:
        await self._ledger_view.redis.flushall()

    async def _stop_replica(self, _: Sequence[asyncio.Task[None]]) -> None:
        replica = self._backends[self._random.choice(REPLICAS)]
        self._records = [*replica.requests()]
        replica.stop()
        await asyncio.sleep(LONG_S)
        replica.start()

    async def _hang_up(self, extra: Sequence[asyncio.Task[None]]) -> None:
        for each in extra:
            each.cancel()
