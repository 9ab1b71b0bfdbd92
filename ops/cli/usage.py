"""show-usage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import rich_click as click

from gateway.stores.postgres import Database
from ops.cli.key_option import PREFIX_HELP, resolve_optional
from ops.cli.output import bar, iso, print_json, text
from ops.cli.parameters import Name, Prefix, Timestamp, json_option
from ops.cli.reserved import HeldTokens, reserved_tokens
from ops.cli.session import Session, pass_session
from ops.cli.table import Column, print_table, wide_option
from ops.database.reports import USAGE_COLUMNS, BudgetRow, Filter, GroupBy, Reports, UsageRow


@click.command("show-usage")
@click.option("--tenant", type=Name(), help="Only requests of this tenant.")
@click.option("--prefix", type=Prefix(), help=f"Only requests of this key. {PREFIX_HELP}")
@click.option(
    "--since",
    type=Timestamp(future=False),
    default="30d",
    show_default=True,
    help="Only requests since then: a duration before now, or a date.",
)
@click.option(
    "--by",
    type=click.Choice([each.value for each in GroupBy]),
    default="day",
    show_default=True,
    help="Group the rows by this.",
)
@click.option("--plot", is_flag=True, help="Also draw the tokens as bars.")
@wide_option
@json_option
@pass_session
def show_usage(
    session: Session,
    tenant: str | None,
    prefix: str | None,
    since: datetime,
    by: str,
    plot: bool,
    wide: bool,
    as_json: bool,
) -> None:
    """Show admitted requests, their tokens, and how much of each budget is used."""
    prefix = resolve_optional(session, prefix, tenant)
    where = Filter(tenant=tenant, prefix=prefix, since=since)

    async def read(database: Database) -> tuple[list[UsageRow], list[BudgetRow], HeldTokens]:
        reports = Reports(database)
        rows = await reports.usage(GroupBy(by), where)
        budgets = await reports.budgets(where, datetime.now(UTC))
        return rows, budgets, await reserved_tokens(session.settings, database, budgets)

    rows, budgets, reserved = session.run(read, report=True)
    totals = {count: sum(getattr(row, count) for row in rows) for count in USAGE_COLUMNS}
    if as_json:
        return print_json(
            {
                "rows": [{**row.labels, **{count: getattr(row, count) for count in USAGE_COLUMNS}} for row in rows],
                "totals": totals,
                "budgets": [budget_document(budget, reserved) for budget in budgets],
            }
        )
    _print_usage(rows, totals, since, by, plot)
    if budgets:
        click.echo()
        _print_budgets(budgets, reserved, wide=wide)
    return None


def _print_usage(rows: list[UsageRow], totals: dict[str, int], since: datetime, by: str, plot: bool) -> None:
    labels = list(rows[0].labels) if rows else [by]
    tokens_max = max((row.input_tokens + row.output_tokens for row in rows), default=0)
    table: list[tuple[object, ...]] = []
    for row in rows:
        bars = (bar(row.input_tokens + row.output_tokens, tokens_max),) if plot else ()
        table.append((*row.labels.values(), *_cells({each: getattr(row, each) for each in USAGE_COLUMNS}), *bars))
    if len(rows) > 1:
        table.append(("total", *[""] * (len(labels) - 1), *_cells(totals), *([""] if plot else [])))
    columns = (*labels, ">requests", ">input tokens", ">output tokens", ">queued s", *(["tokens"] if plot else []))
    print_table(columns, table, empty=f"no usage since {text(since)} UTC")


def _print_budgets(budgets: list[BudgetRow], reserved: HeldTokens, *, wide: bool) -> None:
    print_table(
        (
            Column("budget of"),
            Column("period"),
            Column("limit", right=True),
            Column("used", right=True),
            Column("reserved", right=True, rank=2),
            Column("left", right=True, rank=1),
            Column("resets at (UTC)", rank=3),
        ),
        [
            (
                f"tenant {budget.tenant}" if budget.scope == "tenant" else f"key {budget.prefix}",
                budget.period,
                budget.limit,
                budget.used,
                (held := reserved(budget)),
                max(0, budget.limit - budget.used - (held or 0)),
                budget.resets_at,
            )
            for budget in budgets
        ],
        empty="",
        wide=wide,
    )


def budget_document(budget: BudgetRow, reserved: HeldTokens) -> dict[str, Any]:
    """One budget of `show-usage --json`."""
    return {
        "scope": budget.scope,
        "tenant": budget.tenant,
        "prefix": budget.prefix,
        "period": budget.period,
        "limit": budget.limit,
        "used": budget.used,
        "reserved": reserved(budget),
        "resets_at": iso(budget.resets_at),
    }


def _cells(sums: Mapping[str, int]) -> tuple[object, ...]:
    """The sums of a group, with the time in the queue in seconds."""
    *counts, queued_ms = (sums[name] for name in USAGE_COLUMNS)
    return (*counts, f"{queued_ms / 1000:.1f}")
