"""verify-audit and export-checkpoint."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import rich_click as click

from gateway.errors import NotFound
from ops.checkpoint import checkpoint as checkpoints
from ops.checkpoint import key_file
from ops.checkpoint.signed_note import PublicKey
from ops.cli.output import print_json
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.database.audit_chain import AuditChain
from ops.database.audit_tree import AuditLogChanged
from ops.host.atomic_write import write_atomically


def _head(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, str] | None:
    if value is None:
        return None
    if not (match := re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", value.strip().lower())):
        raise click.BadParameter("expected LINK:HASH, as verify-audit prints it")
    return int(match[1]), match[2]


@click.command("verify-audit")
@click.option(
    "--head",
    metavar="LINK:HASH",
    callback=_head,
    help="A head that an earlier run printed; it must still be in the chain.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Verify the last checkpoint in this file, and start with its link. Rows before it are not read.",
)
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The file with the public key that export-checkpoint printed. Required with --checkpoint.",
)
@json_option
@pass_session
def verify_audit(
    session: Session,
    head: tuple[int, str] | None,
    checkpoint: Path | None,
    public_key: Path | None,
    as_json: bool,
) -> None:
    """Verify that no audit row or policy change was changed, removed or inserted. Exit code 1 if one was.

    Anyone who can change the whole database can also write a whole new chain. Store a checkpoint or the printed head in
    another place from time to time, and pass it to --checkpoint or --head later.
    """
    if (checkpoint is None) != (public_key is None):
        raise click.UsageError("--checkpoint and --public-key belong together")
    start = None
    if checkpoint and public_key:
        noted = checkpoints.opened(checkpoints.last_of(_text_of(checkpoint)), PublicKey.from_text(_text_of(public_key)))
        start = noted.link, noted.hash
    retained_since = datetime.now(UTC) - timedelta(days=session.settings.audit_log_default_retention_days)
    report = session.run(lambda database: AuditChain(database).verify(retained_since, head, start))
    newest = f"{report.head.link}:{report.head.hash}" if report.head else None
    if as_json:
        unsealed = {"unsealed_rows": report.unsealed.rows, "unsealed_since": report.unsealed.since}
        print_json(
            {
                "start": start[0] if start else None,
                "links": report.links,
                "rows": report.rows,
                "changes": report.changes,
                "head": newest,
                **unsealed,
                "problems": report.problems,
            }
        )
    else:
        since = f" from the checkpoint at link {start[0]}" if start else ""
        counted = f"{report.rows} rows and {report.changes} policy changes in {report.links} links"
        click.echo(f"{counted}{since}; head {newest or 'none'}")
        if report.unsealed.since:
            click.echo(_unsealed_sentence(report.unsealed.rows, report.unsealed.since))
    if report.problems:
        raise AuditLogChanged("the audit log was tampered with: " + "; ".join(report.problems))


@click.command("export-checkpoint")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file with the private key, of mode 0600. It does not belong on the machine of the database.",
)
@click.option("--new-key", is_flag=True, help="Create the key file if it does not exist.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the checkpoint to this file. Default: print it, and the public key to stderr.",
)
@json_option
@pass_session
def export_checkpoint(session: Session, key: Path, new_key: bool, out: Path | None, as_json: bool) -> None:
    """Sign the last link of the audit chain with Ed25519, as a note for verify-audit --checkpoint.

    Store the checkpoint and the printed public key where those who can change the database cannot change them.
    """
    private_key = key_file.read_or_create(key, checkpoints.ORIGIN) if new_key else key_file.read(key)
    public_key = private_key.public.text
    head = session.run(lambda database: AuditChain(database).head())
    if head is None:
        raise NotFound(
            "the audit chain has no link yet; control creates the first one within a minute of the first row"
        )
    note = checkpoints.signed(head, private_key)
    if out:
        write_atomically(out, note.encode())
    if as_json:
        return print_json(
            {
                "link": head.link,
                "hash": head.hash,
                "rows": head.rows_total,
                "sealed_at": head.sealed_at,
                "public_key": public_key,
                "checkpoint": note,
            }
        )
    if out:
        return click.echo(f"wrote link {head.link} to {out}; public key {public_key}")
    click.echo(f"public key {public_key}", err=True)
    return click.echo(note, nl=False)


def _unsealed_sentence(rows: int, since: datetime) -> str:
    counted = "1 row" if rows == 1 else f"{rows} rows"
    return f"{counted} since {since:%Y-%m-%d %H:%M:%SZ} {'is' if rows == 1 else 'are'} not sealed yet"


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
