"""migrate, prune and render-envoy."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import rich_click as click

from ops.cli.confirmation import confirm, yes_option
from ops.cli.output import print_json
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.database.retention import Retention


@click.command("migrate")
@json_option
@pass_session
def migrate(session: Session, as_json: bool) -> None:
    """Upgrade the database schema to the newest revision and grant DATABASE_SERVICE_ROLE its rights. Safe to repeat."""
    # This import takes half a second, and no other command needs it.
    from ops.database.migrate import upgrade

    revision = asyncio.run(upgrade(session.settings))
    role = session.settings.database_service_role
    if as_json:
        return print_json({"revision": revision, "service_role": role})
    granted = f"; {role} has the rights that authz and meter need" if role else ""
    return click.echo(f"the database is at revision {revision}{granted}")


@click.command("prune")
@yes_option
@json_option
@pass_session
def prune(session: Session, yes: bool, as_json: bool) -> None:
    """Enforce retention now: drop expired months of the audit log and delete expired prompts."""
    days = session.settings.audit_log_default_retention_days
    confirm(f"Delete audit rows older than {days} days and expired prompts?", yes=yes)
    now = datetime.now(UTC)
    retained_since = now - timedelta(days=days)
    pruned = session.run(lambda database: Retention(database).prune(retained_since, now))
    if as_json:
        return print_json(
            {"audit_partitions": pruned.audit_partitions, "audit_links": pruned.audit_links, "prompts": pruned.prompts}
        )
    months = ", ".join(pruned.audit_partitions) or "none"
    return click.echo(f"dropped months of the audit log: {months}; deleted prompts: {pruned.prompts}")


@click.command("render-envoy")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Write to this directory, which is created if necessary.",
)
@json_option
@pass_session
def render_envoy(session: Session, out: Path, as_json: bool) -> None:
    """Write the files that Envoy reads, as control does: its configuration, and tokens in files of mode 0600."""
    # Envoy's message classes take a second to import, and no other command needs them.
    from ops.data_plane import envoy_files

    directory = out.absolute()
    envoy_files.write(session.settings, directory)
    if as_json:
        return print_json({"directory": str(directory), "bootstrap": str(directory / "bootstrap.yaml")})
    return click.echo(f"envoy --config-path {directory / 'bootstrap.yaml'}")
