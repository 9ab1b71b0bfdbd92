"""migrate, prune and render-envoy."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import rich_click as click

from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.cli.show import print_json
from ops.database.migrate import upgrade
from ops.database.retention import Retention


@click.command("migrate")
@json_option
@pass_session
def migrate(session: Session, as_json: bool) -> None:
    """Bring the database schema to the newest revision, and give DATABASE_SERVICE_ROLE its rights. Safe at any time."""
    revision = asyncio.run(upgrade(session.settings))
    role = session.settings.database_service_role
    if as_json:
        return print_json({"revision": revision, "service_role": role})
    provided = f"; {role} may do what authz and meter need" if role else ""
    return click.echo(f"the database is at revision {revision}{provided}")


@click.command("prune")
@json_option
@pass_session
def prune(session: Session, as_json: bool) -> None:
    """Enforce retention now: drop old months of the audit log, delete expired prompts."""
    now = datetime.now(UTC)
    kept_since = now - timedelta(days=session.settings.audit_log_default_retention_days)
    pruned = session.run(lambda database: Retention(database).prune(kept_since, now))
    if as_json:
        return print_json(
            {"audit_partitions": pruned.audit_partitions, "audit_links": pruned.audit_links, "prompts": pruned.prompts}
        )
    dropped = ", ".join(pruned.audit_partitions) or "none"
    return click.echo(f"dropped months of the audit log: {dropped}; deleted prompts: {pruned.prompts}")


@click.command("render-envoy")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory to write to; made if new."
)
@json_option
@pass_session
def render_envoy(session: Session, out: Path, as_json: bool) -> None:
    """Write everything that Envoy reads, as control would: configuration, and tokens in files of mode 0600."""
    # Envoy's message classes take a second to load, which no other command should wait for.
    from ops.data_plane import envoy_files

    directory = out.absolute()
    envoy_files.write(session.settings, directory)
    if as_json:
        return print_json({"directory": str(directory), "bootstrap": str(directory / "bootstrap.yaml")})
    return click.echo(f"envoy --config-path {directory / 'bootstrap.yaml'}")
