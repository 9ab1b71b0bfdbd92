"""The background loops of the services: a step again and again, and a call until it succeeds.

Both wait longer after each failure in a row, with jitter, so that many processes do not return to a store at the same
moment. Only transient errors are retried; any other error ends the loop, and with it the process.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from gateway.errors import StoreUnavailable

log = structlog.get_logger()
T = TypeVar("T")

Sleep = Callable[[float], Awaitable[None]]
Uniform = Callable[[float, float], float]

# A step that ran this long before it failed had succeeded, such as a connection that was followed until it broke.
LASTING_S = 10.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after the n-th failure in a row: `first_s` doubled each time, at most `max_s`, less up to a
    quarter of it by chance."""

    first_s: float
    max_s: float

    def pause_s(self, failures: int, uniform: Uniform = random.uniform) -> float:
        """The pause in seconds after `failures` failures in a row, which are at least 1."""
        return min(self.first_s * 2.0 ** min(failures - 1, 30), self.max_s) * uniform(0.75, 1.0)


# The usual back-off from a store. The first retry comes soon, because most outages are short.
STORE_BACKOFF = Backoff(first_s=0.25, max_s=2.0)


async def forever(
    step: Callable[[], Awaitable[float | None]],
    every_s: float,
    *,
    on_error: str,
    backoff: Backoff = STORE_BACKOFF,
    errors: tuple[type[Exception], ...] = (StoreUnavailable,),
    jitter: float = 0.0,
    wake: asyncio.Event | None = None,
    sleep: Sleep = asyncio.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    uniform: Uniform = random.uniform,
) -> None:
    """Runs `step` until cancelled. Never returns.

    `step` returns the seconds to wait before it runs again, or None for `every_s`. For jobs that many processes do at
    once, `jitter` is the share of `every_s` by which each wait is at most shortened at random. `wake` ends a wait early
    and is cleared.

    After one of `errors` the loop logs the event `on_error` with its reason and backs off. In a row of failures it logs
    the 1st, 2nd, 4th, 8th and so on. A step that succeeds, or fails only after LASTING_S, ends the row.
    """
    failures = 0
    while True:
        started = monotonic()
        try:
            pause_s = await step()
        except errors as error:
            failures = 1 if monotonic() - started >= LASTING_S else failures + 1
            pause_s = backoff.pause_s(failures, uniform)
            _log_failure(on_error, error, failures)
        else:
            failures = 0
        await _pause(every_s * uniform(1.0 - jitter, 1.0) if pause_s is None else pause_s, wake, sleep)


async def retry(
    call: Callable[[], Awaitable[T]],
    *,
    on_error: str,
    backoff: Backoff = STORE_BACKOFF,
    errors: tuple[type[Exception], ...] = (StoreUnavailable,),
    sleep: Sleep = asyncio.sleep,
    **context: Any,
) -> T:
    """Calls until `call` succeeds and returns its result.

    Each of `errors` is logged as the event `on_error` with its reason and `context`, and followed by a back-off.
    """
    failures = 0
    while True:
        try:
            return await call()
        except errors as error:
            failures += 1
            _log_failure(on_error, error, failures, **context)
            await sleep(backoff.pause_s(failures))


def _log_failure(event: str, error: Exception, failures: int, **context: Any) -> None:
    """Logs the first failure in a row and then ever fewer of them, so that an outage does not flood the log."""
    if failures & (failures - 1) == 0:
        log.warning(event, reason=str(error) or type(error).__name__, failures=failures, **context)


async def _pause(seconds: float, wake: asyncio.Event | None, sleep: Sleep) -> None:
    if wake is None:
        await sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()
    wake.clear()
