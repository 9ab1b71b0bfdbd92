"""doctor."""

from __future__ import annotations

import asyncio
import textwrap
from collections import Counter
from dataclasses import asdict

import rich_click as click
from click.exceptions import Exit

from gateway.errors import SettingsError
from gateway.settings import load
from ops.cli.client_address import client_address
from ops.cli.output import print_json, text
from ops.cli.parameters import json_option
from ops.cli.session import Session, pass_session
from ops.cli.table import terminal_width
from ops.doctor import configuration
from ops.doctor.check import Check, Status, failed
from ops.doctor.examination import examine

_STATUS_WIDTH = 7
# Names of models are longer, and have their details on the next line where both do not fit.
_NAME_WIDTH_MAX = 20
_COLOURS: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "red"}


@click.command("doctor")
@json_option
@pass_session
def doctor(session: Session, as_json: bool) -> None:
    """Check every part of the gateway and print how to fix its problems. Exit code 1 if a part does not work."""
    checks = _run_checks(session)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        _print(checks)
    if any(check.status == "failed" for check in checks):
        raise Exit(1)


def _run_checks(session: Session) -> list[Check]:
    try:
        # The checks name misspelt settings, which `session.settings` does on stderr.
        settings = load(session.env_file)
    except (SettingsError, OSError) as error:
        return [failed("settings", str(error), "correct it in the env file or the environment")]
    directory = session.state_dir
    if directory and session.stopped_up:
        # Every other part would fail for this reason.
        stopped = failed("gateway", f"the gateway of {directory} is not running", session.up_command(directory))
        return [*configuration.check(session.env_file), stopped]
    public = client_address(session)
    return asyncio.run(examine(settings, session.env_file, public.url, public.ca_file))


def _print(checks: list[Check]) -> None:
    width = min(_NAME_WIDTH_MAX, max(len(check.name) for check in checks))
    for check in checks:
        status = click.style(f"{check.status:<{_STATUS_WIDTH}}", fg=_COLOURS[check.status])
        first, *more = _lines(check, width, terminal_width() - _STATUS_WIDTH - 2)
        click.echo(f"{status}  {first}")
        for line in more:
            click.echo(" " * (_STATUS_WIDTH + 2) + line)
    counted = Counter(check.status for check in checks)
    click.echo(", ".join(f"{counted[status]} {status}" for status in _COLOURS))


def _lines(check: Check, name_width: int, columns: int) -> list[str]:
    """The name of a check, and next to it its detail and its fix, on one line if that fits into `columns`."""
    indent = " " * (name_width + 2)
    remedy = f"-> {text(check.remedy)}" if check.remedy else ""
    whole = f"{check.name:<{name_width}}  {text(check.detail)} {remedy}".rstrip()
    if len(whole) <= columns:
        return [whole]
    # A word such as a path is not divided, because it may be copied.
    wrapped = [
        line
        for part in (text(check.detail), remedy)
        for line in textwrap.wrap(part, columns - len(indent), break_long_words=False, break_on_hyphens=False)
    ]
    if len(check.name) > name_width:
        return [check.name, *(indent + line for line in wrapped)]
    return [f"{check.name:<{name_width}}  {wrapped[0]}", *(indent + line for line in wrapped[1:])]
