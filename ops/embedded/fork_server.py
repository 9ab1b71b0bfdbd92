"""The fork server: a process that has imported the modules which all Python services use, and forks each service.

The services share the memory of these modules until one of them writes to it, and start without importing them.
CPython's multiprocessing.forkserver works in the same way, but its processes are described by pickled objects.

The supervisor forks the server from itself, so that it shares that memory too. To replace a server that ended, it runs
this module with a SOCK_SEQPACKET socket as standard input.

A request is one JSON object with the fields `request` (its number), `name`, `argv` (a module and its arguments), `env`
and `cwd`, and the descriptor of the log with it. The answer is `{"request": NUMBER, "pid": PID}`, or
`{"request": NUMBER, "errno": ERRNO}`. When that process ends, `{"pid": PID, "code": CODE}` follows, with the code of
subprocess.Popen.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

from ops.embedded import launcher, logfile

# Each service imports these modules and what they import. A module of one service alone is not among them, because its
# metrics would appear in the others.
PRELOADED = (
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "envoy.config.core.v3.base_pb2",
    "gateway.catalog.store",
    "gateway.ledger.store",
    "gateway.queue.redis.queue",
    "gateway.quota.epoch",
    "gateway.quota.redis.quota",
    "gateway.request.model_name",
    "gateway.rpc.message_sizes",
    "gateway.service.http_server",
    "gateway.service.lifecycle",
    "gateway.service.metrics_server",
    "google.protobuf.struct_pb2",
)
_REQUEST_BYTES_MAX = 1 << 20
_PR_SET_NAME = 15  # prctl(2)


class Request(NamedTuple):
    """A service to become: its name, its module and arguments, its whole environment and its working directory."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str


def main() -> None:
    """Serves the supervisor until it closes the socket; in a forked process, runs the requested module."""
    preload()
    _run(socket.socket(fileno=os.dup(0)))


def preload() -> None:
    """Imports PRELOADED, and exempts all objects from garbage collection.

    A collection in a forked process would write to every object that it visits, and so copy the shared pages.
    """
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()


def fork(env: Mapping[str, str], cwd: Path, log: Path) -> tuple[int, socket.socket]:
    """Forks the server from this process, which must have no other thread. Call `preload` before.

    Returns its process id and the socket to it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()

    def become_server() -> None:
        _close_descriptors(except_for=theirs.fileno())
        _become(Request("fork-server", (), {**env}, str(cwd)), logfile.open_append(log), parent)
        _run(theirs)

    # Text that is still buffered would be written by both processes.
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        exit_after(become_server)
    theirs.close()
    return pid, ours


def exit_after(run: Callable[[], None]) -> NoReturn:
    """Calls `run` in a forked process, and ends the process with the code that the interpreter would end with.

    Nothing returns or raises into the frames of the caller, which belong to the process that forked. The interpreter
    does not free its objects first, which would copy the memory that they share with that process.
    """
    code = 1
    try:
        run()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except Exception:  # noqa: BLE001 (it is shown, and must not reach the frames of the caller)
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            # The code of an interpreter that cannot write what is buffered, such as to a pipe whose reader has ended.
            code = 120
        finally:
            os._exit(code)


def _run(supervisor: socket.socket) -> None:
    """Serves the supervisor until it closes the socket; in a forked process, runs the requested module."""
    with supervisor:
        request = serve(supervisor)
    if request is not None:
        run_module(request)


def run_module(request: Request) -> None:
    """Runs the requested module as `python -m` does."""
    sys.argv = [*request.argv]
    runpy.run_module(request.argv[0], run_name="__main__", alter_sys=True)


def serve(supervisor: socket.socket) -> Request | None:
    """Forks a process for each request. Returns None when the supervisor has gone, and the request in a forked process.

    The kernel ends the forked processes when this one ends.
    """
    pids: dict[int, int] = {}
    poll = select.poll()
    poll.register(supervisor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in pids:
                poll.unregister(descriptor)
                os.close(descriptor)
                pid, status = os.waitpid(pids.pop(descriptor), 0)
                _send(supervisor, pid=pid, code=os.waitstatus_to_exitcode(status))
                continue
            data, logs, _, _ = socket.recv_fds(supervisor, _REQUEST_BYTES_MAX, 1)
            if not data:
                return None
            fields = json.loads(data)
            request = Request(fields["name"], tuple(fields["argv"]), fields["env"], fields["cwd"])
            server_pid = os.getpid()
            try:
                pid, pidfd = _fork()
            except OSError as error:
                # The system has no process, memory or descriptor left. The services that run are not affected.
                os.close(logs[0])
                _send(supervisor, request=fields["request"], errno=error.errno)
                continue
            if pid == 0:
                for inherited in pids:
                    os.close(inherited)
                _become(request, logs[0], server_pid)
                return request
            os.close(logs[0])
            pids[pidfd] = pid
            poll.register(pidfd, select.POLLIN)
            _send(supervisor, request=fields["request"], pid=pid)


def _fork() -> tuple[int, int]:
    """Returns the process id and a pidfd of the new process, which itself gets 0 and -1."""
    pid = os.fork()
    if pid == 0:
        return 0, -1
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _send(supervisor: socket.socket, **answer: Any) -> None:
    supervisor.send(json.dumps(answer).encode())


def _become(request: Request, log: int, server_pid: int) -> None:
    """Gives this process its session, its streams, its environment and its name, as if it had been executed."""
    os.setsid()
    launcher.end_with_parent(server_pid)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        # Otherwise the buffering would depend on what the output of the first process was.
        cast(TextIOWrapper, stream).reconfigure(line_buffering=True)
    os.umask(0o077)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    time.tzset()
    ctypes.CDLL(None).prctl(_PR_SET_NAME, request.name.encode(), 0, 0, 0)


def _close_descriptors(*, except_for: int) -> None:
    os.closerange(3, except_for)
    os.closerange(except_for + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


if __name__ == "__main__":
    main()
