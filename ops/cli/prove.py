"""prove."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from gateway.errors import NotFound
from gateway.stores.postgres import Database
from ops.checkpoint import checkpoint as checkpoints
from ops.checkpoint.inclusion import proof_json
from ops.cli.output import print_json
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.database.audit_tree import AuditTree
from ops.database.checkpoints import CheckpointStore
from ops.host.atomic_write import write_atomically


@click.command("prove")
@click.option("--request-id", required=True, metavar="ID", help="The X-Request-ID of the request.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Prove it against the last checkpoint in this file. Default: the last one that control signed.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the proof to this file. Default: print it."
)
@json_option
@pass_session
def prove(session: Session, request_id: str, checkpoint: Path | None, out: Path | None, as_json: bool) -> None:
    """Prove that the audit row of a request is in the log of a signed checkpoint, as JSON.

    verify_proof.py (ops/checkpoint in the source) verifies it offline, with nothing but Python and the public key.
    """
    note = checkpoints.last_of(checkpoint.read_text("utf-8", "replace")) if checkpoint else None
    text = session.run(lambda database: _prove(database, request_id, note))
    if out is None:
        click.echo(text, nl=False)
        return
    write_atomically(out, text.encode())
    if as_json:
        print_json({"request_id": request_id, "out": out})
    else:
        click.echo(f"wrote the proof of {request_id} to {out}")


async def _prove(database: Database, request_id: str, note: str | None) -> str:
    note = note or await CheckpointStore(database).last()
    if note is None:
        raise NotFound("control has not signed a checkpoint yet; set CHECKPOINT_KEY_FILE, or use export-checkpoint")
    head = checkpoints.parsed(note.rpartition("\n\n")[0] + "\n")
    return proof_json(await AuditTree(database).prove(request_id, head), note)
