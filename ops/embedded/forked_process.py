"""The processes that a fork server forks, as the supervisor uses them: spawned, awaited and signalled."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ops.embedded import fork_server, launcher, logfile
from ops.embedded.child import Child

START_TIMEOUT_S = 30.0
_ANSWER_BYTES_MAX = 4096


class ForkedProcess:
    """A process that the fork server forked. It has the methods of asyncio.subprocess.Process that are used here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for the number of a signal; None while the process runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Returns the exit code when the process has ended."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Sends the signal. Raises ProcessLookupError if the process has ended."""
        if self._ended.done():
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL. Raises ProcessLookupError if the process has ended."""
        self.send_signal(signal.SIGKILL)

    def set_ended(self, code: int) -> None:
        """Wakes those who wait."""
        if not self._ended.done():
            self._ended.set_result(code)


class ForkServer:
    """Forks Python services from one process that has imported their common modules. A server that died is replaced.

    Use it from the main thread, with a running event loop unless a method says otherwise. `env` is the environment of
    the interpreter, `log` receives what the server itself writes.
    """

    def __init__(self, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self._env = {**env, "PYTHONUNBUFFERED": "1"}
        self._cwd = cwd
        self._log = log
        self._first_pid: int | None = None
        self._server: Process | None = None
        self._socket: socket.socket | None = None
        self._connected = False
        self._forked: dict[int, ForkedProcess] = {}
        self._requests: dict[int, asyncio.Future[ForkedProcess]] = {}
        self._numbers = itertools.count()
        self._starting = asyncio.Lock()

    def fork_from_this_process(self) -> None:
        """Forks the first server, which then shares the memory of this process. Imports what the services need.

        Call it before there are other threads or an event loop, of which a forked process would have a broken copy. A
        server that replaces this one is executed.
        """
        fork_server.preload()
        self._first_pid, self._socket = fork_server.fork(self._env, self._cwd, self._log)
        self._socket.setblocking(False)

    async def start(self) -> socket.socket:
        """Starts the server unless it runs. Returns the socket to it; a request waits until the server has imported."""
        async with self._starting:
            if self._socket is None:
                self._socket = await self._execute()
            if not self._connected:
                asyncio.get_running_loop().add_reader(self._socket, self._read, self._socket)
                self._connected = True
            return self._socket

    async def fork(self, child: Child) -> ForkedProcess:
        """Returns the new process of a Python child. Raises OSError when the server does not answer."""
        server = await self.start()
        number = next(self._numbers)
        forked = self._requests[number] = asyncio.get_running_loop().create_future()
        fields = {"name": child.name, "argv": child.argv, "env": dict(child.env), "cwd": str(child.cwd)}
        log = logfile.open_append(child.log)
        try:
            socket.send_fds(server, [json.dumps({"request": number, **fields}).encode()], [log])
            async with asyncio.timeout(START_TIMEOUT_S):
                process: ForkedProcess = await forked
            return process
        finally:
            del self._requests[number]
            os.close(log)

    async def stop(self) -> None:
        """Stops the server. The processes that it forked end with it."""
        self._disconnect()
        self.kill_forked()
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                self._server.kill()
            await self._server.wait()

    def kill_forked(self) -> None:
        """Ends the server of `fork_from_this_process`, if it runs. Needs no event loop."""
        if self._first_pid is not None:
            os.kill(self._first_pid, signal.SIGKILL)
            os.waitpid(self._first_pid, 0)
            self._first_pid = None

    async def _execute(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        log = logfile.open_append(self._log)
        program = (sys.executable, "-P", "-m", fork_server.__name__)
        try:
            self._server = await asyncio.create_subprocess_exec(
                *launcher.command_line(program, None),
                stdin=theirs.fileno(),
                stdout=log,
                stderr=log,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(log)
        return ours

    def _read(self, server: socket.socket) -> None:
        try:
            data = server.recv(_ANSWER_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect()
            return
        answer: dict[str, Any] = json.loads(data)
        if "code" in answer:
            self._forked.pop(answer["pid"]).set_ended(answer["code"])
            return
        forked = self._requests.get(answer["request"])
        if forked is not None and forked.done():
            forked = None
        if "errno" in answer:
            if forked is not None:
                forked.set_exception(OSError(answer["errno"], os.strerror(answer["errno"])))
            return
        process = self._forked[answer["pid"]] = ForkedProcess(answer["pid"])
        if forked is None:
            # Its request was cancelled.
            process.kill()
        else:
            forked.set_result(process)

    def _disconnect(self) -> None:
        """Forgets a server that has ended. The kernel has ended its processes with it."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        self._connected = False
        for process in self._forked.values():
            process.set_ended(-signal.SIGKILL)
        self._forked.clear()
        for forked in self._requests.values():
            if not forked.done():
                forked.set_exception(ConnectionResetError("the fork server ended"))
