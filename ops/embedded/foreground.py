"""A stack in the foreground of a terminal or of a service manager: until it is interrupted or its use is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ops.embedded import stack
from ops.embedded.errors import ChildFailed
from ops.embedded.interrupts import until_interrupted
from ops.embedded.options import Options
from ops.embedded.progress import Progress
from ops.embedded.stack import Extra, Stack


def serve(
    options: Options, progress: Progress, use: Callable[[Stack], Awaitable[None]], extra: Extra = stack.nothing
) -> None:
    """Starts the stack, awaits `use` and stops everything; a first SIGINT, SIGTERM or SIGHUP ends it in order.

    Raises what `use` and `stack.running` raise; the log's last lines of a child that failed are shown.
    """
    force_stop = asyncio.Event()

    async def work() -> None:
        async with stack.running(options, progress, force_stop, extra) as running:
            await use(running)
            progress.step("Stopping")

    def interrupted() -> None:
        progress.step("Stopping; once more to wait for no request")

    try:
        asyncio.run(until_interrupted(work(), first=interrupted, second=force_stop.set))
    except ChildFailed as failure:
        progress.done()
        for line in failure.log_tail:
            progress.notice(f"{failure.name} | {line}")
        raise
    finally:
        progress.done()


async def forever() -> None:
    """Waits for the interruption."""
    await asyncio.Event().wait()
