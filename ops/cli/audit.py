"""show-audit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import rich_click as click

from gateway.request.model_name import canonical
from gateway.settings import INTEGER_MAX
from gateway.stores.postgres import Database
from gateway.values import Outcome
from ops.cli.key_option import PREFIX_HELP, resolve_optional
from ops.cli.output import json_text, print_json, text
from ops.cli.parameters import LiteralMetavar, Name, Number, Prefix, Timestamp, json_option
from ops.cli.session import Session, pass_session
from ops.cli.table import Column, print_record, print_table, wide_option
from ops.database.reports import AUDIT_COLUMNS, AuditFilter, Filter, Reports

Row = dict[str, object]

POLL_S = 1.0
# A row is inserted some time after its `ts`: when its request ends, or when PostgreSQL is available again.
INSERT_DELAY_MAX = timedelta(minutes=15)
RECENT_ROWS_MAX = 10_000

_COLUMNS: Mapping[str, Column] = {
    "ts": Column("time (UTC)"),
    "tenant": Column("tenant", rank=4),
    "key_prefix": Column("key"),
    "model": Column("model", rank=1),
    "status": Column("status", right=True),
    "code": Column("code", rank=2),
    "input_tokens": Column("input", right=True, rank=5),
    "output_tokens": Column("output", right=True, rank=5),
    "duration_ms": Column("ms", right=True, rank=3),
    "path": Column("path", rank=7),
    "outcome": Column("outcome", rank=6),
}
# The other columns of a row, for --wide.
_MORE = {name: Column(name, only_wide=True) for name in AUDIT_COLUMNS if name not in _COLUMNS}


class Statuses(LiteralMetavar[tuple[int, int]]):
    """A status such as 429, or a class of them such as 4xx; converted to the lowest and the highest."""

    name = "429|4xx"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-5])(\d\d|xx)", str(value).strip().lower(), re.ASCII)
        if match is None:
            self.fail(f"{value!r}: expected a status such as 429, or a class such as 4xx", param, ctx)
        hundreds = int(match[1]) * 100
        return (hundreds, hundreds + 99) if match[2] == "xx" else (hundreds + int(match[2]),) * 2


@click.command("show-audit")
@click.option("--tenant", type=Name(), help="Only rows of this tenant.")
@click.option("--prefix", type=Prefix(), help=f"Only rows of this key. {PREFIX_HELP}")
@click.option("--request-id", metavar="ID", help="Only the row of the request with this X-Request-ID.")
@click.option("--status", "statuses", type=Statuses(), help="Only rows with this status, or class of statuses.")
@click.option("--code", metavar="CODE", help="Only rows with this error code, such as budget_exhausted.")
@click.option("--model", metavar="MODEL", help="Only requests for this model.")
@click.option("--path", metavar="PATH", help="Only requests whose path begins with this, such as /v1/chat.")
@click.option("--outcome", type=click.Choice([each.value for each in Outcome]), help="Only rows with this outcome.")
@click.option(
    "--since",
    type=Timestamp(future=False),
    help="Only rows since then: a duration before now, or a date. Default: all rows.",
)
@click.option(
    "--limit", type=Number(1, INTEGER_MAX), default=50, show_default=True, help="Show at most N rows, the newest."
)
@click.option("--follow", is_flag=True, help="Keep showing new rows until Ctrl-C. With --json, one row per line.")
@wide_option
@json_option
@pass_session
def show_audit(
    session: Session,
    tenant: str | None,
    prefix: str | None,
    request_id: str | None,
    statuses: tuple[int, int] | None,
    code: str | None,
    model: str | None,
    path: str | None,
    outcome: str | None,
    since: datetime | None,
    limit: int,
    follow: bool,
    wide: bool,
    as_json: bool,
) -> None:
    """Show the audit log, oldest row first. With --request-id, every column of one row."""
    prefix = resolve_optional(session, prefix, tenant)
    where = Filter(tenant=tenant, prefix=prefix, request_id=request_id, since=since)
    also = AuditFilter(statuses, code, model and _canonical(model), path, outcome)
    if follow:
        return session.run(lambda database: _follow(database, where, also, limit, as_json, wide), report=True)
    rows = session.run(lambda database: Reports(database).audit(where, limit, also), report=True)
    if as_json:
        return print_json(rows)
    if request_id is not None and len(rows) == 1:
        return print_record((name, _cell(rows[0], name)) for name in AUDIT_COLUMNS)
    columns = {**_COLUMNS, **_MORE}
    return print_table(
        list(columns.values()),
        [tuple(_cell(row, name) for name in columns) for row in rows],
        empty="no matching audit rows",
        wide=wide,
    )


def _canonical(model: str) -> str:
    try:
        return canonical(model)
    except ValueError as error:
        raise click.BadParameter(f"{model!r}: {error}", param_hint="--model") from None


async def _follow(database: Database, where: Filter, also: AuditFilter, limit: int, as_json: bool, wide: bool) -> None:
    async for row in _rows(database, where, also, limit):
        click.echo(json_text(row) if as_json else _line(row, wide=wide))


def _line(row: Row, *, wide: bool) -> str:
    """One row as one line of about 100 characters; `wide` adds the request id, the path and the client's address."""
    time = row["ts"].astimezone(UTC) if isinstance(row["ts"], datetime) else None
    parts = [
        f"{time:%H:%M:%S}",
        _cell(row, "status"),
        _cell(row, "key_prefix"),
        _cell(row, "tenant"),
        _cell(row, "model"),
        f"{text(row['input_tokens'])}+{text(row['output_tokens'])} tokens",
        f"{text(row['duration_ms'])} ms",
        *([_cell(row, name) for name in ("code", "reason") if row[name]]),
        *([_cell(row, "outcome")] if row["outcome"] not in ("complete", "denied") else []),
        *([_cell(row, name) for name in ("path", "client_ip", "request_id")] if wide else []),
    ]
    return "  ".join(parts)


async def _rows(database: Database, where: Filter, also: AuditFilter, limit: int) -> AsyncIterator[Row]:
    """The newest `limit` rows, then new ones without end. Each comes once if it is inserted within INSERT_DELAY_MAX."""
    reports = Reports(database)
    seen = {_row_id(row) for row in await reports.audit(_recent(where), RECENT_ROWS_MAX, also)}
    for row in await reports.audit(where, limit, also):
        seen.add(_row_id(row))
        yield row
    while True:
        await asyncio.sleep(POLL_S)
        rows = await reports.audit(_recent(where), RECENT_ROWS_MAX, also)
        for row in rows:
            if _row_id(row) not in seen:
                yield row
        seen = {_row_id(row) for row in rows}


def _recent(where: Filter) -> Filter:
    recent = datetime.now(UTC) - INSERT_DELAY_MAX
    return replace(where, since=max(recent, where.since or recent))


def _row_id(row: Row) -> tuple[object, object]:
    return row["request_id"], row["ts"]


def _cell(row: Row, name: str) -> str:
    return str(row[name]) if name == "status" else text(row[name])
