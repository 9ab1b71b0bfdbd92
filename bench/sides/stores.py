"""PostgreSQL and Redis for a side that has no stores: the servers and the settings of the gateway's embedded stack.

`python -m bench.sides.stores DIRECTORY` runs them until SIGTERM, and prints their URLs and process ids as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Services, children
from bench.sides.side import BenchFailed, process
from bench.sides.upstream import ROOT
from ops.embedded import stores
from ops.embedded.foreground import wait_for_interruption
from ops.embedded.interrupts import run_until_interrupted


@dataclass(frozen=True)
class Stores:
    """The URLs of running stores, and their processes."""

    database_url: str
    redis_url: str
    services: Services


@contextmanager
def running(directory: Path) -> Iterator[Stores]:
    """Runs the stores with their state in `directory`. Raises BenchFailed."""
    log = directory / "stores.log"
    command = [sys.executable, "-m", "bench.sides.stores", str(directory / "stores")]
    with process(command, log, env=os.environ, directory=ROOT, piped=True) as started:
        line = started.stdout.readline() if started.stdout else ""
        if not line:
            raise BenchFailed(f"the stores did not start:\n{log.read_text()[-2000:]}")
        ready = json.loads(line)
        yield Stores(ready["DATABASE_URL"], ready["REDIS_URL"], ready["services"])


async def _serve(directory: Path) -> None:
    async with stores.running(directory) as settings:
        names = {"postgres": "postgres", "redis-server": "redis"}
        services: dict[str, list[int]] = {}
        for pid in children().get(os.getpid(), []):
            program = Path(f"/proc/{pid}/comm").read_text().strip()
            services.setdefault(names.get(program, program), []).append(pid)
        sys.stdout.write(json.dumps({**settings, "services": services}) + "\n")
        sys.stdout.flush()
        await wait_for_interruption()


if __name__ == "__main__":
    asyncio.run(run_until_interrupted(_serve(Path(sys.argv[1])), on_first=lambda: None, on_further=lambda: None))
