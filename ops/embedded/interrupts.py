"""Turns SIGINT, SIGTERM and SIGHUP into an orderly shutdown."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_until_interrupted(
    work: Coroutine[None, None, None], on_first: Callable[[], None], on_further: Callable[[], None]
) -> None:
    """Runs `work` to its end, or cancels it at the first signal and waits for its clean-up.

    `on_first` is called at the first signal, and `on_further`, which skips the waiting, at each further one. Raises the
    errors of `work`.
    """
    task = asyncio.ensure_future(work)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if interrupted:
            on_further()
            return
        interrupted = True
        on_first()
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
