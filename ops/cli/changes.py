"""show-changes and policy-at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import rich_click as click

from gateway.settings import INTEGER_MAX
from ops.cli.key_option import key_options, resolve_prefix
from ops.cli.output import print_json, text
from ops.cli.parameters import Number, Timestamp, json_option
from ops.cli.policy_text import BUDGETS, in_force_document, limit_fields, models_text
from ops.cli.session import Session, pass_session
from ops.cli.table import Column, print_record, print_table, wide_option
from ops.database.effective import of_key
from ops.database.policy_changes import PolicyChanges, RecordedChange

_COLUMNS = (
    Column("time (UTC)"),
    Column("who", rank=2),
    Column("command", rank=1),
    Column("tenant", rank=3),
    Column("key", rank=4),
    Column("change", folds=True),
    Column("database role", only_wide=True),
    Column("address", only_wide=True),
)


@click.command("show-changes")
@click.option(
    "--since",
    type=Timestamp(future=False),
    help="Only changes since then: a duration before now, or a date. Default: all changes.",
)
@click.option(
    "--limit", type=Number(1, INTEGER_MAX), default=50, show_default=True, help="Show at most N changes, the newest."
)
@wide_option
@json_option
@pass_session
def show_changes(session: Session, since: datetime | None, limit: int, wide: bool, as_json: bool) -> None:
    """Show who changed which tenant, key or policy, oldest change first. Changes by SQL are included."""
    changes = session.run(lambda database: PolicyChanges(database).newest(since, limit), report=True)
    if as_json:
        return print_json([asdict(change) for change in changes])
    return print_table(_COLUMNS, [_row(change) for change in changes], empty="no matching changes", wide=wide)


@click.command("policy-at")
@click.option(
    "--time",
    "time",
    type=Timestamp(future=False),
    required=True,
    help="The time: a duration before now, or a date and time in UTC.",
)
@key_options
@json_option
@pass_session
def policy_at(session: Session, prefix: str, tenant: str | None, time: datetime, as_json: bool) -> None:
    """Show the policy that applied to a key at a time in the past. Defaults are those of the settings of today."""
    prefix = resolve_prefix(session, prefix, tenant)
    found = session.run(lambda database: PolicyChanges(database).policy_at(prefix, time), report=True)
    effective = of_key(found.own, found.of_tenant, session.settings)
    if as_json:
        return print_json(
            {
                "time": found.time,
                "prefix": prefix,
                "name": found.name,
                "tenant": found.tenant,
                "usable": found.refusal is None,
                "reason": found.refusal,
                "scopes": found.scopes,
                "log_prompts": found.log_prompts,
                "expires_at": found.expires_at,
                **{name: found.own[name] for name, _ in BUDGETS},
                "tenant_budgets": {name: found.of_tenant[name] for name, _ in BUDGETS},
                "in_force": in_force_document(effective),
            }
        )
    return print_record(
        [
            ("time", f"{text(found.time)} UTC"),
            ("key", f"{found.name} of {found.tenant}"),
            ("usable", "yes" if found.refusal is None else f"no: {found.refusal}"),
            ("scopes", found.scopes),
            ("expires", found.expires_at),
            ("logs prompts", found.log_prompts),
            *limit_fields(effective),
            *((label, found.own[name]) for name, label in BUDGETS),
            *((f"{label} of the tenant", found.of_tenant[name]) for name, label in BUDGETS),
            ("models", models_text(effective)),
        ]
    )


def _row(change: RecordedChange) -> tuple[object, ...]:
    who = f"{change.os_user}@{change.host}" if change.os_user else f"role {change.database_role}"
    return (
        change.ts,
        who,
        change.command or "(by SQL)",
        change.tenant,
        change.prefix,
        _sentence(change),
        change.database_role,
        change.client_addr,
    )


def _sentence(change: RecordedChange) -> str:
    """What changed: `rpm 60 → 120`; for a new or deleted row its values."""
    if change.action == "update":
        columns = dict.fromkeys([*change.before, *change.after])
        return ", ".join(f"{name} {_value(change.before, name)} → {_value(change.after, name)}" for name in columns)
    verb = {"insert": "created", "delete": "deleted", "truncate": "deleted all rows", "baseline": "existed"}
    shown = change.before if change.action == "delete" else change.after
    values = ", ".join(f"{name} {_value(shown, name)}" for name in shown if name not in ("created_at", "prefix"))
    return f"{verb[change.action]}: {values}" if values else verb[change.action]


def _value(values: Mapping[str, Any], name: str) -> str:
    return text(values.get(name))
