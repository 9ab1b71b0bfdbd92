"""show-audit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import rich_click as click

from gateway.settings import INTEGER_MAX
from gateway.stores.postgres import Database
from ops.cli.output import json_text, print_json, print_table, text
from ops.cli.parameters import Name, Number, Prefix, Timestamp, json_option
from ops.cli.session import Session, pass_session
from ops.database.reports import Filter, Reports

Row = dict[str, object]

POLL_S = 1.0
# A row is inserted some time after its `ts`: when its request ends, or when PostgreSQL is available again.
INSERT_DELAY_MAX = timedelta(minutes=15)
RECENT_ROWS_MAX = 10_000

# Column -> its width in characters with --follow.
_WIDTHS = {
    "ts": 19,
    "request_id": 36,
    "tenant": 16,
    "key_prefix": 12,
    "path": 20,
    "model": 24,
    "backend": 12,
    "status": 6,
    "outcome": 14,
    "code": 20,
    "input_tokens": 9,
    "output_tokens": 9,
    "duration_ms": 9,
}
_NUMBERS = {"status", "input_tokens", "output_tokens", "duration_ms"}
_HEADINGS = {
    "ts": "time (UTC)",
    "key_prefix": "key",
    "input_tokens": "input",
    "output_tokens": "output",
    "duration_ms": "ms",
}


@click.command("show-audit")
@click.option("--tenant", type=Name(), help="Only rows of this tenant.")
@click.option("--prefix", type=Prefix(), help="Only rows of this key.")
@click.option("--request-id", metavar="ID", help="Only the row of the request with this X-Request-ID.")
@click.option(
    "--since",
    type=Timestamp(future=False),
    help="Only rows since then: a duration before now, or a date. Default: all rows.",
)
@click.option(
    "--limit", type=Number(1, INTEGER_MAX), default=50, show_default=True, help="Show at most N rows, the newest."
)
@click.option("--follow", is_flag=True, help="Keep showing new rows until Ctrl-C. With --json, one row per line.")
@json_option
@pass_session
def show_audit(
    session: Session,
    tenant: str | None,
    prefix: str | None,
    request_id: str | None,
    since: datetime | None,
    limit: int,
    follow: bool,
    as_json: bool,
) -> None:
    """Show the audit log, oldest row first."""
    where = Filter(tenant=tenant, prefix=prefix, request_id=request_id, since=since)
    if follow:
        return session.run(lambda database: _follow(database, where, limit, as_json), report=True)
    rows = session.run(lambda database: Reports(database).audit(where, limit), report=True)
    if as_json:
        return print_json(rows)
    return print_table(
        [(">" if name in _NUMBERS else "") + _HEADINGS.get(name, name) for name in _WIDTHS],
        [tuple(_cell(row, name) for name in _WIDTHS) for row in rows],
        empty="no matching audit rows",
    )


async def _follow(database: Database, where: Filter, limit: int, as_json: bool) -> None:
    if not as_json:
        click.echo("  ".join(_padded(_HEADINGS.get(name, name), name) for name in _WIDTHS))
    async for row in _rows(database, where, limit):
        if as_json:
            click.echo(json_text(row))
        else:
            click.echo("  ".join(_padded(_cell(row, name), name) for name in _WIDTHS).rstrip())


async def _rows(database: Database, where: Filter, limit: int) -> AsyncIterator[Row]:
    """The newest `limit` rows, then new ones without end. Each comes once if it is inserted within INSERT_DELAY_MAX."""
    reports = Reports(database)
    seen = {_row_id(row) for row in await reports.audit(_recent(where), RECENT_ROWS_MAX)}
    for row in await reports.audit(where, limit):
        seen.add(_row_id(row))
        yield row
    while True:
        await asyncio.sleep(POLL_S)
        rows = await reports.audit(_recent(where), RECENT_ROWS_MAX)
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


def _padded(cell: str, name: str) -> str:
    width = _WIDTHS[name]
    return cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
