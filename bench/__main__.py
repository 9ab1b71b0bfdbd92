"""`python -m bench`: measures the gateway by turns with other programs, and prints tables or JSON."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import page, plan, table
from bench.run import Comparison, measured
from bench.sides.gateway import Checkout
from bench.sides.side import BenchFailed
from ops.embedded.errors import StackError

_FILE_WIDTH = 180


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described = argparse.ArgumentParser("python -m bench", description="Measures the cost of the gateway.")
    described.add_argument("--quick", action="store_true", help="one short round with fewer streams and keys")
    described.add_argument(
        "--smoke", action="store_true", help="prove that every workload works, without other gateways"
    )
    described.add_argument("--rounds", type=int, help="number of rounds")
    described.add_argument("--seconds", type=float, help="measured time of one closed loop")
    described.add_argument("--workers", type=int, help="processes each of authz, of meter and of other gateways")
    described.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these workloads: W1, W2/100 …")
    described.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    described.add_argument("--output", type=Path, metavar="FILE", help="also write the JSON document to FILE")
    described.add_argument("--docs", action="store_true", help="write the results into docs/performance.md")
    described.add_argument("--render", type=Path, metavar="FILE", help="measure nothing; read the JSON document FILE")
    return described


def chosen_plan(arguments: argparse.Namespace) -> plan.Plan:
    """The plan with the given options in it."""
    chosen = plan.SMOKE if arguments.smoke else plan.QUICK if arguments.quick else plan.DEFAULT
    given = {name: getattr(arguments, name) for name in ("rounds", "seconds", "workers")}
    return replace(chosen, **{name: value for name, value in given.items() if value is not None})


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints. Returns 0, 1 with a sentence on stderr, or 130 if interrupted."""
    described = parser()
    arguments = described.parse_args(argv)
    chosen = chosen_plan(arguments)
    if min(chosen.rounds, chosen.seconds, chosen.workers) <= 0:
        described.error("all numbers must be positive")
    if arguments.docs and arguments.only:
        described.error("the page has all workloads, so --docs excludes --only")
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        if arguments.render:
            document = json.loads(arguments.render.read_text())
        else:
            against = os.environ.get("BENCH_AGAINST")
            comparison = Comparison(
                baseline=Checkout.baseline(Path(against), os.environ.get("BENCH_AGAINST_SETTINGS", ""))
                if against
                else None,
                fastapi=not arguments.smoke,
                litellm=os.environ.get("BENCH_PEERS") == "1",
                only=tuple(arguments.only),
            )
            with tempfile.TemporaryDirectory(prefix="neuronetz-bench-") as directory:
                started = time.monotonic()

                def report(step: str) -> None:
                    errors.print(f"{time.monotonic() - started:4.0f} s  {step}")

                document = measured(chosen, comparison, Path(directory), report)
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
        # A file or a pipe has no width, and the tables are wider than a terminal by default.
        width = None if sys.stdout.isatty() else _FILE_WIDTH
        table.print_all(document, Console(highlight=False, width=width))
    return 0


if __name__ == "__main__":
    # Exits the contexts, which stop all programs that were started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
