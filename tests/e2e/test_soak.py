"""Mixed load while processes are killed, stores hang or lose their data, and PostgreSQL refuses every 50th row.

`make soak` runs it. SOAK_SECONDS is the duration of the load and SOAK_SEED the random seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import CallResult
from tests.e2e.trial import (
    Trial,
    check_budget_usage,
    check_metrics,
    paced_simulator,
    running_trial,
    wait_until_submitted,
)
from tests.polling import eventually_async

SECONDS = float(os.environ.get("SOAK_SECONDS", "10"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
# The ledger is checked after each epoch, when all is settled.
EPOCH_S = 60.0
# Long enough for deadlines to pass.
HANG_S = (0.5, 3.0)
# PostgreSQL may have to recover, and Redis to be filled again.
SERVED_TIMEOUT_S = 60.0
LOSES_DATA = ("flush redis", "kill redis")
MAKES_ENTRIES = ("kill authz", "kill meter")
# In this time the services notice that Redis lost entries.
RESUBMIT_S = 5.0
REFUSED_MODULUS = 50
FLOOD_REQUESTS = 40
SLOW_BODIES = 8
BODY_TOO_LARGE_BYTES = 64 << 20
# What a process may use more at the end than after the first epoch: the reserve of the allocator varies.
GROWTH_MAX_BYTES = 96 << 20
# How many more keys Redis may have at the end than after the first epoch: windows and throttle entries of a minute.
KEYS_GROWTH_MAX = 20


async def test_no_fault_under_load_loses_a_row_or_leaves_a_hold(tmp_path: Path) -> None:
    with paced_simulator() as upstream, running_trial(tmp_path / "state", upstream) as trial:
        async with open_ledger_view(trial.stack) as ledger_view:
            await ledger_view.refuse_rows(REFUSED_MODULUS)
            await Soak(trial, ledger_view).run(SECONDS)


class Soak:
    """One run: in each epoch it causes faults one after another under load, waits until all is settled, and checks."""

    def __init__(self, trial: Trial, ledger_view: LedgerView) -> None:
        self._trial = trial
        self._ledger_view = ledger_view
        self._random = random.Random(SEED)  # noqa: S311 (nothing secret)
        self._caused: Counter[str] = Counter()
        self._slow: list[socket.socket] = []
        self._redis_failed_s = 0.0
        self._faults: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            *((f"kill {name}", lambda name=name: trial.kill(name)) for name in sorted(trial.stack.names())),
            ("hang redis", lambda: self._hang("redis")),
            ("hang postgres", lambda: self._hang("postgres")),
            ("flush redis", self._flush),
            ("bodies that are too large", self._send_large_bodies),
            ("bodies that do not arrive", self._send_slow_bodies),
        ]

    async def run(self, seconds: float) -> None:
        """Soaks for at least `seconds`, then compares the memory with that after the first epoch."""
        requests, memory, keys = 0, Counter[str](), set[str]()
        deadline, epoch = time.monotonic() + seconds, 0
        while epoch == 0 or time.monotonic() < deadline:
            async with self._trial.load(f"soak {epoch}", may_be_lost=True) as results:
                await self._cause_faults(results, min(deadline, time.monotonic() + EPOCH_S))
            requests += len(results)
            await check_budget_usage(self._ledger_view, "loaded")
            await check_metrics(self._trial.stack, self._ledger_view, "loaded")
            if epoch == 0:
                memory, keys = self._memory(), await self._lasting_keys()
            epoch += 1
        for connection in self._slow:
            connection.close()
        grown = self._memory()
        print(f"\n{requests} requests in {epoch} epochs; faults: {dict(sorted(self._caused.items()))}")  # noqa: T201
        print(f"MB of memory, first → last epoch: {_megabytes(memory)} → {_megabytes(grown)}")  # noqa: T201
        assert {name: size for name, size in grown.items() if size > memory[name] + GROWTH_MAX_BYTES} == {}
        assert len(await self._lasting_keys()) <= len(keys) + KEYS_GROWTH_MAX
        assert requests < 20 * REFUSED_MODULUS or await self._ledger_view.rejected()

    async def _cause_faults(self, results: list[CallResult], until: float) -> None:
        while True:
            name, fault = self._random.choice(self._faults)
            self._caused[name] += 1
            await self._wait_for_copies(name)
            await eventually_async(self._trial.stack.is_running, SERVED_TIMEOUT_S)
            print(f"{time.strftime('%X')} {name}", flush=True)  # noqa: T201
            await fault()
            if name.endswith("redis"):
                self._redis_failed_s = time.monotonic()
            before = len(results)

            async def served(before: int = before) -> bool:
                return any(result.complete for result in results[before:])

            await eventually_async(
                served,
                SERVED_TIMEOUT_S,
                failure=lambda name=name: f"nothing is served after: {name}",  # type: ignore[misc]
            )
            if time.monotonic() > until:
                return

    async def _wait_for_copies(self, name: str) -> None:
        """Waits until this fault leaves a copy of every entry.

        Until PostgreSQL has an entry, Redis and the process that made it have a copy. An entry is lost when both lose
        it, which is a documented limit and no defect.
        """
        if name in LOSES_DATA:
            await self._ledger_view.wait_until_recorded(SERVED_TIMEOUT_S)
        elif name.startswith(MAKES_ENTRIES):
            await asyncio.sleep(self._redis_failed_s + RESUBMIT_S - time.monotonic())
            await wait_until_submitted(self._trial.stack, SERVED_TIMEOUT_S)

    async def _hang(self, prefix: str) -> None:
        with self._trial.stack.frozen(prefix):
            await asyncio.sleep(self._random.uniform(*HANG_S))

    async def _flush(self) -> None:
        await self._ledger_view.redis.flushall()

    async def _send_large_bodies(self) -> None:
        """Envoy answers these without authz, and the rows come from its access log."""
        async with aiohttp.ClientSession(headers={"Expect": "100-continue"}) as session:

            async def send() -> None:
                headers = {"Content-Length": str(BODY_TOO_LARGE_BYTES), "Content-Type": "application/json"}
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.post(
                        f"{self._trial.stack.url}/api/chat",
                        data=b"{" * 1024,
                        headers=headers,
                        timeout=aiohttp.ClientTimeout(total=5),
                    ) as answer:
                        await answer.read()

            await asyncio.gather(*(send() for _ in range(FLOOD_REQUESTS)))

    async def _send_slow_bodies(self) -> None:
        """Begins requests whose bodies do not arrive; Envoy ends them after a minute. The last ones stay open."""
        for connection in self._slow:
            connection.close()
        address = urlsplit(self._trial.stack.url)
        head = (
            f"POST /v1/messages HTTP/1.1\r\nHost: soak\r\nx-api-key: {self._trial.key}\r\nContent-Length: 100\r\n\r\n"
        )
        self._slow = []
        for _ in range(SLOW_BODIES):
            connection = socket.create_connection((address.hostname or "", address.port or 0), timeout=5)
            connection.sendall(head.encode())
            self._slow.append(connection)

    async def _lasting_keys(self) -> set[str]:
        """The keys of Redis without those of requests that have ended, which expire after an hour."""
        names = [name.decode() async for name in self._ledger_view.redis.scan_iter(count=1000)]
        return {name for name in names if ":finished:" not in name}

    def _memory(self) -> Counter[str]:
        """Resident bytes of each process of the stack."""
        sizes: Counter[str] = Counter()
        for name in self._trial.stack.names():
            for pid in self._trial.stack.pids(name):
                status = Path(f"/proc/{pid}/status").read_text()
                sizes[name] += 1024 * int(status.partition("VmRSS:")[2].split()[0])
        return sizes


def _megabytes(sizes: Counter[str]) -> dict[str, int]:
    return {name: size >> 20 for name, size in sorted(sizes.items())}
