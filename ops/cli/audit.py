"""show-audit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import rich_click as click

from gateway.stores.postgres import Database
from ops.cli.parameters import INTEGER_MAX, Name, Number, Prefix, Timestamp, json_option
from ops.cli.session import Session, pass_session
from ops.cli.show import json_text, print_json, print_table, text
from ops.database.reports import Filter, Reports

Row = dict[str, object]

POLL_S = 1.0
# A row is written some time after the moment it carries: when its request ends, or when PostgreSQL is back.
LATE_MAX = timedelta(minutes=15)
FOLLOWED_MAX = 10_000

_SHOWN = {
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
@click.option("--tenant", type=Name(), help="Only this tenant.")
@click.option("--prefix", type=Prefix(), help="Only this key.")
@click.option("--request-id", metavar="ID", help="Only this request, by its X-Request-ID.")
@click.option("--since", type=Timestamp(ahead=False), help="A duration or a date. Default: no matter when.")
@click.option("--limit", type=Number(1, INTEGER_MAX), default=50, show_default=True, help="The newest so many.")
@click.option("--follow", is_flag=True, help="Then show new rows as they come, until Ctrl-C; JSON is one row a line.")
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
        [(">" if name in _NUMBERS else "") + _HEADINGS.get(name, name) for name in _SHOWN],
        [tuple(_cell(row, name) for name in _SHOWN) for row in rows],
        empty="no request has left a row that fits",
    )


async def _follow(database: Database, where: Filter, limit: int, as_json: bool) -> None:
    if not as_json:
        click.echo("  ".join(_fitted(_HEADINGS.get(name, name), name) for name in _SHOWN))
    async for row in _rows(database, where, limit):
        if as_json:
            click.echo(json_text(row))
        else:
            click.echo("  ".join(_fitted(_cell(row, name), name) for name in _SHOWN).rstrip())


async def _rows(database: Database, where: Filter, limit: int) -> AsyncIterator[Row]:
    """The newest `limit` rows and then new ones for ever; each once, as long as it is not LATE_MAX late."""
    reports = Reports(database)
    seen = {_identity(row) for row in await reports.audit(_recent(where), FOLLOWED_MAX)}
    for row in await reports.audit(where, limit):
        seen.add(_identity(row))
        yield row
    while True:
        await asyncio.sleep(POLL_S)
        rows = await reports.audit(_recent(where), FOLLOWED_MAX)
        for row in rows:
            if _identity(row) not in seen:
                yield row
        seen = {_identity(row) for row in rows}


def _recent(where: Filter) -> Filter:
    recent = datetime.now(UTC) - LATE_MAX
    return replace(where, since=max(recent, where.since or recent))


def _identity(row: Row) -> tuple[object, object]:
    return row["request_id"], row["ts"]


def _cell(row: Row, name: str) -> str:
    return str(row[name]) if name == "status" else text(row[name])


def _fitted(cell: str, name: str) -> str:
    width = _SHOWN[name]
    return cell.rjust(width) if name in _NUMBERS else cell.ljust(width)
