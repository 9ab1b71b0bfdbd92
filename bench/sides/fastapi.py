"""The FastAPI design, with uvicorn, in front of the upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from argon2 import PasswordHasher

from authz.keys.key_format import ApiKey, generate
from bench.peers import PEERS
from bench.sides import stores
from bench.sides.envoy import accepts
from bench.sides.side import Side, process, wait_until
from bench.sides.upstream import ROOT
from bench.sides.venvs import environment
from ops.embedded import ports

NAME = "fastapi"
_START_TIMEOUT_S = 60.0


@contextmanager
def fastapi_design(directory: Path, upstream: Side, workers: int, tenants: int, keys: int) -> Iterator[Side]:
    """Runs the design with `keys` keys over `tenants` tenants. Raises BenchFailed, also if it cannot be installed."""
    programs = environment(NAME, PEERS / "fastapi.lock")
    root = directory / NAME
    root.mkdir()
    log, port = root / "uvicorn.log", ports.choose_free("127.0.0.1")
    command = [str(programs / "python"), "-m", "uvicorn", "bench.peers.fastapi_design:app", "--port", str(port)]
    command += ["--workers", str(workers), "--log-level", "warning", "--no-access-log"]
    with stores.running(root) as running:
        created = asyncio.run(_create_keys(running.database_url, tenants, keys))
        env = {
            "PATH": "/usr/bin:/bin",
            "PEER_DATABASE_URL": running.database_url,
            "PEER_REDIS_URL": running.redis_url,
            "PEER_UPSTREAM_URL": f"http://{upstream.host}:{upstream.port}",
        }
        with process(command, log, env=env, directory=ROOT) as started:
            wait_until(lambda: accepts(port), "the FastAPI design", started, log, _START_TIMEOUT_S)
            services = {**running.services, NAME: [started.pid]}
            yield Side(NAME, "127.0.0.1", port, lambda: services, keys=created)


async def _create_keys(database_url: str, tenants: int, keys: int) -> Sequence[str]:
    # A hash of a single key for all of them would be no work to verify, so each has its own, with low costs.
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    created: list[ApiKey] = [generate() for _ in range(keys)]
    rows = [
        (number, number % tenants, key.prefix, hasher.hash(key.secret.get_secret_value()))
        for number, key in enumerate(created)
    ]
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute((PEERS / "fastapi_schema.sql").read_text())
        await connection.executemany("INSERT INTO api_keys VALUES ($1, $2, $3, $4)", rows)
    finally:
        await connection.close()
    return [key.secret.get_secret_value() for key in created]
