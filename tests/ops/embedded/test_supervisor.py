"""The supervisor with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ops.embedded.errors import ChildFailed
from ops.embedded.supervised_process import restart_delay_s
from ops.embedded.supervisor import Supervisor
from tests.ops.embedded.children import child, is_running, wait_until_ended
from tests.polling import eventually_async

# Appends its name to the file `ended` when it receives SIGTERM.
RECORD_SIGTERM = """
import pathlib, signal, sys, time
def record(*_):
    with open("ended", "a") as file:
        file.write(NAME + "\\n")
    sys.exit()
signal.signal(signal.SIGTERM, record)
pathlib.Path(NAME + ".ready").touch()
time.sleep(600)
"""
IGNORE_SIGTERM = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(NAME + ".ready").touch()
time.sleep(600)
"""


class Notices(list[str]):
    """Collects the notices to the operator."""

    def __call__(self, line: str) -> None:
        self.append(line)


async def test_a_child_that_exits_is_restarted_with_a_notice(tmp_path: Path) -> None:
    notices = Notices()
    async with Supervisor(notices) as supervisor:
        await supervisor.start(child(tmp_path, "one"))
        first = supervisor.pids["one"]
        os.kill(first, signal.SIGKILL)
        await eventually_async(lambda: supervisor.pids["one"] != first)
        assert is_running(supervisor.pids["one"])
    assert notices == ["one was killed by signal 9; restarting it"]


async def test_the_listener_receives_the_pids_at_once_and_after_every_restart(tmp_path: Path) -> None:
    received: list[Mapping[str, int]] = []
    async with Supervisor(Notices()) as supervisor:
        await supervisor.start(child(tmp_path, "one"))
        supervisor.set_pids_listener(received.append)
        first = supervisor.pids["one"]
        os.kill(first, signal.SIGKILL)
        await eventually_async(lambda: len(received) == 2)
        assert received == [{"one": first}, {"one": supervisor.pids["one"]}]


def test_the_restart_delay_of_short_runs_grows_up_to_a_bound() -> None:
    delays = [restart_delay_s(short_runs) for short_runs in range(1, 50)]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert len(set(delays)) > 3
    assert delays[-1] == delays[-20] <= 30


async def test_stages_are_stopped_in_reverse_order(tmp_path: Path) -> None:
    async with Supervisor(Notices()) as supervisor:
        for name in ("first", "second", "third"):
            await supervisor.start(child(tmp_path, name, RECORD_SIGTERM))
    assert (tmp_path / "ended").read_text().split() == ["third", "second", "first"]


async def test_a_child_that_ignores_its_stop_signal_is_killed_after_its_grace_period(tmp_path: Path) -> None:
    async with Supervisor(Notices()) as supervisor:
        await supervisor.start(child(tmp_path, "stubborn", IGNORE_SIGTERM, stop_grace_s=0.1))
        pid = supervisor.pids["stubborn"]
    assert not is_running(pid)


async def test_a_forced_stop_skips_the_grace_period(tmp_path: Path) -> None:
    force_stop = asyncio.Event()
    async with asyncio.timeout(60):
        async with Supervisor(Notices(), force_stop) as supervisor:
            await supervisor.start(child(tmp_path, "stubborn", IGNORE_SIGTERM, stop_grace_s=3600.0))
            pid = supervisor.pids["stubborn"]
            force_stop.set()
    assert not is_running(pid)


async def test_a_child_is_drained_before_its_stop_signal(tmp_path: Path) -> None:
    async def drain() -> None:
        (tmp_path / "ended").write_text("drained\n")

    async with Supervisor(Notices()) as supervisor:
        await supervisor.start(child(tmp_path, "one", RECORD_SIGTERM, drain=drain))
    assert (tmp_path / "ended").read_text().split() == ["drained", "one"]


async def test_a_child_that_exits_before_it_is_ready_fails_the_start_with_its_last_log_lines(tmp_path: Path) -> None:
    broken = child(tmp_path, "broken", "import sys; print('no such thing', flush=True); sys.exit(3)")
    async with Supervisor(Notices()) as supervisor:
        with pytest.raises(ChildFailed, match="broken exited with 3") as failure:
            await supervisor.start(child(tmp_path, "good"), broken)
        good = supervisor.pids["good"]
    assert failure.value.log_tail == ("no such thing",)
    assert not is_running(good)


async def test_a_child_that_never_becomes_ready_fails_the_start(tmp_path: Path) -> None:
    silent = child(tmp_path, "silent", "import time; time.sleep(600)", start_timeout_s=0.2)
    async with Supervisor(Notices()) as supervisor:
        with pytest.raises(ChildFailed, match="silent did not answer within"):
            await supervisor.start(silent)


async def test_a_child_with_two_start_attempts_may_exit_once_before_it_is_ready(tmp_path: Path) -> None:
    ready_at_second_attempt = """
import pathlib, sys, time
if not pathlib.Path("tried").exists():
    pathlib.Path("tried").touch()
    sys.exit(1)
pathlib.Path(NAME + ".ready").touch()
time.sleep(600)
"""
    async with Supervisor(Notices()) as supervisor:
        await supervisor.start(child(tmp_path, "slow", ready_at_second_attempt, start_attempts=2))
        assert is_running(supervisor.pids["slow"])


async def test_a_missing_program_fails_the_start_and_is_named(tmp_path: Path) -> None:
    async with Supervisor(Notices()) as supervisor:
        with pytest.raises(ChildFailed) as failure:
            await supervisor.start(child(tmp_path, "absent", argv=("/nowhere/program",)))
    assert failure.value.log_tail == ("cannot execute /nowhere/program: No such file or directory",)


async def test_a_child_leads_its_own_session_which_no_terminal_signal_reaches(tmp_path: Path) -> None:
    async with Supervisor(Notices()) as supervisor:
        await supervisor.start(child(tmp_path, "one"))
        pid = supervisor.pids["one"]
        assert os.getsid(pid) == pid != os.getsid(0)


async def test_processes_started_by_a_child_end_with_it(tmp_path: Path) -> None:
    parent = """
import pathlib, subprocess, time
grandchild = subprocess.Popen(["sleep", "600"])
pathlib.Path("grandchild").write_text(str(grandchild.pid))
pathlib.Path(NAME + ".ready").touch()
time.sleep(600)
"""
    async with Supervisor(Notices()) as supervisor:
        await supervisor.start(child(tmp_path, "parent", parent, env={"PATH": os.environ["PATH"]}))
        grandchild = int((tmp_path / "grandchild").read_text())
        assert is_running(grandchild)
    await eventually_async(lambda: not is_running(grandchild))


async def test_logs_are_private_and_appended(tmp_path: Path) -> None:
    (tmp_path / "one.log").write_text("before\n")
    (tmp_path / "one.log").chmod(0o600)
    async with Supervisor(Notices()) as supervisor:
        await supervisor.start(
            child(tmp_path, "one", "print('now', flush=True)\nopen(NAME + '.ready', 'w')\nimport time; time.sleep(600)")
        )
        await supervisor.start(child(tmp_path, "two"))
    assert (tmp_path / "one.log").read_text() == "before\nnow\n"
    assert (tmp_path / "two.log").stat().st_mode & 0o777 == 0o600


SUPERVISE_TWO = """
import asyncio, sys
from pathlib import Path
from tests.ops.embedded.children import child
from ops.embedded.supervisor import Supervisor

async def main():
    async with Supervisor(print) as supervisor:
        await supervisor.start(*(child(Path.cwd(), name) for name in ("one", "two")))
        print(*supervisor.pids.values(), flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE_TWO],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )
    with supervisor:
        assert supervisor.stdout is not None
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
        supervisor.kill()
    wait_until_ended(pids)
