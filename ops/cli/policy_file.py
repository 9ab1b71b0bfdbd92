"""export and apply: tenants, keys and policies as a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

import rich_click as click

from authz.keys.hashing import KeyHasher
from authz.keys.key_format import ApiKey, generate
from gateway.stores.postgres import Database
from ops.cli.confirmation import confirm, yes_option
from ops.cli.output import print_json, text
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.database.policy_difference import Difference, differences
from ops.database.policy_file import PolicyFile, dump, load
from ops.database.policy_store import apply_file, stored_policies
from ops.database.tenants import NewKey


@click.command("export")
@json_option
@pass_session
def export(session: Session, as_json: bool) -> None:
    """Print all tenants with their keys, limits, budgets and models as YAML for `apply`. It holds no secret.

    Revoked keys and keys that rotation replaced are left out.
    """
    file = session.run(stored_policies).file
    return print_json(file.model_dump(mode="json")) if as_json else click.echo(dump(file), nl=False)


@click.command("apply")
@click.option(
    "-f", "--file", "source", type=click.File("r", encoding="utf-8"), required=True, help="The file; `-` is stdin."
)
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@yes_option
@json_option
@pass_session
def apply(session: Session, source: TextIO, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make tenants, keys and policies as a file states them, all or nothing, and show the difference.

    A value that is absent is set to its default. Tenants and keys that the file does not name stay as they are; nothing
    is deleted. A key that does not exist is created with a new secret, which is printed once.
    """
    file = load(source.read())

    async def compare(database: Database) -> list[Difference]:
        stored = await stored_policies(database)
        return differences(stored.file, file, stored.unusable)

    found = session.run(compare)
    if not as_json:
        for each in found:
            click.echo(_sentence(each))
        if not found:
            click.echo("nothing differs")
    keys: dict[tuple[str, str], ApiKey] = {}
    if found and not dry_run:
        confirm("Apply these changes?", yes=yes)
        created = [each for each in found if each.subject == "key" and each.action == "create"]
        keys = {(each.tenant, each.name): generate(each.prefix) for each in created}
        session.run(lambda database: _apply(session, database, file, found, keys))
    if as_json:
        return print_json({"differences": [_document(each) for each in found], "applied": not dry_run, **_new(keys)})
    if keys:
        click.echo("\ncopy the new keys now; they cannot be shown again")
    for (tenant, name), key in keys.items():
        click.echo(f"{name} of {tenant}: {key.secret.get_secret_value()}")
    return None


async def _apply(
    session: Session,
    database: Database,
    file: PolicyFile,
    found: Sequence[Difference],
    keys: dict[tuple[str, str], ApiKey],
) -> None:
    hasher = KeyHasher.from_settings(session.settings)
    try:
        hashed = {place: NewKey(key.prefix, await hasher.hash(key.secret)) for place, key in keys.items()}
    finally:
        hasher.close()
    await apply_file(database, file, found, hashed)


def _new(keys: dict[tuple[str, str], ApiKey]) -> dict[str, Any]:
    return {
        "keys": [
            {"tenant": tenant, "name": name, "prefix": key.prefix, "key": key.secret.get_secret_value()}
            for (tenant, name), key in keys.items()
        ]
    }


def _document(each: Difference) -> dict[str, Any]:
    return {
        "action": each.action,
        "subject": each.subject,
        "tenant": each.tenant,
        "name": each.name,
        "prefix": each.prefix,
        "before": {field: before for field, (before, _) in each.fields.items()},
        "after": {field: after for field, (_, after) in each.fields.items()},
    }


def _sentence(each: Difference) -> str:
    """`~ tenant acme: rpm 60 → 120`, or `+ key laptop of acme: scopes chat`."""
    subject = f"tenant {each.tenant}" if each.subject == "tenant" else f"key {each.name} of {each.tenant}"
    if each.action == "create":
        given = {field: after for field, (_, after) in each.fields.items() if after and field != "name"}
        return f"+ {subject}: " + ", ".join(f"{field} {text(after)}" for field, after in given.items())
    changed = [f"{field} {text(before)} → {text(after)}" for field, (before, after) in each.fields.items()]
    return f"~ {subject}: " + ", ".join(changed)
