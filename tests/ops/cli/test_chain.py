from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from gateway.ledger.store import Ledger
from gateway.settings import load
from gateway.stores.postgres import Database
from ops.database.audit_seal import AuditSealer
from tests.ops.cli.conftest import Operator
from tests.row_builders import entry


def append(operator: Operator, *ids: str, seal: bool = True) -> None:
    async def run() -> None:
        database = Database(load(operator.env_file))
        await Ledger(database).append([entry(each) for each in ids])
        if seal:
            await AuditSealer(database, link_every_s=0).seal()
        await database.close()

    asyncio.run(run())


def tamper(operator: Operator, statement: str) -> None:
    async def run() -> None:
        database = Database(load(operator.env_file))
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(statement)
        await database.close()

    asyncio.run(run())


@pytest.fixture
def checkpoint(operator: Operator, tmp_path: Path) -> tuple[str, ...]:
    """The options of verify-audit for a checkpoint at link 2 of 3."""
    append(operator, "a")
    append(operator, "b", "c")
    files = tmp_path / "checkpoint", tmp_path / "public"
    exported = operator.reads("export-checkpoint", "--key", str(tmp_path / "key"), "--new-key", "--out", str(files[0]))
    assert (exported["link"], exported["rows"]) == (2, 3)
    assert files[0].read_text() == exported["checkpoint"]
    files[1].write_text(exported["public_key"])
    append(operator, "d")
    return "--checkpoint", str(files[0]), "--public-key", str(files[1])


def test_verification_starts_at_the_checkpoint(operator: Operator, checkpoint: tuple[str, ...]) -> None:
    append(operator, "e", seal=False)
    whole, later = operator.reads("verify-audit"), operator.reads("verify-audit", *checkpoint)
    assert (whole["start"], whole["links"], whole["rows"], whole["unsealed_rows"]) == (None, 3, 4, 1)
    assert (later["start"], later["links"], later["rows"], later["unsealed_rows"]) == (2, 2, 3, 1)
    assert later["head"] == whole["head"]
    text = operator.does("verify-audit", *checkpoint, "--head", whole["head"])
    assert text.startswith("3 rows and 0 policy changes in 2 links from the checkpoint at link 2; head 3:")
    assert "1 row since 2026-05-17 12:00:00Z is not sealed yet" in text


def test_a_chain_that_was_cut_and_sealed_again_is_reported(operator: Operator, checkpoint: tuple[str, ...]) -> None:
    tamper(operator, "DELETE FROM gateway.audit_chain WHERE link > 1")
    append(operator, "f")
    assert operator.reads("verify-audit")["problems"] == []
    result = operator.run("verify-audit", *checkpoint)
    assert result.exit_code == 1
    assert "link 2 differs from the noted one" in result.stderr


def test_a_changed_checkpoint_or_another_key_is_refused(
    operator: Operator, checkpoint: tuple[str, ...], tmp_path: Path
) -> None:
    note = tmp_path / "checkpoint"
    note.write_text(note.read_text().replace("link 2", "link 3"))
    assert "signature does not match" in operator.fails("verify-audit", *checkpoint)
    other = operator.reads("export-checkpoint", "--key", str(tmp_path / "other"), "--new-key")
    note.write_text(other["checkpoint"])
    assert "has not signed" in operator.fails("verify-audit", *checkpoint)
    assert "belong together" in operator.misuses("verify-audit", *checkpoint[:2])


def test_a_checkpoint_is_printed_alone_on_stdout(operator: Operator, tmp_path: Path) -> None:
    key = ("--key", str(tmp_path / "key"))
    assert "--new-key creates it" in operator.fails("export-checkpoint", *key)
    assert "no link yet" in operator.fails("export-checkpoint", *key, "--new-key")
    append(operator, "a")
    result = operator.run("export-checkpoint", *key)
    assert re.match(r"neuronetz-gateway/audit-chain\n1\n\S{44}\nlink 1\n", result.stdout)
    assert result.stderr.startswith("public key neuronetz-gateway/audit-chain+")
    assert operator.does("export-checkpoint", *key, "--out", str(tmp_path / "out")).startswith("wrote link 1 to ")
    assert (tmp_path / "out").read_text() == result.stdout
