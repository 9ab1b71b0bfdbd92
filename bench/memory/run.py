"""Starts the gateway, sends requests, holds streams open, and measures the memory of each service on the way."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import measure, processes
from bench.memory.idle_streams import idle_streams
from bench.memory.plan import Plan
from bench.sides.gateway import Checkout, Gateway, gateway
from bench.sides.upstream import upstream

_STREAMS_SPARE = 500
_PRIMING = 40
UP = "up"
"""The memory of `neuronetz-gateway up` itself and of the process that forks its services."""

Document = dict[str, Any]


def measured(plan: Plan, directory: Path, report: Callable[[str], None]) -> Document:
    """The memory in MB by service at each step. Raises BenchFailed."""
    started, (load, _, _) = time.monotonic(), os.getloadavg()
    steps: list[Document] = []
    with ExitStack() as opened:
        report("starting")
        backend = opened.enter_context(upstream(directory))
        streams_max = plan.streams + _STREAMS_SPARE
        running = opened.enter_context(
            gateway(Checkout.current(), directory, backend, plan.workers, {}, connections_max=streams_max)
        )
        side = running.with_keys(1, 1)

        def note(step: str, **more: int) -> None:
            time.sleep(plan.pause_s)
            report(step)
            steps.append({"step": step, "pss_mb": _memory(running), **more})

        measure.prime(side, _PRIMING)
        note("start")
        for before, after in pairwise((0, *plan.after_requests)):
            measure.send(side, after - before, plan.connections)
            note(f"{after:,} requests", requests=after)
        with idle_streams(side, plan.streams):
            note(f"{plan.streams:,} idle streams", streams=plan.streams)
            for number in range(1, plan.checks + 1):
                time.sleep(plan.check_every_s)
                note(f"after {number * plan.check_every_s:.0f} s", streams=plan.streams)
        note("streams closed")
    setup = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "load_average": round(load, 1),
        "took_s": round(time.monotonic() - started),
        "workers": plan.workers,
        "revision": Checkout.current().revision(),
    }
    return {"setup": setup, "steps": steps}


def _memory(running: Gateway) -> dict[str, float]:
    by_service = processes.pss_mb(running.side.services())
    whole = processes.pss_mb({UP: [running.supervisor_pid]})[UP]
    return {**by_service, UP: whole - sum(by_service.values())}
