"""The two walks of docs/architecture.md: each file once, in an order that the imports allow."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
WALKS = ("A streamed chat, file by file", "A denied request, file by file")

# Files that a composition root connects: the entrances of a process, and the implementation of a port.
CONNECTED_BY_ROOT = {
    "authz/server.py": "authz/__main__.py",
    "meter/server.py": "meter/__main__.py",
    "meter/drain.py": "meter/__main__.py",
    "gateway/quota/redis/quota.py": "authz/__main__.py",
}

# The composition roots and the packages, the metrics, and what runs next to the requests: the renewal of holds, and the
# reports of models that a backend no longer has.
NOT_A_STEP = {f"{folder}/{name}.py" for folder in ("authz", "meter") for name in ("__init__", "__main__", "metrics")}
NOT_A_STEP |= {"meter/renewal.py", "meter/missing_models.py"}
# A request that fails over waits for the slot of another replica.
NOT_A_STEP |= {"meter/attempts.py"}
# Traces observe the steps.
NOT_A_STEP |= {"authz/check_span.py", "meter/stream_span.py", "meter/tracer.py", "meter/genai_metrics.py"}


def files_of(walk: str) -> list[str]:
    section = PAGE.partition(f"## {walk}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. `([^`]+)`", section, re.MULTILINE)


@cache
def imported_by(file: str) -> set[str]:
    """The project's files that `file` imports."""
    modules = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {f"{module.replace('.', '/')}.py" for module in modules}


def predecessor_of(file: str, before: list[str]) -> str | None:
    """The file of the walk that leads to `file`, or None when none does."""
    if root := CONNECTED_BY_ROOT.get(file):
        return root if file in imported_by(root) else None
    if file.endswith(".lua"):
        script = f'"{Path(file).stem}"'
        return next(
            (each for each in before if each.endswith("/quota.py") and script in (ROOT / each).read_text()), None
        )
    return next((each for each in before if each.endswith(".py") and file in imported_by(each)), None)


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_visits_each_file_once(walk: str) -> None:
    files = files_of(walk)
    assert len(files) > 10
    assert sorted(files) == sorted(set(files))
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_follows_the_imports(walk: str) -> None:
    first, *files = files_of(walk)
    assert first == "envoy/listener.yaml"
    unreachable = [file for place, file in enumerate(files) if predecessor_of(file, files[:place]) is None]
    assert unreachable == []


def test_the_walks_together_visit_every_file_of_the_request_path() -> None:
    """A new step of `authz` or `meter` has a place in a walk, unless it is one of the few that no request passes."""
    visited = {file for walk in WALKS for file in files_of(walk)}
    steps = {f"{folder}/{file.name}" for folder in ("authz", "meter") for file in (ROOT / folder).glob("*.py")}
    assert sorted(steps - visited) == sorted(NOT_A_STEP)
