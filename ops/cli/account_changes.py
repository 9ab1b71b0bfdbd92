"""rename-tenant, delete-tenant and set-key."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import rich_click as click

from gateway.stores.postgres import Database
from gateway.values import Scope
from ops.cli.confirmation import confirm, yes_option
from ops.cli.key_list import KeyPolicies, key_document
from ops.cli.key_option import key_options, resolve_prefix
from ops.cli.output import print_json, text
from ops.cli.parameters import Clear, Name, Scopes, Timestamp, json_option, priority_option
from ops.cli.session import Session, pass_session
from ops.database import account_changes
from ops.database.effective import read_key_policies
from ops.database.tenants import Key, TenantRepository


class Expiry(Timestamp):
    """A time in the future, or `never`."""

    name = "90d|DATE|never"

    def __init__(self) -> None:
        super().__init__(future=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return Clear.CLEAR if str(value).strip().lower() == "never" else super().convert(value, param, ctx)


@click.command("rename-tenant")
@click.option("--name", type=Name(), required=True, help="Name of the tenant; letter case is ignored.")
@click.option("--new-name", type=Name(), required=True, help="Its new name.")
@json_option
@pass_session
def rename_tenant(session: Session, name: str, new_name: str, as_json: bool) -> None:
    """Rename a tenant. Its keys, limits and budgets stay; audit rows retain the name that it had."""
    session.run(lambda database: account_changes.rename_tenant(database, name, new_name))
    if as_json:
        return print_json({"name": new_name, "before": name})
    return click.echo(f"the tenant {name} is now named {new_name}")


@click.command("delete-tenant")
@click.option("--name", type=Name(), required=True, help="Name of the tenant; letter case is ignored.")
@yes_option
@json_option
@pass_session
def delete_tenant(session: Session, name: str, yes: bool, as_json: bool) -> None:
    """Delete a disabled tenant with its keys, limits and budgets. Its audit rows stay."""
    confirm(f"Delete the tenant {name} and its keys permanently?", yes=yes, required=True)
    keys = session.run(lambda database: account_changes.delete_tenant(database, name))
    if as_json:
        return print_json({"name": name, "deleted_keys": keys})
    return click.echo(f"the tenant {name} and its {keys} keys are deleted")


@click.command("set-key")
@key_options
@click.option("--name", type=Name(), help="Rename the key.")
@click.option("--scopes", type=Scopes(), help=f"Replace its scopes: some of {', '.join(Scope)}, separated by commas.")
@click.option("--expires", type=Expiry(), help="Change its expiry.")
@click.option("--log-prompts/--no-log-prompts", default=None, help="Start or stop recording its prompts and answers.")
@priority_option()
@json_option
@pass_session
def set_key(
    session: Session,
    prefix: str,
    tenant: str | None,
    name: str | None,
    scopes: list[str] | None,
    expires: datetime | Clear | None,
    log_prompts: bool | None,
    priority: str | None,
    as_json: bool,
) -> None:
    """Change what create-key decided. set-limits, set-budget and set-models change its policy."""
    ordered = sorted(scopes) if scopes else None
    given = {
        "name": name,
        "scopes": ordered,
        "expires_at": expires,
        "log_prompts": log_prompts,
        "priority": priority,
    }
    change = {column: value for column, value in given.items() if value is not None}
    if not change:
        raise click.UsageError("give at least one of --name, --scopes, --expires, --log-prompts and --priority")
    stored = {column: None if value is Clear.CLEAR else value for column, value in change.items()}
    prefix = resolve_prefix(session, prefix, tenant)

    async def apply(database: Database) -> tuple[Key, KeyPolicies]:
        await account_changes.change_key(database, prefix, stored)
        keys = await TenantRepository(database).list_keys(None)
        return next(key for key in keys if key.prefix == prefix), await read_key_policies(database, prefix)

    key, policies = session.run(apply)
    if as_json:
        return print_json(key_document(key, policies[prefix], session.settings))
    expiry = f"expires {text(key.expires_at)} UTC" if key.expires_at else "never expires"
    logged = "prompts are logged" if key.log_prompts else "prompts are not logged"
    return click.echo(
        f"the key {prefix} is {key.name} of {key.tenant}; {key.priority}; scopes {text(key.scopes)}; {expiry}; {logged}"
    )
