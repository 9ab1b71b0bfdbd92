"""A supervised child process: spawned, watched, restarted after it exits, and terminated when it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable

from ops.embedded import launcher, logfile
from ops.embedded.child import Child
from ops.embedded.errors import ChildFailed
from ops.embedded.forked_process import ForkedProcess, ForkServer

_RESTART_DELAYS_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_S = 5.0
PROBE_EVERY_S = 0.03
KILLED_WAIT_S = 5.0


def restart_delay_s(short_runs: int) -> float:
    """How long to wait before the next start after `short_runs` consecutive runs of less than STABLE_S."""
    return _RESTART_DELAYS_S[min(max(short_runs - 1, 0), len(_RESTART_DELAYS_S) - 1)]


class SupervisedProcess:
    """Keeps the process of one child running. Create it in the main thread, with a running event loop.

    `fork_server` starts a child that is forked; without such a child it may be None.
    `on_spawn` is called after each spawn, `notice` with a line for the operator before each restart. Once `force_stop`
    is set, stopping skips the drain and the grace period.
    """

    def __init__(
        self,
        child: Child,
        fork_server: ForkServer | None,
        on_spawn: Callable[[], None],
        notice: Callable[[str], None],
        force_stop: asyncio.Event,
    ) -> None:
        self.child = child
        self._fork_server = fork_server
        self.pid: int | None = None
        self._on_spawn = on_spawn
        self._notice = notice
        self._force_stop = force_stop
        self._exits = 0
        self._last_exit = ""
        self._was_ready = False
        self._log_start = logfile.size(child.log)
        self._task = asyncio.create_task(self._supervise(), name=f"supervise {child.name}")

    async def wait_until_ready(self) -> None:
        """Returns when the child is ready.

        Raises ChildFailed when that takes longer than its start timeout, or when it exits too often before its first
        readiness.
        """
        deadline = time.monotonic() + self.child.start_timeout_s
        while self._was_ready or self._exits < self.child.start_attempts:
            if self.pid is not None and await self.child.ready():
                self._was_ready = True
                return
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {self.child.start_timeout_s:.0f} s")
            await asyncio.sleep(PROBE_EVERY_S)
        raise self._failure(self._last_exit)

    async def stop(self) -> None:
        """Drains the child, sends its stop signal, and kills it after its grace period."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def _failure(self, reason: str) -> ChildFailed:
        return ChildFailed(self.child.name, reason, logfile.tail(self.child.log, since=self._log_start))

    async def _supervise(self) -> None:
        short_runs = 0
        while True:
            started = time.monotonic()
            self._last_exit = await self._run()
            self._exits += 1
            if not self._was_ready and self._exits >= self.child.start_attempts:
                return
            short_runs = 0 if time.monotonic() - started >= STABLE_S else short_runs + 1
            self._notice(f"{self.child.name} {self._last_exit}; restarting it")
            await asyncio.sleep(restart_delay_s(short_runs))

    async def _run(self) -> str:
        """Runs the process until it exits and returns how it ended, as a phrase."""
        try:
            process = await self._spawn()
        except OSError as error:
            return f"could not be started: {error.strerror or error}"
        self.pid = process.pid
        self._on_spawn()
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                await self._terminate(process)
            # Processes that the child has started are in its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return f"was killed by signal {-code}" if code < 0 else f"exited with {code}"

    async def _spawn(self) -> Process | ForkedProcess:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("children are spawned from the main thread only")
        child = self.child
        if child.forked:
            if self._fork_server is None:
                raise RuntimeError(f"{child.name} needs a fork server")
            return await self._fork_server.fork(child)
        log = logfile.open_append(child.log)
        try:
            return await asyncio.create_subprocess_exec(
                *launcher.command_line(child.argv, child.user),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(child.env),
                cwd=child.cwd,
                # The terminal's Ctrl-C must reach the supervisor alone.
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def _terminate(self, process: Process | ForkedProcess) -> None:
        if self.child.drain is not None:
            await self._await_unless_forced(self.child.drain(), None)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.child.stop_signal)
        await self._await_unless_forced(process.wait(), self.child.stop_grace_s)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(KILLED_WAIT_S):
            await process.wait()

    async def _await_unless_forced(self, work: Awaitable[object], timeout_s: float | None) -> None:
        tasks = {asyncio.ensure_future(work), asyncio.ensure_future(self._force_stop.wait())}
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
