"""The calls of this process to one server, over one connection that is opened when it is needed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any

from gateway.stores.pipeline.call import Call, ReplyError
from gateway.stores.pipeline.connection import Address, Connection, Login, connect

# At most this many calls wait for a connection or a reply. Further calls fail at once.
CALLS_MAX = 10_000
# How late a deadline may be noticed, so that a stall with many deadlines does not cost much CPU.
DEADLINE_RESOLUTION_S = 0.02

Resolve = Callable[[], Awaitable[Address]]


class Link:
    """Sends calls to the server at the address that `resolve` returns for each new connection.

    A call whose connection breaks is sent again on a new one. A server that sends nothing for `timeout_s` while replies
    are due is given up, and so is an attempt to connect after `timeout_s`.
    """

    def __init__(self, resolve: Resolve, login: Login, timeout_s: float) -> None:
        self._resolve = resolve
        self._login = login
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        # The calls that wait for a connection, oldest first.
        self._waiting: deque[Call] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def call(self, command: bytes, deadline_s: float, *, asks: bool = False) -> asyncio.Future[Any]:
        """The reply to a command in RESP before `deadline_s`. See `Calls.call` and `Call`."""
        connection = self._connection
        backlog = self._waiting if connection is None else connection.outstanding
        if len(backlog) >= CALLS_MAX:
            raise ConnectionError("too many calls wait for Redis")
        call = Call(command, self._loop.create_future(), deadline_s, asks)
        if connection is None:
            self._waiting.append(call)
            self._connect()
        else:
            connection.send(call)
        if self._timer is None or deadline_s < self._timer.when():
            # A redirected call may have an earlier deadline than those that wait here.
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline_s, self._expire)
        return call.future

    async def aclose(self) -> None:
        """Closes the connection. Calls without a reply fail."""
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            self._waiting.extendleft(reversed(connection.outstanding))
            connection.outstanding.clear()
            connection.abort()
        for call in self._waiting:
            call.fail(ConnectionError("the connection was closed"))
        self._waiting.clear()

    def _connect(self) -> None:
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._open(), name="redis-connection")

    async def _open(self) -> None:
        """Connects and sends the calls that wait. They fail when that is not possible."""
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await connect(await self._resolve(), self._login, self._on_lost)
                if connection.is_lost:
                    raise ConnectionError("the connection broke")
        except (OSError, ReplyError) as error:
            self._connecting = None
            waiting, self._waiting = self._waiting, deque()
            for call in waiting:
                call.fail(error)
            return
        self._connecting = None
        self._connection = connection
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            if not call.future.done():
                connection.send(call)

    def _on_lost(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None
        again: deque[Call] = deque()
        for call in connection.outstanding:
            if call.repeats_left:
                call.repeats_left -= 1
                again.append(call)
            else:
                call.fail(ConnectionError("the connection broke"))
        connection.outstanding.clear()
        self._waiting.extendleft(reversed(again))
        if self._waiting:
            self._connect()

    def _expire(self) -> None:
        """Fails the calls whose deadline has passed, and gives up a connection that is silent."""
        now_s = self._loop.time()
        connection, next_s, expired = self._connection, None, False
        for call in chain(connection.outstanding if connection else (), self._waiting):
            if call.future.done():
                continue
            if call.deadline_s <= now_s:
                call.fail(TimeoutError())
                expired = True
            elif next_s is None or call.deadline_s < next_s:
                next_s = call.deadline_s
        if expired and connection and now_s - connection.silent_since_s >= self._timeout_s:
            connection.abort()
        resume_s = None if next_s is None else max(next_s, now_s + DEADLINE_RESOLUTION_S)
        self._timer = None if resume_s is None else self._loop.call_at(resume_s, self._expire)
