from __future__ import annotations

import asyncio
import shlex
import sys
import time
from pathlib import Path

import pytest

from gateway.errors import SettingsError
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.checkpoint import checkpoint, key_file
from ops.checkpoint.signed_note import PrivateKey
from ops.control.checkpoints import CheckpointFailed, Checkpoints, Destination
from ops.control.metrics import CHECKPOINT_FAILURES
from ops.database.audit_chain import AuditChain
from ops.database.audit_seal import AuditSealer
from ops.database.checkpoints import CheckpointStore
from tests.row_builders import entry

KEY = PrivateKey.generate(checkpoint.ORIGIN)
NOW_S = 1e-6


async def seal(database: Database, *ids: str) -> None:
    await Ledger(database).append([entry(each) for each in ids])
    await AuditSealer(database, link_every_s=0).seal()


def job(database: Database, destination: Destination, interval_s: float = NOW_S) -> Checkpoints:
    return Checkpoints(database, KEY, destination, interval_s)


def failures() -> float:
    return float(CHECKPOINT_FAILURES._value.get())


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


async def test_each_checkpoint_is_appended_and_the_last_one_is_the_head(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints"
    due = job(database, Destination(file))
    await due.step()
    assert not file.exists()
    for number in range(3):
        await seal(database, f"r{number}")
        await due.step()
        # An idle log adds no note.
        await due.step()
    text = file.read_text()
    assert text.count(f"{checkpoint.ORIGIN}\n") == 3
    last = checkpoint.last_of(text)
    assert checkpoint.opened(last, KEY.public) == await AuditChain(database).head()
    assert await CheckpointStore(database).last() == last


async def test_one_of_many_processes_delivers_and_not_before_the_interval(database: Database, tmp_path: Path) -> None:
    await seal(database, "a")
    file = tmp_path / "checkpoints"
    jobs = [job(database, Destination(file), 3600) for _ in range(8)]
    await asyncio.gather(*(each.step() for each in jobs))
    await seal(database, "b")
    await asyncio.gather(*(each.step() for each in jobs))
    assert file.read_text().count(f"{checkpoint.ORIGIN}\n") == 1


async def test_a_command_reads_the_note_and_a_failure_is_counted_and_retried(
    database: Database, tmp_path: Path
) -> None:
    await seal(database, "a")
    before, out = failures(), tmp_path / "out"
    for command, message in (
        (python("import sys; sys.exit('no space')"), "ended with 1: no space"),
        (("/nonexistent",), "No such file"),
    ):
        with pytest.raises(CheckpointFailed, match=message):
            await job(database, Destination(command=command)).step()
    with pytest.raises(CheckpointFailed, match="No such file"):
        await job(database, Destination(tmp_path / "missing" / "file")).step()
    assert failures() == before + 3
    copy = python(f"import sys; open({str(out)!r}, 'w').write(sys.stdin.read())")
    await job(database, Destination(command=copy)).step()
    assert checkpoint.opened(out.read_text(), KEY.public) == await AuditChain(database).head()


async def test_a_command_that_hangs_is_ended_with_its_children(database: Database, tmp_path: Path) -> None:
    await seal(database, "a")
    started = tmp_path / "pid"
    hang = python(
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"open({str(started)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    with pytest.raises(CheckpointFailed, match="did not end within 2 s"):
        await job(database, Destination(command=hang, deadline_s=2.0)).step()
    status = Path(f"/proc/{started.read_text()}/status")
    deadline = time.monotonic() + 5
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_log_that_lost_the_last_checkpoint_is_not_signed(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints"
    await seal(database, "a")
    await job(database, Destination(file)).step()
    signed = file.read_text()
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("DELETE FROM gateway.audit_log")
        await connection.execute("DELETE FROM gateway.audit_chain")
        # The copy in the database is not what counts.
        await connection.execute("UPDATE gateway.audit_checkpoint SET note = NULL")
    await seal(database, "forged")
    with pytest.raises(CheckpointFailed, match="no longer contains link 1"):
        await job(database, Destination(file)).step()
    assert file.read_text() == signed


def test_the_job_follows_the_settings(tmp_path: Path) -> None:
    database = Database(Settings())
    assert Checkpoints.of(Settings(), database) is None
    key, file = tmp_path / "key", tmp_path / "file"
    settings = Settings.model_validate({"checkpoint_key_file": key, "checkpoint_file": file})
    with pytest.raises(SettingsError, match="no key file"):
        Checkpoints.of(settings, database)
    key_file.read_or_create(key, checkpoint.ORIGIN)
    assert Checkpoints.of(settings, database) is not None
    for wrong in ({"checkpoint_key_file": key}, {"checkpoint_command": shlex.join(["cp", "x"])}):
        with pytest.raises(ValueError, match="CHECKPOINT_KEY_FILE with CHECKPOINT_FILE"):
            Settings.model_validate(wrong)
    with pytest.raises(ValueError, match="No closing quotation"):
        Settings.model_validate({"checkpoint_key_file": key, "checkpoint_command": "a '"})
