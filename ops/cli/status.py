"""status and logs: what runs on this machine, and what it logs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import rich_click as click
from click.exceptions import Exit

from gateway.catalog.snapshot import Catalog
from gateway.errors import GatewayError, StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.values import Period
from ops.cli.catalog import fetch_catalog
from ops.cli.output import json_text, print_json, text
from ops.cli.parameters import Number, json_option
from ops.cli.session import Session, pass_session
from ops.cli.table import Column, print_table
from ops.database.tenants import TenantRepository
from ops.doctor import services as service_checks
from ops.embedded import child_logs
from ops.embedded.child_logs import Line
from ops.embedded.ready_file import read_running
from ops.embedded.state import StateDirectory
from ops.host.client_environment import base_url

ERRORS_SHOWN = 3
LOG_LINES_MAX = 100_000


@click.command("status")
@json_option
@pass_session
def status(session: Session, as_json: bool) -> None:
    """Show what runs: addresses, version, processes, backends, running requests and the last errors.

    Exit code 1 if the gateway does not run.
    """
    document = asyncio.run(_document(session))
    if as_json:
        print_json(document)
    else:
        _print(session, document)
    if not document["running"]:
        raise Exit(1)


async def _document(session: Session) -> dict[str, Any]:
    settings, directory = session.settings, session.state_dir
    running = read_running(directory) if directory else None
    is_up = session.stopped_up is None
    workers = await service_checks.check(settings) if is_up else []
    return {
        "running": is_up and any(check.name == "authz" and check.status != "failed" for check in workers),
        "url": running["url"] if running else base_url(settings),
        "tls_url": running and running["tls_url"],
        "version": running and running["version"],
        "started_at": running and running["started_at"],
        "env_file": session.env_file and str(session.env_file),
        "state_dir": directory and str(directory),
        "processes": {"up": running["pid"], **running["pids"]} if running else {},
        "workers": [{"name": check.name, "status": check.status, "detail": check.detail} for check in workers],
        "backends": await backend_states(settings) if is_up else [],
        "requests": await _requests(settings) if is_up else None,
        "last_errors": [line._asdict() for line in _last_errors(directory)] if directory else [],
    }


async def backend_states(settings: Settings) -> list[dict[str, Any]]:
    """Each configured backend with what the latest discovery knows of it; unknown without Redis."""
    try:
        catalog = await fetch_catalog(settings) or Catalog((), {})
    except StoreUnavailable:
        catalog = Catalog((), {})
    states = {state.name: state for state in catalog.backends}
    return [
        {
            "name": backend.name,
            "urls": list(backend.urls),
            "answers": (state := states.get(backend.name)) is not None and state.answers,
            "version": state.version if state else None,
            "models": sum(backend.name in model.backends for model in catalog.models.values()),
        }
        for backend in settings.backends
    ]


async def _requests(settings: Settings) -> dict[str, int] | None:
    """The running requests of all tenants and the tokens that they hold; None while a store is unavailable."""
    async with AsyncExitStack() as stack:
        database, redis = Database(settings), connect(settings)
        stack.push_async_callback(database.close)
        stack.push_async_callback(redis.aclose)
        quota = RedisQuota(redis, settings, Ledger(database).usage_of)
        stack.push_async_callback(quota.aclose)
        try:
            tenants = await TenantRepository(database).list_tenants()
            counters = [each for tenant in tenants if (each := await quota.counters(tenant.id))]
        except StoreUnavailable:
            return None
    return {
        "running": sum(each.in_flight.get(None, 0) for each in counters),
        "held_tokens": sum(each.held.get((None, Period.TOTAL), 0) for each in counters),
    }


def _last_errors(directory: Path) -> list[Line]:
    state = StateDirectory(directory)
    return child_logs.last_errors(state, child_logs.names(state), ERRORS_SHOWN)


def _print(session: Session, document: dict[str, Any]) -> None:
    if not document["running"]:
        click.echo(session.stopped_up or "the gateway is not running: no authz accepts connections")
    else:
        since = document["started_at"]
        started = f" since {text(datetime.fromisoformat(since))} UTC" if since else ""
        click.echo(f"running{started}, version {document['version'] or 'unknown'}")
        click.echo(f"address     {', '.join(filter(None, (document['url'], document['tls_url'])))}")
        click.echo(f"settings    {document['env_file'] or 'from the environment'}")
        for check in document["workers"]:
            click.echo(f"{check['name']:<11} {check['detail']}")
        if requests := document["requests"]:
            click.echo(f"requests    {requests['running']:,} running, which hold {requests['held_tokens']:,} tokens")
        if document["processes"]:
            processes = ", ".join(f"{name} {pid}" for name, pid in document["processes"].items())
            click.echo(f"processes   {processes}")
        click.echo()
        print_table(
            ("backend", "answers", "version", ">models", Column("addresses", folds=True)),
            [(row["name"], row["answers"], row["version"], row["models"], row["urls"]) for row in document["backends"]],
            empty="no backends",
        )
    if document["last_errors"]:
        click.echo("\nlast errors; `neuronetz-gateway logs SERVICE` shows more")
        for line in document["last_errors"]:
            click.echo(f"{line['service']} | {text(line['text'])}")


@click.command("logs")
@click.argument("service", required=False)
@click.option("--lines", type=Number(0, LOG_LINES_MAX), default=20, show_default=True, help="Lines of each service.")
@click.option("--follow", is_flag=True, help="Keep showing new lines until Ctrl-C. With --json, one object per line.")
@json_option
@pass_session
def logs(session: Session, service: str | None, lines: int, follow: bool, as_json: bool) -> None:
    """Show the log of SERVICE, or of every part, of a gateway that `up` runs."""
    directory = session.state_dir
    if directory is None:
        raise GatewayError(
            "the logs of this gateway are where its service manager writes them (journalctl, docker compose logs); "
            "`logs` reads those of `neuronetz-gateway up`"
        )
    state = StateDirectory(directory)
    services = child_logs.names(state)
    if service is not None:
        chosen = [name for name in services if name == service or name.rpartition("-")[0] == service]
        if not chosen:
            raise GatewayError(f"no part named {service} has a log; choose one of {', '.join(services)}")
        services = chosen
    shown, offsets = child_logs.last_lines(state, services, lines)
    if as_json and not follow:
        return print_json([line._asdict() for line in shown])
    several = len(services) > 1
    for line in shown:
        _print_line(line, several, as_json)
    for line in child_logs.follow(state, offsets) if follow else ():
        _print_line(line, several, as_json)
    return None


def _print_line(line: Line, several: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json_text(line._asdict()))
    else:
        click.echo(f"{line.service} | {text(line.text)}" if several else text(line.text))
