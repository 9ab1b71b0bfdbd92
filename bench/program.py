"""What the programs of the benchmark have in common: measuring or reading a document, and its outputs."""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.sides.side import BenchFailed
from ops.embedded.errors import StackError

Measure = Callable[[Path, Callable[[str], None]], Any]
"""Measures with files in a directory, reports each step, and returns a document for JSON."""

# A file or a pipe has no width, and the tables are wider than a terminal by default.
_FILE_WIDTH = 180


def add_output_options(described: argparse.ArgumentParser, page: str) -> None:
    """Adds the options that `run` reads. `page` is the path of the page that --docs writes."""
    described.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    described.add_argument("--output", type=Path, metavar="FILE", help="also write the JSON document to FILE")
    described.add_argument("--docs", action="store_true", help=f"write the results into {page}")
    described.add_argument("--render", type=Path, metavar="FILE", help="measure nothing; read the JSON document FILE")


def run(
    arguments: argparse.Namespace,
    measure: Measure,
    write_page: Callable[[Any], None],
    print_all: Callable[[Any, Console], None],
) -> int:
    """Measures, or reads --render, and prints. Returns 0, 1 with a sentence on stderr, or 130 if interrupted."""
    errors = Console(stderr=True, highlight=False, markup=False)
    started = time.monotonic()
    try:
        if arguments.render:
            document = json.loads(arguments.render.read_text())
        else:
            with tempfile.TemporaryDirectory(prefix="neuronetz-bench-") as directory:

                def report(step: str) -> None:
                    errors.print(f"{time.monotonic() - started:4.0f} s  {step}")

                document = measure(Path(directory), report)
    except (BenchFailed, StackError, OSError) as failed:
        errors.print(str(failed) or type(failed).__name__)
        return 1
    except KeyboardInterrupt:
        return 130
    if arguments.output:
        arguments.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        write_page(document)
    if arguments.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        width = None if sys.stdout.isatty() else _FILE_WIDTH
        print_all(document, Console(highlight=False, markup=False, width=width))
    return 0


def raise_open_files(count: int) -> None:
    """Raises the limit of this process and of those that it starts. Raises BenchFailed if it may not be that high."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        raise BenchFailed(f"{count} open files are needed and the limit is {hard}: ulimit -Hn {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def exit_with(main: Callable[[], int]) -> None:
    """Exits with the result of `main`. SIGTERM exits its contexts, which stop all programs that were started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
