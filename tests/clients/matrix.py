"""Runs every client in every case, and renders the table."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clients.cases import CASES, Case
from tests.clients.client import Client, Result, Target
from tests.clients.gateway import Gateway
from tests.polling import eventually

BEGIN, END = "<!-- make clients -->\n", "<!-- end of make clients -->\n"
ABORT_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Cell:
    """The outcome of one client in one case: `ok`, `missing` or `failed`, and the reason of the last two."""

    outcome: str
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One client with its cells, in the order of the cases."""

    name: str
    version: str
    cells: tuple[Cell, ...]


def run_case(client: Client, case: Case, gateway: Gateway) -> Cell:
    """Runs a client in one case, and compares the audit rows with what the simulated Ollama did."""
    if reason := client.missing.get(case.action) or client.missing.get(case.name):
        return Cell("missing", reason)
    gateway.ollama.clear_records()
    gateway.ollama.behave(**case.behaviour)
    try:
        with tempfile.TemporaryDirectory(prefix="client-", ignore_cleanup_errors=True) as directory:
            result = _result(client, case, gateway, Path(directory))
        wrong = case.judge(result, gateway)
    finally:
        gateway.ollama.behave()
    gateway.ollama.wait_until_idle()
    reasons = [wrong] if wrong else asyncio.run(gateway.disagreements())
    return Cell("failed", "; ".join(reasons)) if reasons else Cell("ok")


def _result(client: Client, case: Case, gateway: Gateway, directory: Path) -> Result:
    target = Target(gateway.stack.url, getattr(gateway, case.key), case.model or client.model)
    process = client.start(case.action, target, directory)
    try:
        if case.action == "abort" and client.interrupts:

            def answers() -> bool:
                return process.poll() is not None or any(record["frames"] > 3 for record in gateway.ollama.requests())

            eventually(answers, ABORT_TIMEOUT_S)
            os.killpg(process.pid, signal.SIGINT)
        return client.result(process)
    finally:
        _end(process.pid)


def _end(group: int) -> None:
    """Ends what a client may have left running."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def render(rows: Sequence[Row]) -> str:
    """The table as Markdown, with the reasons of missing actions as notes."""
    head = ["client", "version", *(case.name for case in CASES)]
    notes: dict[str, int] = {}
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [_mark(cell, notes) for cell in row.cells]
        lines.append(f"| {' | '.join([row.name, row.version, *cells])} |")
    footnotes = [f"{number}. {reason[0].upper()}{reason[1:]}." for reason, number in notes.items()]
    return "\n".join([*lines, *(["", *footnotes] if footnotes else [])]) + "\n"


def _mark(cell: Cell, notes: dict[str, int]) -> str:
    if cell.outcome == "ok":
        return "ok"
    number = notes.setdefault(cell.reason, len(notes) + 1)
    return f"no ({number})" if cell.outcome == "missing" else f"**failed** ({number})"


def replace_table(page: str, table: str) -> str:
    """A page with `table` between its markers. Raises ValueError without both markers."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"
