"""The fork server with real processes: what a forked service is, how it ends, and that it never runs alone."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ops.embedded.fork_server import serve
from ops.embedded.forked_process import ForkServer
from ops.embedded.supervisor import Supervisor
from tests.ops.embedded.children import child, is_running, wait_until_ended
from tests.polling import eventually_async

REPORT = """
import json, os, sys
from pathlib import Path
print("output")
print("errors", file=sys.stderr)
Path("report.json").write_text(json.dumps({
    "env": dict(os.environ), "cwd": os.getcwd(), "argv": sys.argv[1:], "session": os.getsid(0), "pid": os.getpid(),
    "parent": os.getppid(),
    "comm": Path("/proc/self/comm").read_text().strip(), "input": sys.stdin.read(),
    "descriptors": [number for number in range(3, 100) if Path(f"/proc/self/fd/{number}").exists()],
    "preloaded": "gateway.quota.redis.quota" in sys.modules,
}))
sys.exit(7)
"""
# A supervisor that forks its server. It is a separate process, because the one that runs tests has threads.
FORK_FROM_THIS_PROCESS = """
import asyncio, json, os, signal
from pathlib import Path
from ops.embedded.forked_process import ForkServer
from tests.ops.embedded.children import child

async def main():
    described = child(Path.cwd(), "reporter", argv=("reporting", "--one", "2"), env={"ONLY": "this"}, forked=True)
    leaver = await server.fork(child(Path.cwd(), "leaver", argv=("leaving",), forked=True))
    print("left", await leaver.wait(), flush=True)
    while len(parents) < 2:
        try:
            process = await server.fork(described)
        except OSError:
            # The killed server was not replaced yet.
            await asyncio.sleep(0.01)
            continue
        print("code", await process.wait(), flush=True)
        parents.append(json.loads(Path("report.json").read_text())["parent"])
        os.kill(parents[-1], signal.SIGKILL)
    await server.stop()

parents = []
print("not yet written", end="")
server = ForkServer({"PYTHONPATH": os.environ["PYTHONPATH"]}, Path.cwd(), Path("server.log"))
server.fork_from_this_process()
asyncio.run(main())
print("different", parents[0] != parents[1])
"""
SERVE = """
import sys, time
from pathlib import Path
Path(sys.argv[1]).touch()
time.sleep(600)
"""


@asynccontextmanager
async def fork_server(directory: Path) -> AsyncIterator[ForkServer]:
    server = ForkServer({"PYTHONPATH": f"{directory}{os.pathsep}{Path.cwd()}"}, directory, directory / "server.log")
    try:
        yield server
    finally:
        await server.stop()


async def test_a_forked_service_has_what_an_executed_one_has(tmp_path: Path) -> None:
    (tmp_path / "reporting.py").write_text(REPORT)
    described = child(tmp_path, "reporter", argv=("reporting", "--one", "2"), env={"ONLY": "this"}, forked=True)
    async with fork_server(tmp_path) as server:
        process = await server.fork(described)
        async with asyncio.timeout(20):
            assert await process.wait() == 7
        assert process.returncode == 7
        with pytest.raises(ProcessLookupError):
            process.kill()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.pop("parent") != os.getpid()
    assert report == {
        "env": {"ONLY": "this"},
        "cwd": str(tmp_path),
        "argv": ["--one", "2"],
        "session": process.pid,
        "pid": process.pid,
        "comm": "reporter",
        "input": "",
        # Neither the socket to the supervisor nor the log of another service.
        "descriptors": [],
        "preloaded": True,
    }
    assert described.log.read_text().splitlines() == ["output", "errors"]


def test_a_server_forked_from_the_supervisor_serves_in_the_same_way_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "reporting.py").write_text(REPORT)
    (tmp_path / "leaving.py").write_text("import sys; sys.exit('a reason')")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    command = [sys.executable, "-c", FORK_FROM_THIS_PROCESS]
    # One more inheritable descriptor, as of a log of the supervisor.
    with (tmp_path / "open").open("w") as inherited:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            pass_fds=[inherited.fileno()],
        )
    assert done.stdout.splitlines() == ["not yet writtenleft 1", "code 7", "code 7", "different True"]
    assert done.stderr == ""
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["descriptors"] == []
    assert report["env"] == {"ONLY": "this"}
    assert (tmp_path / "server.log").read_text() == ""
    assert (tmp_path / "leaver.log").read_text() == "a reason\n"


# The frames of the caller must not see an exception.
EXIT_AFTER_OUTPUT = """
import os
from ops.embedded.fork_server import exit_after
try:
    exit_after(lambda: print("output"))
finally:
    os._exit(3)
"""


def test_a_process_whose_output_cannot_be_written_ends_with_the_code_of_an_interpreter() -> None:
    codes = []
    with Path("/dev/full").open("w") as full:
        for program in ('print("output")', EXIT_AFTER_OUTPUT):
            command = [sys.executable, "-Ec", program]
            codes.append(subprocess.run(command, check=False, stdout=full, stderr=subprocess.DEVNULL).returncode)
    assert codes == [120, 120]


async def test_a_killed_fork_server_takes_its_services_along_and_all_are_restarted(tmp_path: Path) -> None:
    (tmp_path / "serving.py").write_text(SERVE)
    names = ("one", "two")
    children = [child(tmp_path, name, argv=("serving", f"{name}.ready"), forked=True) for name in names]
    async with fork_server(tmp_path) as server, Supervisor(lambda _: None, fork_server=server) as supervisor:
        await supervisor.start(*children)
        first = supervisor.pids
        parents = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in first.values()}
        assert len(parents) == 1
        os.kill(parents.pop(), signal.SIGKILL)
        await eventually_async(lambda: all(supervisor.pids[name] != first[name] for name in names))
        assert all(is_running(pid) for pid in supervisor.pids.values())
        last = supervisor.pids
    wait_until_ended([*first.values(), *last.values()])


async def test_a_service_whose_request_was_cancelled_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "serving.py").write_text(SERVE)
    cancelled = child(tmp_path, "cancelled", argv=("serving", "cancelled.ready"), forked=True)
    async with fork_server(tmp_path) as server:
        # The server still imports, so that the request waits.
        request = asyncio.create_task(server.fork(cancelled))
        await eventually_async(cancelled.log.exists)
        request.cancel()
        after = await server.fork(child(tmp_path, "after", argv=("serving", "after.ready"), forked=True))
        running = Path(f"/proc/{after.pid}/task/{after.pid}/children")
        assert running.read_text() == ""
        parent = int(Path(f"/proc/{after.pid}/stat").read_text().rpartition(")")[2].split()[1])
        siblings = Path(f"/proc/{parent}/task/{parent}/children")
        await eventually_async(lambda: siblings.read_text().split() == [str(after.pid)])


@pytest.mark.parametrize("failing", ["fork", "pidfd_open"])
def test_a_fork_that_fails_is_reported_and_the_server_goes_on(
    failing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forked: list[int] = []

    def fork() -> int:
        forked.append(subprocess.Popen(["sleep", "600"]).pid)
        return forked[-1]

    def fail(*_: int) -> int:
        raise OSError(errno.EAGAIN, "nothing left")

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(os, failing, fail)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, ThreadPoolExecutor(1) as threads, (tmp_path / "log").open("w") as log:
        served = threads.submit(serve, theirs)
        for number in range(2):
            request = {"request": number, "name": "one", "argv": ["serving"], "env": {}, "cwd": str(tmp_path)}
            socket.send_fds(ours, [json.dumps(request).encode()], [log.fileno()])
            assert json.loads(ours.recv(4096)) == {"request": number, "errno": errno.EAGAIN}
        ours.shutdown(socket.SHUT_RDWR)
        assert served.result(20) is None
    assert len(forked) == (0 if failing == "fork" else 2)
    wait_until_ended(forked)


def test_only_modules_of_every_service_are_loaded_before_the_fork() -> None:
    code = """
import importlib, json, sys
from ops.embedded.fork_server import PRELOADED
for name in (*PRELOADED, "ops.cli.demo", "ops.cli.up", "ops.embedded.foreground"):
    importlib.import_module(name)
from prometheus_client.metrics import MetricWrapperBase
def metrics_of(*packages):
    modules = [module for name, module in sys.modules.items() if name.startswith(packages)]
    return {id(value) for module in modules for value in vars(module).values() if isinstance(value, MetricWrapperBase)}
shared, loaded = metrics_of("gateway.metrics."), metrics_of("gateway.", "ops.", "authz.", "meter.")
print(json.dumps([len(shared), len(loaded - shared), sorted(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    shared_metrics, other_metrics, modules = json.loads(done.stdout)
    assert shared_metrics > 0
    assert other_metrics == 0
    # A library with threads must not be loaded before a fork, and Alembic's modules would be in each service.
    assert {"grpc", "sqlalchemy", "alembic"}.isdisjoint(modules)
