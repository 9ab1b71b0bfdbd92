"""`python -m bench`: measures the gateway by turns with other programs, and prints tables or JSON."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import page, plan, program, table, workloads
from bench.run import Comparison, measured
from bench.sides.gateway import Checkout
from bench.workloads import Workload


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
    program.add_output_options(described, "docs/performance.md")
    return described


def chosen_plan(arguments: argparse.Namespace) -> plan.Plan:
    """The plan with the given options in it."""
    chosen = plan.SMOKE if arguments.smoke else plan.QUICK if arguments.quick else plan.DEFAULT
    given = {name: getattr(arguments, name) for name in ("rounds", "seconds", "workers")}
    return replace(chosen, **{name: value for name, value in given.items() if value is not None})


def _workloads(chosen: plan.Plan) -> list[Workload]:
    return [*workloads.few_keys(chosen), *workloads.many_keys(chosen)]


def _unknown_names(names: Sequence[str], chosen: plan.Plan) -> list[str]:
    known = {name for workload in _workloads(chosen) for name in workload.names}
    return [name for name in names if name not in known]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints. Returns 0, 1 with a sentence on stderr, or 130 if interrupted."""
    described = parser()
    arguments = described.parse_args(argv)
    chosen = chosen_plan(arguments)
    if min(chosen.rounds, chosen.seconds, chosen.workers) <= 0:
        described.error("all numbers must be positive")
    if arguments.docs and arguments.only:
        described.error("the page has all workloads, so --docs excludes --only")
    if unknown := _unknown_names(arguments.only, chosen):
        known = ", ".join(workload.name for workload in _workloads(chosen))
        described.error(f"no workload has the name {unknown[0]!r}; the names are {known}")

    def measure(directory: Path, report: Callable[[str], None]) -> Any:
        against = os.environ.get("BENCH_AGAINST")
        settings = os.environ.get("BENCH_AGAINST_SETTINGS", "")
        comparison = Comparison(
            baseline=Checkout.baseline(Path(against), settings) if against else None,
            fastapi=not arguments.smoke,
            litellm=os.environ.get("BENCH_PEERS") == "1",
            only=tuple(arguments.only),
        )
        return measured(chosen, comparison, directory, report)

    return program.run(arguments, measure, page.write, table.print_all)


if __name__ == "__main__":
    program.exit_with(main)
