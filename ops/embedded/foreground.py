"""Runs a stack in the foreground, for a terminal or a service manager, until it is interrupted or no longer used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ops.embedded import stack
from ops.embedded.errors import ChildFailed
from ops.embedded.interrupts import run_until_interrupted
from ops.embedded.options import StackOptions
from ops.embedded.progress import Progress
from ops.embedded.stack import ExtraChildren, Prepared, Stack


def serve(
    options: StackOptions,
    progress: Progress,
    use: Callable[[Stack], Awaitable[None]],
    extra_children: ExtraChildren = stack.no_children,
) -> None:
    """Starts the stack, awaits `use` and stops the stack.

    The first SIGINT, SIGTERM or SIGHUP cancels `use` and stops in order; a second one stops at once. Shows the last
    log lines of a child that failed. Raises the errors of `use`, `stack.prepare` and `stack.running`.
    """
    force_stop = asyncio.Event()

    async def work(prepared: Prepared) -> None:
        async with stack.running(prepared, options, progress, force_stop, extra_children) as running:
            await use(running)
            progress.step("Stopping")

    def on_interrupt() -> None:
        progress.step("Stopping (interrupt again to stop immediately)")

    # The live line has a thread, and `prepare` needs a process without one.
    progress.done()
    try:
        with stack.prepare(options) as prepared:
            asyncio.run(run_until_interrupted(work(prepared), on_first=on_interrupt, on_further=force_stop.set))
    except ChildFailed as failure:
        progress.done()
        for line in failure.log_tail:
            progress.notice(f"{failure.name} | {line}")
        raise
    finally:
        progress.done()


async def wait_for_interruption() -> None:
    """Waits until the task is cancelled by an interruption."""
    await asyncio.Event().wait()
