"""A gateway in front of simulated Ollamas, its tenants, and what its stores know."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from authz.keys.hashing import KeyHasher
from authz.keys.key_format import generate
from bench.fairness.arithmetic import Span
from bench.fairness.plan import TOKENS_PER_S
from bench.processes import Services
from bench.sides.gateway import CHEAP_HASHES
from bench.sides.side import BenchFailed, process, wait_until
from bench.sides.upstream import ROOT
from gateway.queue.port import QueueRules, QueueStatus
from gateway.queue.redis.queue import RedisQueue
from gateway.settings import Settings, load
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from ops.cli.parameters import policy_change
from ops.database.tenants import NewKey, TenantRepository

# High limits, so that only the queue delays or denies requests.
SETTINGS = {"DEFAULT_RPM": "1000000", "DEFAULT_TPM": "1000000000", **CHEAP_HASHES}
_START_TIMEOUT_S = 90.0
_STORE_TIMEOUT_S = 10.0
_POLL_S = 0.05
_ROWS = """SELECT a.request_id, t.name AS tenant, extract(epoch FROM a.ts)::float8 AS ts_s, a.status, a.code, a.outcome,
    a.input_tokens, a.output_tokens, a.queued_ms, a.duration_ms
    FROM gateway.audit_log a JOIN gateway.tenants t ON t.id = a.tenant_id WHERE a.user_agent = $1"""
_COUNT = "SELECT count(*) FROM gateway.audit_log WHERE user_agent = $1"


@dataclass(frozen=True)
class Ollama:
    """A simulated Ollama."""

    url: str
    slots: int

    def records(self, request_ids: Collection[str]) -> list[dict[str, Any]]:
        """What it did with these requests. A request that still runs has no end."""
        with urllib.request.urlopen(f"{self.url}/_sim/requests?method=POST") as answer:  # noqa: S310 (our own server)
            records: list[dict[str, Any]] = json.load(answer)
        return [record for record in records if record["headers"].get("x-request-id") in request_ids]

    def running(self) -> int:
        """The number of requests that have a slot."""
        with urllib.request.urlopen(f"{self.url}/_sim/runners") as answer:  # noqa: S310 (our own server)
            return sum(runner["running"] for runner in json.load(answer))


def spans(records: Sequence[Mapping[str, Any]]) -> list[Span]:
    """When these requests had a slot of their Ollama."""
    return [Span(each["started_at"] + each["waited_s"], each["ended_at"]) for each in records if each["ended_at"]]


@contextmanager
def ollama(log: Path, models: Sequence[str], slots: int) -> Iterator[Ollama]:
    """Runs a simulated Ollama that has these models and this number of slots, and whose tokens take 1/TOKENS_PER_S."""
    command = [sys.executable, "-m", "ops.simulator", "--listen", "127.0.0.1:0", "--models", ",".join(models)]
    command += ["--num-parallel", str(slots), "--tokens-per-s", str(TOKENS_PER_S)]
    with process(command, log, env=os.environ, directory=ROOT, piped=True) as started:
        line = started.stdout.readline().strip() if started.stdout else ""
        if not line:
            raise BenchFailed(f"the simulated Ollama did not start: {log.read_text()}")
        yield Ollama(line, slots)


@dataclass(frozen=True)
class Stack:
    """A running gateway."""

    url: str
    settings: Settings
    services: Callable[[], Services]


@contextmanager
def gateway(directory: Path, backends: Sequence[Ollama], workers: int, settings: Mapping[str, str]) -> Iterator[Stack]:
    """Runs the whole stack with `workers` processes each of authz and meter. Raises BenchFailed."""
    directory.mkdir()
    ready_file, log = directory / "ready.json", directory / "up.log"
    entries = [
        {"name": f"ollama-{number}", "base_url": each.url, "slots": each.slots} for number, each in enumerate(backends)
    ]
    env = {**SETTINGS, **settings, "OLLAMA_BACKENDS": json.dumps(entries)}
    command = [sys.executable, "-m", "ops.cli", "up", "--listen", "127.0.0.1:0", "--workers", str(workers)]
    command += ["--state-dir", str(directory / "state"), "--ready-file", str(ready_file)]
    with process(command, log, env={**os.environ, **env}, directory=ROOT) as started:
        wait_until(ready_file.exists, "the gateway", started, log, _START_TIMEOUT_S)
        ready = json.loads(ready_file.read_text())

        def services() -> Services:
            found: dict[str, list[int]] = defaultdict(list)
            for name, pid in json.loads(ready_file.read_text())["pids"].items():
                found[name.partition("-")[0]].append(pid)
            return found

        cheap = {name.lower(): int(value) for name, value in CHEAP_HASHES.items()}
        patient = {"redis_timeout_s": _STORE_TIMEOUT_S, "database_timeout_s": _STORE_TIMEOUT_S}
        yield Stack(ready["url"], load(Path(ready["env_file"])).model_copy(update={**cheap, **patient}), services)


class Stores:
    """What PostgreSQL and Redis of a stack know."""

    def __init__(self, settings: Settings, database: Database, queue: RedisQueue) -> None:
        self._settings = settings
        self._database = database
        self._queue = queue

    async def create_tenants(self, prefix: str, weights: Mapping[str, int]) -> dict[str, str]:
        """Creates tenants with these weights, each of which may use all models. Returns one key of each.

        The name of each tenant follows `prefix` and a hyphen, so that experiments may share a stack.
        """
        repository, hasher = TenantRepository(self._database), KeyHasher.from_settings(self._settings)
        keys: dict[str, str] = {}
        try:
            for tenant, weight in weights.items():
                key = generate()
                stored = f"{prefix}-{tenant}"
                await repository.create_tenant(stored, policy_change(allow_all_models=True, weight=weight))
                await repository.create_key(
                    stored,
                    "k",
                    NewKey(key.prefix, await hasher.hash(key.secret)),
                    scopes=["chat"],
                    expires_at=None,
                    log_prompts=False,
                    policy=policy_change(),
                )
                keys[tenant] = key.secret.get_secret_value()
        finally:
            hasher.close()
        return keys

    async def rows(self, user_agent: str, count: int) -> list[dict[str, Any]]:
        """Waits until the requests of this user agent have `count` rows, and returns all. Raises BenchFailed."""

        async def recorded() -> bool:
            found: int = await self._database.fetchval(_COUNT, user_agent)
            return found >= count

        await until(recorded, f"{user_agent}: fewer rows than the {count} requests that were sent")
        rows = [dict(row) for row in await self._database.fetch(_ROWS, user_agent)]
        return [{**row, "tenant": row["tenant"].removeprefix(f"{user_agent}-")} for row in rows]

    async def queue(self) -> QueueStatus:
        """The slots and the tickets."""
        return await self._queue.status()

    async def wait_until_idle(self) -> None:
        """Waits until no request runs or waits. Raises BenchFailed."""

        async def reached() -> bool:
            status = await self.queue()
            return not status.tickets and not any(each.running for each in status.replicas.values())

        await until(reached, "a slot or a ticket remained")


@asynccontextmanager
async def open_stores(stack: Stack) -> AsyncIterator[Stores]:
    """The stores of a stack, until the context ends."""
    database, redis = Database(stack.settings), connect(stack.settings)
    try:
        yield Stores(stack.settings, database, RedisQueue(redis, _STORE_TIMEOUT_S, QueueRules()))
    finally:
        await redis.aclose()
        await database.close()


async def until(reached: Callable[[], Any], failure: str, timeout_s: float = 180.0) -> None:
    """Waits until the coroutine function `reached` returns true. Raises BenchFailed."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await reached():  # noqa: ASYNC110 (the state is that of other processes)
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise BenchFailed(failure) from None
