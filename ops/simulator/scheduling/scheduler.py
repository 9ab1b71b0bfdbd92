"""Loads models on demand and unloads them, as `server/sched.go` of Ollama does.

A request for a model that is loaded with the same options uses it at once, and then waits for a slot without a bound.
Every other request is pending: a loader processes pending requests one by one in order of arrival, and unloads another
model first if the limit on loaded models is reached. A model that is in use is unloaded after its last request, and
meanwhile the loader waits. A request that finds `max_queue` pending ones ahead of it is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ops.simulator.models.library import Model
from ops.simulator.scheduling.runner import SESSION_S_MAX, LaunchOptions, Runner

KEEP_ALIVE_S = 300.0


class ServerBusy(Exception):
    """More requests wait for a model to be loaded than the server allows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits and the pace in force.

    `num_parallel`: slots of each model, 0 for no limit. `max_queue`: pending requests. `max_loaded_models`: 0 for no
    limit. `load_s`: how long loading takes.
    """

    num_parallel: int
    max_queue: int
    max_loaded_models: int
    load_s: float


class Scheduler:
    """The runners of one server. `clock` returns seconds; `limits` returns those in force."""

    def __init__(self, clock: Callable[[], float], limits: Callable[[], Limits]) -> None:
        self._clock = clock
        self._limits = limits
        self._runners: dict[str, Runner] = {}
        self._loader = asyncio.Lock()
        self.pending = 0

    @asynccontextmanager
    async def use(self, model: Model, options: LaunchOptions, keep_alive_s: float | None) -> AsyncIterator[Runner]:
        """The runner of the model, which stays loaded meanwhile. Raises ServerBusy.

        `keep_alive_s` sets how long it stays loaded afterwards: negative is indefinitely, 0 unloads it, and None keeps
        what an earlier request has set. A request that is cancelled while its model is loaded abandons the load.
        """
        runner = await self._acquire(model, options, keep_alive_s)
        if keep_alive_s is not None:
            runner.session_s = _session_s(keep_alive_s)
        runner.references += 1
        runner.idle.clear()
        try:
            yield runner
        finally:
            runner.references -= 1
            if runner.references == 0:
                runner.idle_at = self._clock()
                runner.idle.set()
                self._remove_expired()

    def runners(self) -> list[Runner]:
        """The models in memory and the one that is being loaded, in order of loading."""
        self._remove_expired()
        return list(self._runners.values())

    def unload(self, model: Model) -> None:
        """Unloads the model, after its last request if it is in use."""
        if (runner := self._runners.get(model.digest)) is not None:
            runner.session_s = 0
            self._remove_expired()

    def kill(self) -> None:
        """Ends every runner at once, as SIGKILL would: the requests that use one fail."""
        for runner in self._runners.values():
            runner.killed.set()
        self._runners = {digest: runner for digest, runner in self._runners.items() if runner.is_loading}

    def apply_limits(self) -> None:
        """Admits waiting requests after the number of slots was raised."""
        for runner in self._runners.values():
            runner.slots.admit()

    def _usable(self, model: Model, options: LaunchOptions) -> Runner | None:
        self._remove_expired()
        runner = self._runners.get(model.digest)
        return runner if runner is not None and not runner.is_loading and runner.options == options else None

    async def _acquire(self, model: Model, options: LaunchOptions, keep_alive_s: float | None) -> Runner:
        if (runner := self._usable(model, options)) is not None:
            return runner
        if self._loader.locked() and self.pending >= self._limits().max_queue:
            raise ServerBusy
        self.pending += 1
        try:
            await self._loader.acquire()
        finally:
            self.pending -= 1
        try:
            return self._usable(model, options) or await self._load(model, options, keep_alive_s)
        finally:
            self._loader.release()

    async def _load(self, model: Model, options: LaunchOptions, keep_alive_s: float | None) -> Runner:
        while (victim := self._victim(model)) is not None:
            victim.session_s = 0
            await victim.idle.wait()
            self._remove_expired()
        session_s = KEEP_ALIVE_S if keep_alive_s is None else _session_s(keep_alive_s)
        # Ollama launches embedding models with one slot.
        slots = self._slots if "completion" in model.capabilities else lambda: min(self._slots(), 1)
        runner = self._runners[model.digest] = Runner(model, options, session_s, slots)
        try:
            await runner.sleep(self._limits().load_s)
            runner.is_loading = False
        finally:
            if runner.is_loading:
                del self._runners[model.digest]
        return runner

    def _victim(self, model: Model) -> Runner | None:
        """The runner to unload before the model can be loaded: idle ones and short sessions first."""
        if (present := self._runners.get(model.digest)) is not None:
            return present
        limit = self._limits().max_loaded_models
        if not limit or len(self._runners) < limit:
            return None
        return min(self._runners.values(), key=lambda runner: (runner.references > 0, runner.session_s))

    def _slots(self) -> int:
        return self._limits().num_parallel

    def _remove_expired(self) -> None:
        now = self._clock()
        self._runners = {
            digest: runner
            for digest, runner in self._runners.items()
            if runner.is_loading or runner.references or runner.expires_at(now) > now
        }


def _session_s(keep_alive_s: float) -> float:
    return SESSION_S_MAX if keep_alive_s < 0 else min(keep_alive_s, SESSION_S_MAX)
