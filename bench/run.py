"""One whole run: starts the sides, measures all workloads by turns and stops the sides."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import measure, summary, workloads
from bench.measure import Sample
from bench.plan import Plan
from bench.sides import fastapi, gateway, litellm
from bench.sides.envoy import plain_envoy
from bench.sides.gateway import Checkout
from bench.sides.side import BenchFailed, Side
from bench.sides.upstream import upstream
from bench.workloads import Workload

# Programs that run next to the benchmark take CPU time from it above this load average.
_IDLE_LOAD_MAX = 0.5

Report = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """What the gateway is compared with, besides a direct connection and a plain Envoy, and on which workloads."""

    baseline: Checkout | None = None
    fastapi: bool = True
    litellm: bool = False
    only: tuple[str, ...] = ()

    def includes(self, workload: Workload) -> bool:
        """Whether `only` selects the workload. Without any names, all are included."""
        return not self.only or not set(workload.names).isdisjoint(self.only)

    def checkouts(self) -> list[Checkout]:
        """The measured checkouts of the gateway."""
        return [Checkout.current(), *([self.baseline] if self.baseline else [])]


class Run:
    """The state of one run: what was skipped, and why."""

    def __init__(self, plan: Plan, comparison: Comparison, directory: Path, report: Report) -> None:
        self._plan = plan
        self._comparison = comparison
        self._directory = directory
        self._report = report
        self.skipped: dict[str, str] = {}

    def samples(self) -> list[Sample]:
        """Measures all workloads.

        W5 needs new stacks, because the first use of a key with a hash of the default cost takes a tenth of a second.
        """
        few = list(filter(self._comparison.includes, workloads.few_keys(self._plan)))
        many = list(filter(self._comparison.includes, workloads.many_keys(self._plan)))
        tenants, keys = self._plan.tenants, self._plan.keys
        if self._plan.one_start:
            return self._measured("all", [*few, *many], tenants, keys, gateway.CHEAP_HASHES)
        measured = self._measured("few-keys", few, 1, 1, {})
        return measured + self._measured("many-keys", many, tenants, keys, gateway.CHEAP_HASHES)

    def _measured(
        self, phase: str, chosen: list[Workload], tenants: int, keys: int, settings: Mapping[str, str]
    ) -> list[Sample]:
        if not chosen:
            return []
        directory = self._directory / phase
        directory.mkdir()
        with ExitStack() as stack:
            self._report(f"{phase}: starting")
            direct = stack.enter_context(upstream(directory))
            sides: list[Side] = []
            if not all(workload.keyed for workload in chosen):
                sides += [direct, stack.enter_context(plain_envoy(directory, direct, gateway.CONNECTIONS_MAX))]
            for checkout in self._comparison.checkouts():
                running = stack.enter_context(
                    gateway.gateway(checkout, directory, direct, self._plan.workers, settings)
                )
                sides.append(running.with_keys(tenants, keys))
            sides += self._peers(stack, directory, direct, tenants, keys)
            for side in sides:
                measure.prime(side, self._plan.priming)
            return measure.run(chosen, sides, direct, self._plan.rounds, self._report)

    def _peers(self, stack: ExitStack, directory: Path, direct: Side, tenants: int, keys: int) -> Iterator[Side]:
        starts: dict[str, Callable[[], AbstractContextManager[Side]]] = {}
        if self._comparison.fastapi:
            workers = self._plan.workers
            starts[fastapi.NAME] = lambda: fastapi.fastapi_design(directory, direct, workers, tenants, keys)
        if self._comparison.litellm and keys == 1:
            starts[litellm.NAME] = lambda: litellm.litellm(directory, direct, self._plan.workers)
        for name, start in starts.items():
            if name in self.skipped:
                continue
            self._report(f"starting {name}")
            try:
                yield stack.enter_context(start())
            except BenchFailed as failed:
                self.skipped[name] = str(failed)


def measured(plan: Plan, comparison: Comparison, directory: Path, report: Report) -> dict[str, Any]:
    """Returns the document that `--json` prints. Raises BenchFailed."""
    started, (load, _, _) = time.monotonic(), os.getloadavg()
    if load > _IDLE_LOAD_MAX:
        report(f"the machine is busy (load average {load:.1f}), so the measurements will not be exact")
    run = Run(plan, comparison, directory, report)
    samples = run.samples()
    setup = {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "load_average": round(load, 1),
        "took_s": round(time.monotonic() - started, 1),
        "rounds": plan.rounds,
        "workers": plan.workers,
        "streams": plan.streams,
        "revisions": {checkout.name: checkout.revision() for checkout in comparison.checkouts()},
        "settings": gateway.SETTINGS,
        "settings_w5": gateway.CHEAP_HASHES,
        "skipped": run.skipped,
    }
    chosen = [*filter(comparison.includes, [*workloads.few_keys(plan), *workloads.many_keys(plan)])]
    return summary.document(chosen, list(dict.fromkeys(sample.side for sample in samples)), samples, setup)


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
