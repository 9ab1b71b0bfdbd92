"""`prove` makes a proof that verify_proof.py, run by a Python without any package, accepts offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ops.checkpoint import verify_proof
from tests.ops.cli.conftest import Operator
from tests.ops.cli.test_chain import append, tamper

PROOF_BYTES_MAX = 2048


@pytest.fixture
def checkpoint(operator: Operator, tmp_path: Path) -> Path:
    """A checkpoint of a log of 601 requests in three links, and the public key in `public`."""
    append(operator, *(f"a{number}" for number in range(300)))
    append(operator, "b")
    append(operator, *(f"c{number}" for number in range(300)))
    path = tmp_path / "checkpoint"
    exported = operator.reads("export-checkpoint", "--key", str(tmp_path / "key"), "--new-key", "--out", str(path))
    (tmp_path / "public").write_text(exported["public_key"])
    append(operator, "late")
    return path


def verify(proof: Path, public_key: Path) -> subprocess.CompletedProcess[str]:
    """Runs the script without site-packages and without this project on the path."""
    command = [
        sys.executable,
        "-I",
        "-S",
        str(Path(verify_proof.__file__)),
        str(proof),
        "--public-key",
        str(public_key),
    ]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("request_id", ["a0", "a255", "a299", "b", "c0", "c212", "c299"])
def test_a_proof_is_small_and_verified_offline(
    operator: Operator, checkpoint: Path, tmp_path: Path, request_id: str
) -> None:
    out = tmp_path / "proof.json"
    text = operator.does("prove", "--request-id", request_id, "--checkpoint", str(checkpoint), "--out", str(out))
    assert text == f"wrote the proof of {request_id} to {out}\n"
    assert out.stat().st_size <= PROOF_BYTES_MAX
    verified = verify(out, tmp_path / "public")
    assert (verified.returncode, verified.stderr) == (0, "")
    (row,) = operator.reads("show-audit", "--request-id", request_id)
    for name in ("request_id", "tenant", "model", "code", "outcome", "input_tokens", "user_agent"):
        shown = f"{name}: {row[name]}\n"
        assert (shown in verified.stdout) == (row[name] is not None), (name, verified.stdout)
    assert checkpoint.read_text().partition("\n\n")[0] in verified.stdout


def test_a_changed_proof_and_another_key_are_rejected(operator: Operator, checkpoint: Path, tmp_path: Path) -> None:
    out, public = tmp_path / "proof.json", tmp_path / "public"
    operator.does("prove", "--request-id", "b", "--checkpoint", str(checkpoint), "--out", str(out))
    proof = json.loads(out.read_text())

    def rejected(**changed: object) -> str:
        out.write_text(json.dumps({**proof, **changed}))
        verified = verify(out, public)
        assert (verified.returncode, verified.stdout) == (1, "")
        return verified.stderr

    note = proof["checkpoint"]
    assert "not in the log" in rejected(row=proof["row"].replace("acme", "evil"))
    assert "not in the log" in rejected(index=proof["index"] + 1)
    assert "not in the tree" in rejected(index=601)
    assert "too short" in rejected(path=proof["path"][:-44])
    assert "too long" in rejected(path=proof["path"] + proof["path"][:44])
    assert "no valid signature" in rejected(checkpoint=note.replace("601", "602", 1))
    assert "no valid signature" in rejected(checkpoint=note[:-9] + "AAAAAAA=\n")
    assert "cannot be read" in rejected(checkpoint=None)
    other = operator.reads("export-checkpoint", "--key", str(tmp_path / "other"), "--new-key")
    public.write_text(other["public_key"])
    assert "no valid signature" in rejected()


def test_a_row_that_the_checkpoint_does_not_have_is_reported(
    operator: Operator, checkpoint: Path, tmp_path: Path
) -> None:
    append(operator, "unsealed", seal=False)
    proof = ("prove", "--checkpoint", str(checkpoint), "--request-id")
    assert "no audit row" in operator.fails(*proof, "nothing")
    assert "not sealed yet" in operator.fails(*proof, "unsealed")
    assert "after the checkpoint" in operator.fails(*proof, "late")
    assert "CHECKPOINT_KEY_FILE" in operator.fails("prove", "--request-id", "b")


def test_a_row_of_a_changed_log_is_not_proved(operator: Operator, checkpoint: Path) -> None:
    proof = ("prove", "--checkpoint", str(checkpoint), "--request-id", "c100")
    tamper(operator, "UPDATE gateway.audit_log SET output_tokens = 0 WHERE request_id = 'c10'")
    assert "not the one of the checkpoint" in operator.fails(*proof)
    tamper(operator, "DELETE FROM gateway.audit_log WHERE request_id = 'c10'")
    assert "were pruned" in operator.fails(*proof)
