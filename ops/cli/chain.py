"""verify-audit."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import rich_click as click

from gateway.errors import GatewayError
from ops.cli.output import print_json
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.database.audit_chain import AuditChain


class AuditLogChanged(GatewayError):
    """The audit log differs from what was written to it."""


def _head(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, str] | None:
    if value is None:
        return None
    if not (match := re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", value.strip().lower())):
        raise click.BadParameter("expected LINK:HASH, as verify-audit prints it")
    return int(match[1]), match[2]


@click.command("verify-audit")
@click.option(
    "--head",
    metavar="LINK:HASH",
    callback=_head,
    help="A head that an earlier run printed; it must still be in the chain.",
)
@json_option
@pass_session
def verify_audit(session: Session, head: tuple[int, str] | None, as_json: bool) -> None:
    """Verify that no row of the audit log was changed, removed or inserted. Exit code 1 if one was.

    Anyone who can change the whole database can also write a whole new chain. Store the printed head in another place
    from time to time, and pass it to --head later.
    """
    retained_since = datetime.now(UTC) - timedelta(days=session.settings.audit_log_default_retention_days)
    report = session.run(lambda database: AuditChain(database).verify(retained_since, head))
    newest = f"{report.head.link}:{report.head.hash}" if report.head else None
    if as_json:
        unsealed = {"unsealed_rows": report.unsealed.rows, "unsealed_since": report.unsealed.since}
        print_json(
            {"links": report.links, "rows": report.rows, "head": newest, **unsealed, "problems": report.problems}
        )
    else:
        click.echo(f"{report.rows} rows in {report.links} links; head {newest or 'none'}")
        if report.unsealed.since:
            click.echo(
                f"{report.unsealed.rows} rows since {report.unsealed.since:%Y-%m-%d %H:%M:%SZ} are not sealed yet"
            )
    if report.problems:
        raise AuditLogChanged("the audit log was tampered with: " + "; ".join(report.problems))
