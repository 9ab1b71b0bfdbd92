"""create-key, list-keys, revoke-key, rotate-key."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import rich_click as click

from authz.keys.hashing import KeyHasher
from authz.keys.key_format import ApiKey, generate
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.values import Priority, Scope
from ops.cli.client_address import client_address
from ops.cli.confirmation import confirm, yes_option
from ops.cli.key_list import KeyPolicies, key_document, print_keys
from ops.cli.key_option import key_options, resolve_prefix
from ops.cli.output import iso, print_json, text
from ops.cli.parameters import (
    Clear,
    Duration,
    Name,
    Scopes,
    Timestamp,
    json_option,
    limit_options,
    policy_change,
    priority_option,
)
from ops.cli.session import Session, pass_session
from ops.cli.table import wide_option
from ops.database.effective import read_key_policies
from ops.database.tenants import Key, NewKey, TenantRepository
from ops.host.client_environment import environment

_SCOPES_HELP = f"What the key may do, separated by commas: {', '.join(Scope)}."


@click.command("create-key")
@click.option("--tenant", type=Name(), required=True, help="The tenant that owns the key.")
@click.option("--name", type=Name(), required=True, help="Name of the key, unique within the tenant.")
@click.option("--scopes", type=Scopes(), default="chat,embeddings", show_default=True, help=_SCOPES_HELP)
@click.option("--expires", type=Timestamp(future=True), help="Expiry: 90d, 12h, 2w or a date. Default: never.")
@click.option("--log-prompts", is_flag=True, help="Record the prompts and answers of this key in the prompt log.")
@limit_options()
@priority_option(default=Priority.INTERACTIVE.value)
@json_option
@pass_session
def create_key(
    session: Session,
    /,
    tenant: str,
    name: str,
    scopes: list[str],
    expires: datetime | None,
    log_prompts: bool,
    priority: str,
    as_json: bool,
    **limits: int | Clear | None,
) -> None:
    """Create a key and print it, once. Limits that are not given are those of the tenant."""

    async def create(database: Database) -> tuple[ApiKey, Key]:
        key = generate()
        stored = await TenantRepository(database).create_key(
            tenant,
            name,
            await _hashed(session.settings, key),
            scopes=scopes,
            expires_at=expires,
            log_prompts=log_prompts,
            priority=Priority(priority),
            policy=policy_change(**limits),
        )
        return key, stored

    key, stored = session.run(create)
    if as_json:
        return print_json(_new_key(key, stored))
    return _print_new_key(session, key, stored)


@click.command("list-keys")
@click.option("--tenant", type=Name(), help="Only the keys of this tenant.")
@wide_option
@json_option
@pass_session
def list_keys(session: Session, tenant: str | None, wide: bool, as_json: bool) -> None:
    """List keys by prefix; --wide adds the limits, budgets and models in force. Whole keys are not stored."""

    async def read(database: Database) -> tuple[list[Key], KeyPolicies]:
        return await TenantRepository(database).list_keys(tenant), await read_key_policies(database)

    keys, policies = session.run(read)
    if as_json:
        return print_json([key_document(key, policies[key.prefix], session.settings) for key in keys])
    return print_keys(keys, policies, session.settings, wide=wide)


@click.command("revoke-key")
@key_options
@click.option("--reason", default="", metavar="TEXT", help="The reason, stored with the key.")
@yes_option
@json_option
@pass_session
def revoke_key(session: Session, prefix: str, tenant: str | None, reason: str, yes: bool, as_json: bool) -> None:
    """Revoke a key permanently. Every gateway process denies it within a second."""
    prefix = resolve_prefix(session, prefix, tenant)
    confirm(f"Revoke the key {prefix} permanently?", yes=yes)
    new = session.run(lambda database: TenantRepository(database).revoke_key(prefix, reason[:500]))
    if as_json:
        return print_json({"prefix": prefix, "status": "revoked"})
    return click.echo(f"the key {prefix} is revoked" if new else f"the key {prefix} was already revoked")


@click.command("rotate-key")
@key_options
@click.option(
    "--grace",
    type=Duration(),
    default="24h",
    show_default=True,
    help="How long the old key remains valid; 0 revokes it at once.",
)
@json_option
@pass_session
def rotate_key(session: Session, prefix: str, tenant: str | None, grace: timedelta, as_json: bool) -> None:
    """Replace the secret of a key, and print the new key, once. Limits, budgets and their usage continue."""
    prefix = resolve_prefix(session, prefix, tenant)

    async def rotate(database: Database) -> tuple[ApiKey, Key, Key]:
        key = generate()
        return key, *await TenantRepository(database).rotate_key(prefix, await _hashed(session.settings, key), grace)

    key, new, old = session.run(rotate)
    if as_json:
        return print_json({**_new_key(key, new), "replaces": old.prefix, "replaced_expires_at": iso(old.expires_at)})
    _print_new_key(session, key, new)
    status = "is revoked" if old.status == "revoked" else f"is valid until {text(old.expires_at)} UTC"
    return click.echo(f"the key {old.prefix} {status}")


async def _hashed(settings: Settings, key: ApiKey) -> NewKey:
    hasher = KeyHasher.from_settings(settings)
    try:
        return NewKey(key.prefix, await hasher.hash(key.secret))
    finally:
        hasher.close()


def _new_key(key: ApiKey, stored: Key) -> dict[str, Any]:
    return {
        "key": key.secret.get_secret_value(),
        "prefix": stored.prefix,
        "tenant": stored.tenant,
        "name": stored.name,
        "scopes": stored.scopes,
        "expires_at": iso(stored.expires_at),
    }


def _print_new_key(session: Session, key: ApiKey, stored: Key) -> None:
    expiry = f"expires {text(stored.expires_at)} UTC" if stored.expires_at else "never expires"
    click.echo(f"the key {stored.name} of {stored.tenant}; scopes {text(stored.scopes)}; {expiry}")
    click.echo("copy it now; it cannot be shown again\n")
    address = client_address(session)
    click.echo(environment(address.url, key.secret.get_secret_value()) + "\n")
    for note in address.notes:
        click.echo(f"note: {note}")
