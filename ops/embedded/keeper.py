"""One child's life: spawned, watched, started again when it dies, terminated when it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable

from ops.embedded import exec_child, logfile
from ops.embedded.child import Child
from ops.embedded.errors import ChildFailed

_RESTART_DELAYS_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_S = 5.0
PROBE_EVERY_S = 0.03
KILLED_WAIT_S = 5.0


def restart_delay_s(short_lives: int) -> float:
    """How long to wait before the next start after so many lives in a row that were shorter than STABLE_S."""
    return _RESTART_DELAYS_S[min(max(short_lives - 1, 0), len(_RESTART_DELAYS_S) - 1)]


class SupervisedProcess:
    """Keeps one child; must be created in the main thread, with a running event loop.

    `changed` is called after each spawn, `notice` with a line for the operator when the child had to be started
    again. Once `force_stop` is set, stopping waits for nothing.
    """

    def __init__(
        self, child: Child, changed: Callable[[], None], notice: Callable[[str], None], force_stop: asyncio.Event
    ) -> None:
        self.child = child
        self.pid: int | None = None
        self._changed = changed
        self._notice = notice
        self._force_stop = force_stop
        self._exits = 0
        self._end = ""
        self._has_served = False
        self._log_start = logfile.size(child.log)
        self._task = asyncio.create_task(self._keep(), name=f"keep {child.name}")

    async def until_ready(self) -> None:
        """Returns when the child answers; raises ChildFailed when it is too slow, or at first exits too often."""
        deadline = time.monotonic() + self.child.start_timeout_s
        while self._has_served or self._exits < self.child.start_attempts:
            if self.pid is not None and await self.child.ready():
                self._has_served = True
                return
            if time.monotonic() > deadline:
                raise self._failed(f"did not answer within {self.child.start_timeout_s:.0f} s")
            await asyncio.sleep(PROBE_EVERY_S)
        raise self._failed(self._end)

    async def stop(self) -> None:
        """Ends the child: drained, signalled, and killed when its grace is over."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def _failed(self, reason: str) -> ChildFailed:
        return ChildFailed(self.child.name, reason, logfile.tail(self.child.log, since=self._log_start))

    async def _keep(self) -> None:
        short_lives = 0
        while True:
            started = time.monotonic()
            self._end = await self._live()
            self._exits += 1
            if not self._has_served and self._exits >= self.child.start_attempts:
                return
            short_lives = 0 if time.monotonic() - started >= STABLE_S else short_lives + 1
            self._notice(f"{self.child.name} {self._end}; starting it again")
            await asyncio.sleep(restart_delay_s(short_lives))

    async def _live(self) -> str:
        """One life of the child, and how it ended."""
        try:
            process = await self._spawn()
        except OSError as error:
            return f"could not be started: {error.strerror or error}"
        self.pid = process.pid
        self._changed()
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                await self._terminate(process)
            # What the child itself started is in its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return f"was killed by signal {-code}" if code < 0 else f"exited with {code}"

    async def _spawn(self) -> Process:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("children are spawned from the main thread only")
        child = self.child
        log = logfile.open_append(child.log)
        try:
            return await asyncio.create_subprocess_exec(
                *exec_child.command(child.argv, child.user),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(child.env),
                cwd=child.cwd,
                # Away from the terminal's Ctrl-C, which is for the supervisor alone.
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def _terminate(self, process: Process) -> None:
        if self.child.drain is not None:
            await self._until_forced(self.child.drain(), None)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.child.stop_signal)
        await self._until_forced(process.wait(), self.child.stop_grace_s)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(KILLED_WAIT_S):
            await process.wait()

    async def _until_forced(self, work: Awaitable[object], timeout_s: float | None) -> None:
        tasks = {asyncio.ensure_future(work), asyncio.ensure_future(self._force_stop.wait())}
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
