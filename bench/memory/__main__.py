"""`python -m bench.memory`: measures the memory of the gateway over many requests, and prints tables or JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import program
from bench.memory import page
from bench.memory.plan import DEFAULT, QUICK, SMOKE
from bench.memory.run import measured

# Two connections of each stream at Envoy, and everything else.
_OPEN_FILES_SPARE = 1000


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described = argparse.ArgumentParser("python -m bench.memory", description="Measures the memory of the gateway.")
    described.add_argument("--quick", action="store_true", help="a tenth of the requests, and fewer streams")
    described.add_argument("--smoke", action="store_true", help="prove that the measurement works")
    program.add_output_options(described, "docs/memory.md")
    return described


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints. Returns 0, 1 with a sentence on stderr, or 130 if interrupted."""
    arguments = parser().parse_args(argv)
    plan = SMOKE if arguments.smoke else QUICK if arguments.quick else DEFAULT

    def measure(directory: Path, report: Callable[[str], None]) -> Any:
        program.raise_open_files(2 * plan.streams + _OPEN_FILES_SPARE)
        return measured(plan, directory, report)

    return program.run(arguments, measure, page.write, page.print_all)


if __name__ == "__main__":
    program.exit_with(main)
