"""set-limits, set-budget and set-models: the policy of a tenant or of one key."""

from __future__ import annotations

from itertools import pairwise

import rich_click as click

from gateway.settings import TOKENS_MAX
from gateway.stores.postgres import Database
from ops.cli.catalog import warn_of_unhosted
from ops.cli.key_option import resolve_subject, subject_options
from ops.cli.output import print_json, text
from ops.cli.parameters import (
    Clear,
    Models,
    Number,
    json_option,
    limit_options,
    policy_change,
    weight_option,
)
from ops.cli.policy_text import BUDGETS, in_force_document, limit_fields, models_text
from ops.cli.session import Session, pass_session
from ops.database.effective import LIMITS, Effective, of_key, of_tenant, read_key_policies
from ops.database.policies import Policy, PolicyChange, PolicySubject, allow_only
from ops.database.tenants import TenantRepository

_BUDGETS = tuple(name for name, _ in BUDGETS)
_MODELS = ("allow_all_models", "allowed_models")


@click.command("set-limits")
@subject_options
@limit_options("inherit")
@weight_option("inherit")
@json_option
@pass_session
def set_limits(
    session: Session, /, tenant: str | None, prefix: str | None, as_json: bool, **limits: int | Clear | None
) -> None:
    """Set limits. `inherit` makes a key use its tenant's value, and a tenant the default of the settings."""
    change = policy_change(**limits)
    if not change:
        raise click.UsageError("give at least one of --rpm, --tpm, --concurrent, --max-output, --max-body and --weight")
    if prefix is not None and "weight" in change:
        raise click.UsageError("--weight requires --tenant, because the keys of a tenant share its slots")
    shown = (*LIMITS, "weight") if prefix is None else LIMITS
    _change(session, resolve_subject(session, tenant, prefix), change, shown, as_json)


@click.command("set-budget")
@subject_options
@click.option("--daily", type=Number(0, TOKENS_MAX, "none"), help="Tokens per UTC day.")
@click.option("--monthly", type=Number(0, TOKENS_MAX, "none"), help="Tokens per UTC month.")
@click.option("--total", type=Number(0, TOKENS_MAX, "none"), help="Tokens in total.")
@json_option
@pass_session
def set_budget(
    session: Session,
    tenant: str | None,
    prefix: str | None,
    daily: int | Clear | None,
    monthly: int | Clear | None,
    total: int | Clear | None,
    as_json: bool,
) -> None:
    """Set budgets of input plus output tokens. A key is subject to its own budgets and to its tenant's."""
    change = policy_change(budget_day=daily, budget_month=monthly, budget_total=total)
    if not change:
        raise click.UsageError("give at least one of --daily, --monthly and --total")
    _change(session, resolve_subject(session, tenant, prefix), change, _BUDGETS, as_json)


@click.command("set-models")
@subject_options
@click.option("--models", type=Models(), help="Allow these models and no others, separated by commas.")
@click.option(
    "--allow-all/--no-allow-all", "allow_all", default=None, help="Allow every model that a backend runs itself."
)
@click.option("--inherit", is_flag=True, help="For a key only: allow what its tenant may use.")
@json_option
@pass_session
def set_models(
    session: Session,
    tenant: str | None,
    prefix: str | None,
    models: list[str] | None,
    allow_all: bool | None,
    inherit: bool,
    as_json: bool,
) -> None:
    """Set which models may be used. A model can be used only while a backend hosts it."""
    if inherit:
        if prefix is None or models is not None or allow_all is not None:
            raise click.UsageError("--inherit requires --prefix, without --models, --allow-all and --no-allow-all")
        change = policy_change(allow_all_models=Clear.CLEAR, allowed_models=Clear.CLEAR)
    else:
        change = {**(allow_only(models) if models is not None else {}), **policy_change(allow_all_models=allow_all)}
    if not change:
        raise click.UsageError("give --models, --allow-all, --no-allow-all or --inherit")
    _change(session, resolve_subject(session, tenant, prefix), change, _MODELS, as_json)
    warn_of_unhosted(session.settings, models or ())


def _change(
    session: Session, target: PolicySubject, change: PolicyChange, shown: tuple[str, ...], as_json: bool
) -> None:
    async def apply(database: Database) -> tuple[Policy, Effective]:
        policy = await TenantRepository(database).change_policy(target, change)
        if target.kind == "tenant":
            return policy, of_tenant(policy, session.settings)
        own, tenant = (await read_key_policies(database, target.name))[target.name]
        return policy, of_key(own, tenant, session.settings)

    policy, effective = session.run(apply)
    for sentence in _unreachable_budgets(policy) if shown is _BUDGETS else ():
        click.echo(f"note: {sentence}", err=True)
    values = {name: value for name, value in policy.items() if name in shown}
    if as_json:
        in_force = {} if shown is _BUDGETS else {"in_force": in_force_document(effective)}
        return print_json({"tenant" if target.kind == "tenant" else "prefix": target.name, **values, **in_force})
    return click.echo(f"the {target.kind} {target.name} now has {_sentence(target, policy, effective, shown)}")


def _unreachable_budgets(policy: Policy) -> list[str]:
    """Sentences about budgets that a smaller one of a longer period makes ineffective."""
    budgets = [(label, tokens) for name, label in BUDGETS if (tokens := policy[name]) is not None]
    return [
        f"the {short} of {tokens:,} has no effect, because the {long} is only {smaller:,}"
        for (short, tokens), (long, smaller) in pairwise(budgets)
        if tokens > smaller
    ]


def _sentence(target: PolicySubject, policy: Policy, effective: Effective, shown: tuple[str, ...]) -> str:
    if shown is _MODELS:
        return _models_sentence(target, policy, effective)
    if shown is _BUDGETS:
        budgets = [(label, policy[name]) for name, label in BUDGETS]
        return ", ".join(f"no {label}" if tokens is None else f"{label} {tokens:,}" for label, tokens in budgets)
    weight = [("weight", policy["weight"] or 1)] if target.kind == "tenant" else []
    return ", ".join(f"{name} {value}" for name, value in [*limit_fields(effective), *weight])


def _models_sentence(target: PolicySubject, policy: Policy, effective: Effective) -> str:
    if target.kind == "key" and effective.models_source == "tenant":
        return f"the models of its tenant: {models_text(effective)}"
    if policy["allow_all_models"]:
        # `all` never includes remote models; they have to be named.
        return f"all models, and {text(effective.models)} by name" if effective.models else "all models"
    return f"the models {text(effective.models)}" if effective.models else "no models"
