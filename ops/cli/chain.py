"""verify-audit."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import rich_click as click

from gateway.errors import GatewayError
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.cli.show import print_json
from ops.database.audit_chain import AuditChain


class AuditBroken(GatewayError):
    """The audit log is not what was written to it."""


def _head(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, str] | None:
    if value is None:
        return None
    if not (found := re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", value.strip().lower())):
        raise click.BadParameter("expected LINK:HASH as an earlier verify-audit printed it")
    return int(found[1]), found[2]


@click.command("verify-audit")
@click.option("--head", metavar="LINK:HASH", callback=_head, help="A head noted earlier; it must be in the chain.")
@json_option
@pass_session
def verify_audit(session: Session, head: tuple[int, str] | None, as_json: bool) -> None:
    """Check that no row of the audit log was changed, taken away or put in. Exit code 1 if one was.

    Whoever can change the whole database can make a whole new chain: note the head that is printed somewhere else from
    time to time, and give it back with --head.
    """
    kept_since = datetime.now(UTC) - timedelta(days=session.settings.audit_log_default_retention_days)
    verdict = session.run(lambda database: AuditChain(database).verify(kept_since, head))
    noted = f"{verdict.head[0]}:{verdict.head[1]}" if verdict.head else None
    if as_json:
        print_json({"links": verdict.links, "rows": verdict.rows, "head": noted, "problems": verdict.problems})
    else:
        click.echo(f"{verdict.rows} rows in {verdict.links} links; head {noted or 'none'}")
    if verdict.problems:
        raise AuditBroken("the audit log was tampered with: " + "; ".join(verdict.problems))
