"""Starts a gateway for each experiment, or one for all, and measures."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.fairness import crowd, neighbour, shares
from bench.fairness.plan import SLOTS, TOKENS_PER_S, Plan
from bench.fairness.stack import Ollama, Stack, gateway, ollama
from bench.sides.gateway import Checkout

PARTS = ("neighbour", "shares", "crowd")
Document = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """What one gateway measures: the slots of the backend of each model, its settings and the measurement."""

    slots: Mapping[str, int]
    settings: Mapping[str, str]
    measure: Callable[[Plan, Stack, Mapping[str, Ollama]], Awaitable[Any]]


class Run:
    """Runs experiments of a plan, whose files are in `directory`."""

    def __init__(self, plan: Plan, directory: Path, report: Callable[[str], None]) -> None:
        self._plan = plan
        self._directory = directory
        self._report = report
        self._experiments = {
            "neighbour": [
                Experiment({neighbour.MODEL: neighbour.SLOTS}, neighbour.QUEUE_OFF, neighbour.measure),
                Experiment({neighbour.MODEL: neighbour.SLOTS}, {}, neighbour.measure),
            ],
            "shares": [Experiment({each.name: SLOTS for each in plan.scenarios}, shares.SETTINGS, shares.measure)],
            "crowd": [Experiment({crowd.MODEL: SLOTS}, crowd.settings(plan), crowd.measure)],
        }
        self._started = 0

    def measured(self, parts: Sequence[str]) -> Document:
        """The document of these parts. Each has the conditions of its run. Raises BenchFailed, StackError."""
        with ExitStack() as opened:
            shared = self._start_for_all(opened) if self._plan.one_start else None
            return {part: self._part(part, shared) for part in parts}

    def _part(self, part: str, shared: tuple[Stack, Mapping[str, Ollama]] | None) -> Document:
        began, (load, _, _) = time.monotonic(), os.getloadavg()
        results = []
        for experiment in self._experiments[part]:
            self._report(part)
            with ExitStack() as opened:
                stack, backends = shared or self._start(opened, experiment)
                results.append(asyncio.run(_measure(experiment, self._plan, stack, backends)))
        setup = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "date": datetime.now(UTC).date().isoformat(),
            "load_average": round(load, 1),
            "took_s": round(time.monotonic() - began),
            "workers": self._plan.workers,
            "tokens_per_s": TOKENS_PER_S,
            "revision": Checkout.current().revision(),
        }
        return {"setup": setup, "result": neighbour.compare(self._plan, *results) if len(results) > 1 else results[0]}

    def _start(self, opened: ExitStack, experiment: Experiment) -> tuple[Stack, Mapping[str, Ollama]]:
        backends = {
            model: opened.enter_context(ollama(self._directory / f"{model}.log", [model], slots))
            for model, slots in experiment.slots.items()
        }
        return self._gateway(opened, list(backends.values()), experiment.settings), backends

    def _start_for_all(self, opened: ExitStack) -> tuple[Stack, Mapping[str, Ollama]]:
        every = [each for listed in self._experiments.values() for each in listed]
        models = sorted({model for each in every for model in each.slots})
        backend = opened.enter_context(ollama(self._directory / "all.log", models, SLOTS))
        settings = {name: value for each in every for name, value in each.settings.items()}
        return self._gateway(opened, [backend], settings), dict.fromkeys(models, backend)

    def _gateway(self, opened: ExitStack, backends: Sequence[Ollama], settings: Mapping[str, str]) -> Stack:
        self._started += 1
        directory = self._directory / f"gateway-{self._started}"
        return opened.enter_context(gateway(directory, backends, self._plan.workers, settings))


async def _measure(experiment: Experiment, plan: Plan, stack: Stack, backends: Mapping[str, Ollama]) -> Any:
    return await experiment.measure(plan, stack, backends)
