"""`python -m bench.fairness`: measures how the queue shares slots, and prints tables or JSON."""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench.fairness import page
from bench.fairness.plan import DEFAULT, QUICK, SMOKE
from bench.fairness.run import PARTS, Run
from bench.sides.side import BenchFailed
from ops.embedded.errors import StackError

# Two connections of each caller at Envoy, and everything else.
_OPEN_FILES_SPARE = 1000
_FILE_WIDTH = 160


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described = argparse.ArgumentParser("python -m bench.fairness", description="Measures how the queue shares slots.")
    described.add_argument("--quick", action="store_true", help="a minute of shares, and fewer callers")
    described.add_argument("--smoke", action="store_true", help="prove that every experiment works")
    described.add_argument("--seconds", type=float, help="measured time of the shares")
    described.add_argument("--waiting", type=int, help="callers that wait at the same time")
    described.add_argument("--only", nargs="+", default=[], choices=[*PARTS], help="only these experiments")
    described.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    described.add_argument("--output", type=Path, metavar="FILE", help="also write the JSON document to FILE")
    described.add_argument("--docs", action="store_true", help="write the results into docs/fair-share.md")
    described.add_argument("--render", type=Path, metavar="FILE", help="measure nothing; read the JSON document FILE")
    return described


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints. Returns 0, 1 with a sentence on stderr, or 130 if interrupted."""
    arguments = parser().parse_args(argv)
    plan = SMOKE if arguments.smoke else QUICK if arguments.quick else DEFAULT
    given = {name: getattr(arguments, name) for name in ("seconds", "waiting")}
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
    errors = Console(stderr=True, highlight=False, markup=False)
    started = time.monotonic()
    try:
        if arguments.render:
            document = json.loads(arguments.render.read_text())
        else:
            _raise_open_files(2 * max(plan.waiting, plan.leaving + plan.staying) + _OPEN_FILES_SPARE)
            with tempfile.TemporaryDirectory(prefix="neuronetz-fairness-") as directory:

                def report(step: str) -> None:
                    errors.print(f"{time.monotonic() - started:4.0f} s  {step}")

                document = Run(plan, Path(directory), report).measured(arguments.only or PARTS)
    except (BenchFailed, StackError, OSError) as failed:
        errors.print(str(failed) or type(failed).__name__)
        return 1
    except KeyboardInterrupt:
        return 130
    if arguments.output:
        arguments.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        page.write(document)
    if arguments.json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        width = None if sys.stdout.isatty() else _FILE_WIDTH
        page.print_all(document, Console(highlight=False, markup=False, width=width))
    return 0


def _raise_open_files(count: int) -> None:
    """Raises the limit of this process and of those that it starts. Raises BenchFailed if it may not be that high."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count > hard:
        raise BenchFailed(f"{count} open files are needed and the limit is {hard}: ulimit -Hn {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


if __name__ == "__main__":
    # Exits the contexts, which stop all programs that were started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
