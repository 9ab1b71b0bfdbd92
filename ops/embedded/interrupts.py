"""SIGINT, SIGTERM and SIGHUP as an orderly end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def until_interrupted(
    work: Coroutine[None, None, None], first: Callable[[], None], second: Callable[[], None]
) -> None:
    """Runs `work` to its end, or cancels it at the first signal and waits for its clean-up.

    `first` is called at that moment, `second` at every further signal: for an operator who will not wait.
    What `work` raises is raised.
    """
    task = asyncio.ensure_future(work)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if interrupted:
            second()
            return
        interrupted = True
        first()
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt)
    try:
        await task
    except asyncio.CancelledError:
        if not interrupted:
            raise
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
