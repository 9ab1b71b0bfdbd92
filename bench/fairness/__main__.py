"""`python -m bench.fairness`: measures how the queue shares slots, and prints tables or JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import program
from bench.fairness import page
from bench.fairness.plan import DEFAULT, QUICK, SMOKE
from bench.fairness.run import PARTS, Run

# Two connections of each caller at Envoy, and everything else.
_OPEN_FILES_SPARE = 1000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described = argparse.ArgumentParser("python -m bench.fairness", description="Measures how the queue shares slots.")
    described.add_argument("--quick", action="store_true", help="a minute of shares, and fewer callers")
    described.add_argument("--smoke", action="store_true", help="prove that every experiment works")
    described.add_argument("--seconds", type=float, help="measured time of the shares")
    described.add_argument("--waiting", type=int, help="callers that wait at the same time")
    described.add_argument("--only", nargs="+", default=[], choices=[*PARTS], help="only these experiments")
    program.add_output_options(described, "docs/fair-share.md")
    return described


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints. Returns 0, 1 with a sentence on stderr, or 130 if interrupted."""
    arguments = parser().parse_args(argv)
    plan = SMOKE if arguments.smoke else QUICK if arguments.quick else DEFAULT
    given = {name: getattr(arguments, name) for name in ("seconds", "waiting")}
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})

    def measure(directory: Path, report: Callable[[str], None]) -> Any:
        program.raise_open_files(2 * max(plan.waiting, plan.leaving + plan.staying) + _OPEN_FILES_SPARE)
        return Run(plan, directory, report).measured(arguments.only or PARTS)

    return program.run(arguments, measure, page.write, page.print_all)


if __name__ == "__main__":
    program.exit_with(main)
