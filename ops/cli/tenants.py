"""create-tenant, list-tenants, disable-tenant, enable-tenant."""

from __future__ import annotations

from typing import Any

import rich_click as click

from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.cli.catalog import warn_of_unhosted
from ops.cli.key_list import KeyPolicies, key_document, print_keys
from ops.cli.output import print_json, text
from ops.cli.parameters import Clear, Models, Name, json_option, limit_options, policy_change, weight_option
from ops.cli.policy_text import BUDGETS, in_force_document, limit_fields, models_text
from ops.cli.presets import PRESETS, describe
from ops.cli.session import Session, pass_session
from ops.cli.table import Column, print_record, print_table, wide_option
from ops.database.effective import LIMITS, Effective, of_tenant, read_key_policies
from ops.database.policies import PolicyChange
from ops.database.tenants import Key, Tenant, TenantRepository

_name_option = click.option("--name", type=Name(), required=True, help="Name of the tenant; letter case is ignored.")


@click.command("create-tenant")
@_name_option
@click.option(
    "--preset", type=click.Choice(sorted(PRESETS)), help=f"A set of limits; single options win. {describe()}."
)
@limit_options()
@weight_option()
@click.option("--models", type=Models(), help="Models that its keys may use, separated by commas. Default: none.")
@click.option("--allow-all-models", is_flag=True, help="Let its keys use every model that a backend runs itself.")
@json_option
@pass_session
def create_tenant(
    session: Session,
    /,
    name: str,
    preset: str | None,
    models: list[str] | None,
    allow_all_models: bool,
    as_json: bool,
    **limits: int | Clear | None,
) -> None:
    """Create a tenant. Limits that are not given are the defaults of the settings."""
    policy = PRESETS[preset].copy() if preset else PolicyChange()
    policy |= policy_change(allowed_models=models, allow_all_models=allow_all_models, **limits)
    tenant = session.run(lambda database: TenantRepository(database).create_tenant(name, policy))
    warn_of_unhosted(session.settings, models or ())
    if as_json:
        return print_json(_document(tenant, session.settings))
    click.echo(f"created the tenant {tenant.name}")
    if not allow_all_models and not models:
        command = f'neuronetz-gateway set-models --tenant "{tenant.name}" --models …'
        click.echo(f"it may not use any model yet; allow some with: {command}")
    return None


@click.command("list-tenants")
@wide_option
@json_option
@pass_session
def list_tenants(session: Session, wide: bool, as_json: bool) -> None:
    """List all tenants with the limits, budgets and models in force."""
    tenants = session.run(lambda database: TenantRepository(database).list_tenants())
    if as_json:
        return print_json([_document(tenant, session.settings) for tenant in tenants])
    in_force = [of_tenant(tenant.policy, session.settings) for tenant in tenants]
    print_table(
        _COLUMNS,
        [_row(tenant, effective) for tenant, effective in zip(tenants, in_force, strict=True)],
        empty="no tenants yet; create one: neuronetz-gateway create-tenant --name NAME",
        wide=wide,
    )
    if any(limit.source == "default" for effective in in_force for limit in effective.limits.values()):
        click.echo("* the default of the settings")
    return None


@click.command("show-tenant")
@click.argument("tenant", metavar="NAME", type=Name())
@json_option
@pass_session
def show_tenant(session: Session, tenant: str, as_json: bool) -> None:
    """Show one tenant: the policy in force, where each value comes from, and its keys."""

    async def read(database: Database) -> tuple[Tenant, list[Key], KeyPolicies]:
        repository = TenantRepository(database)
        found = await repository.get_tenant(tenant)
        return found, await repository.list_keys(tenant), await read_key_policies(database)

    found, keys, policies = session.run(read)
    if as_json:
        documents = [key_document(key, policies[key.prefix], session.settings) for key in keys]
        return print_json({**_document(found, session.settings), "key_list": documents})
    effective = of_tenant(found.policy, session.settings)
    print_record(
        [
            ("tenant", found.name),
            ("status", found.status),
            ("created", f"{text(found.created_at)} UTC"),
            *limit_fields(effective),
            ("weight", found.policy["weight"] or 1),
            *((label, found.policy[name] if found.policy[name] is not None else "none") for name, label in BUDGETS),
            ("models", models_text(effective)),
        ]
    )
    click.echo()
    return print_keys(keys, policies, session.settings, wide=False)


@click.command("disable-tenant")
@_name_option
@json_option
@pass_session
def disable_tenant(session: Session, name: str, as_json: bool) -> None:
    """Deny all keys of a tenant, at once, until it is enabled again."""
    _set_enabled(session, name, False, as_json)


@click.command("enable-tenant")
@_name_option
@json_option
@pass_session
def enable_tenant(session: Session, name: str, as_json: bool) -> None:
    """Accept the keys of a disabled tenant again."""
    _set_enabled(session, name, True, as_json)


def _set_enabled(session: Session, name: str, enabled: bool, as_json: bool) -> None:
    tenant = session.run(lambda database: TenantRepository(database).set_tenant_enabled(name, enabled))
    if as_json:
        print_json(_document(tenant, session.settings))
    else:
        click.echo(f"the tenant {tenant.name} is {tenant.status}")


def _document(tenant: Tenant, settings: Settings) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "status": tenant.status,
        "created_at": tenant.created_at,
        "keys": tenant.keys,
        **tenant.policy,
        "in_force": in_force_document(of_tenant(tenant.policy, settings)),
    }


_LIMIT_RANKS = {"rpm": 3, "tpm": 3, "concurrent": 4}
_COLUMNS = (
    Column("tenant"),
    Column("status", rank=1),
    Column("keys", right=True, rank=5),
    *(Column(limit, right=True, rank=_LIMIT_RANKS.get(limit, 6)) for limit in LIMITS),
    Column("daily budget", right=True, rank=8),
    Column("monthly budget", right=True, rank=7),
    Column("total budget", right=True, rank=9),
    Column("models", rank=2, folds=True),
    Column("created", rank=10),
)


def _row(tenant: Tenant, effective: Effective) -> tuple[object, ...]:
    limits = [f"{limit.value:,}{'*' if limit.source == 'default' else ' '}" for limit in effective.limits.values()]
    budgets = [tenant.policy[name] for name, _ in BUDGETS]
    return (
        tenant.name,
        tenant.status,
        tenant.keys,
        *limits,
        *budgets,
        models_text(effective),
        tenant.created_at,
    )
