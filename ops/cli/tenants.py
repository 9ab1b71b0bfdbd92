"""create-tenant, list-tenants, disable-tenant, enable-tenant."""

from __future__ import annotations

from typing import Any

import rich_click as click

from ops.cli.output import print_json, print_table
from ops.cli.parameters import Clear, Models, Name, json_option, limit_options, policy_change
from ops.cli.session import Session, pass_session
from ops.database.tenants import Tenant, TenantRepository

_name_option = click.option("--name", type=Name(), required=True, help="Name of the tenant; letter case is ignored.")


@click.command("create-tenant")
@_name_option
@limit_options()
@click.option("--models", type=Models(), help="Models that its keys may use, separated by commas. Default: none.")
@click.option("--allow-all-models", is_flag=True, help="Let its keys use every model that a backend runs itself.")
@json_option
@pass_session
def create_tenant(
    session: Session,
    /,
    name: str,
    models: list[str] | None,
    allow_all_models: bool,
    as_json: bool,
    **limits: int | Clear | None,
) -> None:
    """Create a tenant. Limits that are not given are the defaults of the settings."""
    policy = policy_change(allowed_models=models, allow_all_models=allow_all_models, **limits)
    tenant = session.run(lambda database: TenantRepository(database).create_tenant(name, policy))
    if as_json:
        return print_json(_document(tenant))
    click.echo(f"created the tenant {tenant.name}")
    if not allow_all_models and not models:
        command = f'neuronetz-gateway set-models --tenant "{tenant.name}" --models …'
        click.echo(f"it may not use any model yet; allow some with: {command}")
    return None


@click.command("list-tenants")
@json_option
@pass_session
def list_tenants(session: Session, as_json: bool) -> None:
    """List all tenants with their policy."""
    tenants = session.run(lambda database: TenantRepository(database).list_tenants())
    if as_json:
        return print_json([_document(tenant) for tenant in tenants])
    return print_table(
        (
            "tenant",
            "status",
            ">keys",
            ">rpm",
            ">tpm",
            ">concurrent",
            ">daily budget",
            ">monthly budget",
            ">total budget",
            "models",
            "created",
        ),
        [_row(tenant) for tenant in tenants],
        empty="no tenants yet; create one: neuronetz-gateway create-tenant --name NAME",
    )


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
        print_json(_document(tenant))
    else:
        click.echo(f"the tenant {tenant.name} is {tenant.status}")


def _document(tenant: Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "status": tenant.status,
        "created_at": tenant.created_at,
        "keys": tenant.keys,
        **tenant.policy,
    }


def _row(tenant: Tenant) -> tuple[object, ...]:
    policy = tenant.policy
    limits = [policy[limit] or "default" for limit in ("rpm", "tpm", "concurrent")]
    budgets = [policy[budget] for budget in ("budget_day", "budget_month", "budget_total")]
    listed = policy["allowed_models"] or []
    models = ["all", *listed] if policy["allow_all_models"] else listed or "none"
    return tenant.name, tenant.status, tenant.keys, *limits, *budgets, models, tenant.created_at
