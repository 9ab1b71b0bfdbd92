"""add-identity and remove-identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from gateway.request.ssh_public_key import SshPublicKey, parse_line
from ops.cli.key_option import key_options, resolve_prefix
from ops.cli.output import print_json
from ops.cli.parameters import LiteralMetavar, json_option
from ops.cli.session import Session, pass_session
from ops.database import identities

_LINE_BYTES_MAX = 4096


class _PublicKey(LiteralMetavar[str]):
    """The line of a public key, or the file that holds it. The command reads it, see `_read`."""

    name = "FILE|STRING"


def _read(value: str) -> SshPublicKey:
    """The key in a line or a file. Raises BadParameter, which does not repeat what was given."""
    fields = value.split(None, 2)
    try:
        is_line = len(fields) > 1 and fields[1].startswith("AAAA")
        return parse_line(value if is_line else _content(Path(value).expanduser()))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--public-key") from None


def _content(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_LINE_BYTES_MAX)
    except OSError as error:
        raise ValueError(f"cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("the file is not text") from None


def _public_key_option(function: Any) -> Any:
    text = "The public key: `~/.ollama/id_ed25519.pub`, or the line in it."
    return click.option("--public-key", "public_key", type=_PublicKey(), required=True, help=text)(function)


@click.command("add-identity")
@key_options
@_public_key_option
@json_option
@pass_session
def add_identity(session: Session, prefix: str, tenant: str | None, public_key: str, as_json: bool) -> None:
    """Let an Ollama installation sign in as the account of a key, with OLLAMA_AUTH=1 and its own public key.

    Outside loopback this requires TLS, because the signature does not cover the body of a request.
    """
    key = _read(public_key)
    prefix = resolve_prefix(session, prefix, tenant)
    added = session.run(lambda database: identities.add_identity(database, prefix, key))
    if as_json:
        return print_json(_document(prefix, key))
    state = "is now an identity" if added else "was already an identity"
    return click.echo(f"{key.fingerprint} {state} of the key {prefix}")


@click.command("remove-identity")
@key_options
@_public_key_option
@json_option
@pass_session
def remove_identity(session: Session, prefix: str, tenant: str | None, public_key: str, as_json: bool) -> None:
    """Remove an identity of a key. Every gateway process refuses it within a second; the key stays valid."""
    key = _read(public_key)
    prefix = resolve_prefix(session, prefix, tenant)
    session.run(lambda database: identities.remove_identity(database, prefix, key))
    if as_json:
        return print_json(_document(prefix, key))
    return click.echo(f"{key.fingerprint} is no longer an identity of the key {prefix}")


def _document(prefix: str, key: SshPublicKey) -> dict[str, str]:
    return {"prefix": prefix, "fingerprint": key.fingerprint, "comment": key.comment}
