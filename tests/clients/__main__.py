"""`python -m tests.clients` runs the clients that `make clients` installed, and prints the table."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.clients.cases import CASES
from tests.clients.catalog import clients
from tests.clients.client import Client
from tests.clients.gateway import Gateway, running_gateway
from tests.clients.matrix import Row, render, replace_table, run_case
from tests.clients.settings import JAVASCRIPT, JAVASCRIPT_SOURCES, PROGRAMS


def main() -> int:
    """Returns 1 if a client failed in a case."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients")
    parser.add_argument("--only", action="append", metavar="NAME", help="run the clients whose names contain NAME")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the table between the markers of this page")
    arguments = parser.parse_args()
    # The gateway and the clients end with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not PROGRAMS.is_dir():
        sys.stderr.write("the clients are not installed; run make clients\n")
        return 1
    for script in JAVASCRIPT_SOURCES.glob("*.mjs"):
        shutil.copy(script, JAVASCRIPT)
    chosen = [each for each in clients() if any(part in each.name for part in arguments.only or [""])]
    with tempfile.TemporaryDirectory(prefix="clients-") as directory, running_gateway(Path(directory)) as gateway:
        rows = [_run(client, gateway) for client in chosen]
    table = render(rows)
    sys.stdout.write(table)
    if arguments.write:
        arguments.write.write_text(replace_table(arguments.write.read_text(encoding="utf-8"), table), encoding="utf-8")
    return int(any(cell.outcome == "failed" for row in rows for cell in row.cells))


def _run(client: Client, gateway: Gateway) -> Row:
    cells = []
    for case in CASES:
        cell = run_case(client, case, gateway)
        sys.stderr.write(f"{client.name} {client.version}, {case.name}: {cell.outcome} {cell.reason}\n")
        cells.append(cell)
    return Row(client.name, client.version, tuple(cells))


if __name__ == "__main__":
    sys.exit(main())
