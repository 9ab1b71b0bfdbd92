"""Starts children in stages, restarts them, and stops them in reverse. Knows nothing of the servers they run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping

from ops.embedded import logfile
from ops.embedded.child import Child
from ops.embedded.errors import ChildFailed
from ops.embedded.forked_process import ForkServer
from ops.embedded.supervised_process import SupervisedProcess

TRIM_EVERY_S = 10.0


PidsListener = Callable[[Mapping[str, int]], None]


class Supervisor:
    """An async context manager that stops every child when it is left, the last stage first.

    `notice` is called with a line for the operator when a child exited and is restarted. Once `force_stop` is set,
    stopping skips all drains and grace periods. `fork_server` starts the forked children, and is stopped with them. Use
    it from the main thread only.
    """

    def __init__(
        self,
        notice: Callable[[str], None],
        force_stop: asyncio.Event | None = None,
        fork_server: ForkServer | None = None,
    ) -> None:
        self._stages: list[list[SupervisedProcess]] = []
        self._notice = notice
        self._fork_server = fork_server
        self._force_stop = force_stop or asyncio.Event()
        self._pids_listener: PidsListener | None = None
        self._trimming: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Supervisor:
        self._trimming = asyncio.create_task(self._trim_logs(), name="trim logs")
        if self._fork_server is not None:
            await self._fork_server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._trimming is not None:
            self._trimming.cancel()
        await self.stop()
        if self._fork_server is not None:
            await self._fork_server.stop()

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each child by name, in the order of their start."""
        return {process.child.name: process.pid for process in self._processes() if process.pid is not None}

    def set_pids_listener(self, listener: PidsListener | None) -> None:
        """Calls `listener` with `pids` now and after every change. None removes the listener."""
        self._pids_listener = listener
        self._report_pids()

    async def start(self, *children: Child) -> None:
        """Starts the children in parallel, as one stage. Returns when all are ready, or raises ChildFailed."""
        stage = [
            SupervisedProcess(child, self._fork_server, self._report_pids, self._notice, self._force_stop)
            for child in children
        ]
        self._stages.append(stage)
        await self._wait_until_ready(stage)

    async def wait_until_ready(self) -> None:
        """Returns when every child is ready (again). Raises ChildFailed for one that does not become ready."""
        await self._wait_until_ready(self._processes())

    async def stop(self) -> None:
        """Stops every child, stage by stage in reverse."""
        while self._stages:
            await asyncio.gather(*(process.stop() for process in self._stages[-1]))
            self._stages.pop()

    async def _wait_until_ready(self, processes: Iterable[SupervisedProcess]) -> None:
        failures: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                for process in processes:
                    group.create_task(process.wait_until_ready())
        except* ChildFailed as failed:
            failures.extend(failed.exceptions)
        if failures:
            raise failures[0]

    def _report_pids(self) -> None:
        if self._pids_listener is not None:
            self._pids_listener(self.pids)

    def _processes(self) -> list[SupervisedProcess]:
        return [process for stage in self._stages for process in stage]

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(TRIM_EVERY_S)
            for process in self._processes():
                with contextlib.suppress(OSError):
                    logfile.trim(process.child.log)
