"""Starts children in stages, keeps them alive and takes all of them down again; knows nothing of what they serve."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping

from ops.embedded import logfile
from ops.embedded.child import Child
from ops.embedded.errors import ChildFailed
from ops.embedded.keeper import SupervisedProcess

TRIM_EVERY_S = 10.0


Follower = Callable[[Mapping[str, int]], None]


class Supervisor:
    """An async context: on leaving it every child is stopped, the last stage first.

    `notice` is called with a line for the operator when a child died and is started again. Once `force_stop` is set,
    stopping waits for nobody. Use it from the main thread only.
    """

    def __init__(self, notice: Callable[[str], None], force_stop: asyncio.Event | None = None) -> None:
        self._stages: list[list[SupervisedProcess]] = []
        self._notice = notice
        self._force_stop = force_stop or asyncio.Event()
        self._follower: Follower | None = None
        self._trimming: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Supervisor:
        self._trimming = asyncio.create_task(self._trim_logs(), name="trim logs")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._trimming is not None:
            self._trimming.cancel()
        await self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """Process id by child, in the order of starting."""
        return {keeper.child.name: keeper.pid for keeper in self._keepers() if keeper.pid is not None}

    def follow(self, follower: Follower | None) -> None:
        """Calls `follower` with `pids` now and whenever they change; None ends that."""
        self._follower = follower
        self._changed()

    async def start(self, *children: Child) -> None:
        """Starts one stage in parallel and returns when all of it serves, or raises ChildFailed."""
        stage = [SupervisedProcess(child, self._changed, self._notice, self._force_stop) for child in children]
        self._stages.append(stage)
        await self._until_ready(stage)

    async def until_ready(self) -> None:
        """Returns when every child serves (again); raises ChildFailed for one that does not come to."""
        await self._until_ready(self._keepers())

    async def stop(self) -> None:
        """Stops every child, stage by stage in reverse."""
        while self._stages:
            await asyncio.gather(*(keeper.stop() for keeper in self._stages[-1]))
            self._stages.pop()

    async def _until_ready(self, keepers: Iterable[SupervisedProcess]) -> None:
        failures: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                for keeper in keepers:
                    group.create_task(keeper.until_ready())
        except* ChildFailed as failed:
            failures.extend(failed.exceptions)
        if failures:
            raise failures[0]

    def _changed(self) -> None:
        if self._follower is not None:
            self._follower(self.pids)

    def _keepers(self) -> list[SupervisedProcess]:
        return [keeper for stage in self._stages for keeper in stage]

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(TRIM_EVERY_S)
            for keeper in self._keepers():
                with contextlib.suppress(OSError):
                    logfile.trim(keeper.child.log)
