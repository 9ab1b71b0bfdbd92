"""show-prompts."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import rich_click as click

from gateway.record.encrypted_transcript import read_private_keys
from gateway.settings import INTEGER_MAX
from ops.cli.key_option import PREFIX_HELP, resolve_optional
from ops.cli.output import print_json, text
from ops.cli.parameters import Name, Number, Prefix, Timestamp, json_option
from ops.cli.session import Session, pass_session
from ops.cli.table import print_record
from ops.database.prompts import logged_prompts

# Characters of a request and of an answer that the text output shows without --full.
SHOWN_CHARACTERS = 2000


@click.command("show-prompts")
@click.option("--request-id", metavar="ID", help="The request with this X-Request-ID.")
@click.option("--prefix", type=Prefix(), help=f"Requests of this key. {PREFIX_HELP}")
@click.option("--tenant", type=Name(), help="The tenant of the key, if --prefix is a name.")
@click.option(
    "--since",
    type=Timestamp(future=False),
    help="Only requests since then: a duration before now, or a date. Default: all that are retained.",
)
@click.option(
    "--limit", type=Number(1, INTEGER_MAX), default=10, show_default=True, help="Show at most N requests, the newest."
)
@click.option("--full", is_flag=True, help=f"Show whole texts instead of their first {SHOWN_CHARACTERS:,} characters.")
@click.option(
    "--key-file",
    "key_files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Decrypt with this private key (PEM, X25519). Repeat it for rows that were encrypted to different keys.",
)
@json_option
@pass_session
def show_prompts(
    session: Session,
    request_id: str | None,
    prefix: str | None,
    tenant: str | None,
    since: datetime | None,
    limit: int,
    full: bool,
    key_files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show requests and answers from the prompt log, oldest first. Only keys with --log-prompts have any."""
    if request_id is None and prefix is None:
        raise click.UsageError("give --request-id, or --prefix for a key")
    prefix = resolve_optional(session, prefix, tenant)
    keys = read_private_keys(*key_files)
    prompts = session.run(
        lambda database: logged_prompts(
            database, request_id=request_id, prefix=prefix, since=since, limit=limit, keys=keys
        ),
        report=True,
    )
    if as_json:
        return print_json([asdict(prompt) for prompt in prompts])
    if not prompts:
        return click.echo("no matching prompts; only keys with --log-prompts record them, and only until they expire")
    for prompt in prompts:
        print_record(
            [
                ("request", prompt.request_id),
                ("time", f"{text(prompt.ts)} UTC"),
                ("key", f"{text(prompt.prefix)} of {text(prompt.tenant)}"),
                ("model", prompt.model),
                ("expires", f"{text(prompt.expires_at)} UTC"),
            ]
        )
        if prompt.request is None or prompt.response is None:
            click.echo(f"\nencrypted to the key {prompt.encrypted_to}; --key-file decrypts it\n")
            continue
        click.echo(f"\n{_shown(prompt.request, full=full)}\n\n{_shown(prompt.response, full=full)}\n")
    return None


def _shown(whole: str, *, full: bool) -> str:
    """The beginning of a text, or all of it. Characters that a terminal would interpret are escaped."""
    shown = whole if full else whole[:SHOWN_CHARACTERS]
    lines = "\n".join(text(line) for line in shown.split("\n"))
    rest = len(whole) - len(shown)
    return f"{lines}\n… {rest:,} more characters; --full shows them" if rest else lines
