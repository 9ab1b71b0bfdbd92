"""Waiting for a condition that has no event. The tests poll here and nowhere else."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

TIMEOUT_S = 20.0
POLL_S = 0.02


def eventually(
    condition: Callable[[], T | None],
    timeout_s: float = TIMEOUT_S,
    *,
    poll_s: float = POLL_S,
    retry_on: tuple[type[Exception], ...] = (),
    failure: str | Callable[[], object] = "the condition did not become true",
) -> T:
    """Calls `condition` every `poll_s` seconds and returns its first true value.

    An exception of `retry_on` counts as false. Raises AssertionError after `timeout_s`; `failure` is its text, or a
    function that returns it.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        last: Exception | None = None
        try:
            if found := condition():
                return found
        except retry_on as error:
            last = error
        if time.monotonic() > deadline:
            raise _timed_out(failure, timeout_s) from last
        time.sleep(poll_s)


@overload
async def eventually_async(
    condition: Callable[[], Awaitable[T | None]],
    timeout_s: float = ...,
    *,
    poll_s: float = ...,
    retry_on: tuple[type[Exception], ...] = ...,
    failure: str | Callable[[], object] = ...,
) -> T: ...
@overload
async def eventually_async(
    condition: Callable[[], T | None],
    timeout_s: float = ...,
    *,
    poll_s: float = ...,
    retry_on: tuple[type[Exception], ...] = ...,
    failure: str | Callable[[], object] = ...,
) -> T: ...
async def eventually_async(
    condition: Callable[[], Any],
    timeout_s: float = TIMEOUT_S,
    *,
    poll_s: float = POLL_S,
    retry_on: tuple[type[Exception], ...] = (),
    failure: str | Callable[[], object] = "the condition did not become true",
) -> Any:
    """Like `eventually`, for tests with an event loop. `condition` is a function or a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        last: Exception | None = None
        try:
            result = condition()
            found = await result if inspect.isawaitable(result) else result
            if found:
                return found
        except retry_on as error:
            last = error
        if time.monotonic() > deadline:
            raise _timed_out(failure, timeout_s) from last
        await asyncio.sleep(poll_s)


def _timed_out(failure: str | Callable[[], object], timeout_s: float) -> AssertionError:
    return AssertionError(f"{failure() if callable(failure) else failure} (within {timeout_s:.0f} s)")
