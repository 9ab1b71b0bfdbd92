"""One loaded model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ops.simulator.models.library import Model
from ops.simulator.scheduling.prompt_cache import PromptCache
from ops.simulator.scheduling.slots import Slots

SESSION_S_MAX = 9_223_372_036.0


class RunnerKilled(Exception):
    """The process that runs the model has ended while a request used it."""


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """The options that a runner is launched with. A request with other ones makes Ollama launch it again.

    `num_ctx`: the context length in tokens. `shift`: whether the context is shifted when it is full. `others`: the
    remaining runner options of the request, as name and value.
    """

    num_ctx: int
    shift: bool = True
    others: tuple[tuple[str, object], ...] = ()


@dataclass(eq=False)
class Runner:
    """A model in memory, or one that is being loaded.

    `session_s`: how long the model stays loaded after its last request. `references`: the requests that use it, in a
    slot or in the line. `idle_at`: when the last one ended, in seconds of the scheduler's clock.
    """

    model: Model
    options: LaunchOptions
    session_s: float
    slot_limit: Callable[[], int]
    is_loading: bool = True
    references: int = 0
    idle_at: float = 0.0
    cache: PromptCache = field(default_factory=PromptCache)
    slots: Slots = field(init=False)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    killed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Starts without requests."""
        self.slots = Slots(self.slot_limit)
        self.idle.set()

    def expires_at(self, now: float) -> float:
        """When the model is unloaded if no other request arrives."""
        is_used = self.is_loading or self.references > 0
        return (now if is_used else self.idle_at) + min(self.session_s, SESSION_S_MAX)

    def raise_if_killed(self) -> None:
        """Raises RunnerKilled after `kill`."""
        if self.killed.is_set():
            raise RunnerKilled

    async def sleep(self, seconds: float) -> None:
        """Waits. Raises RunnerKilled as soon as the runner is killed."""
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            try:
                async with asyncio.timeout(seconds):
                    await self.killed.wait()
            except TimeoutError:
                return
        self.raise_if_killed()
