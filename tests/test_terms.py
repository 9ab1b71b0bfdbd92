"""docs/terms.md defines the words that the code uses, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/terms.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| term ")
]
PACKAGES = ("gateway", "authz", "meter", "ops")

# The modules whose public classes are the vocabulary of the project.
VOCABULARY = (
    "gateway/values.py", "gateway/record/*.py", "gateway/quota/port.py", "gateway/quota/rebuild.py",
    "gateway/catalog/snapshot.py", "gateway/ledger/outbox.py", "gateway/ledger/store.py", "gateway/wire/surfaces.py",
    "gateway/request/generation.py", "authz/check.py", "authz/checked_request.py", "authz/admit.py", "authz/policy.py",
    "authz/denials.py", "authz/keys/*.py", "meter/exchange.py", "meter/phases.py", "meter/drain.py", "meter/renewal.py",
    "meter/access_log/disconnect_causes.py", "meter/prompt_log/writer.py", "ops/control/reaper.py",
    "ops/control/discovery.py",
)  # fmt: skip
# Classes that are details of one module: protocols and results that are explained where they are used.
DETAILS = {
    "ApiKey", "Closed", "KeyHasher", "LastUsed", "OutOfOrder", "Rebuildable",
}  # fmt: skip


def terms_in_code() -> set[str]:
    return {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[1])}


def modules() -> Iterator[ast.Module]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ast.parse(path.read_text(encoding="utf-8"))


def names_in(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name):
                yield name


def test_every_term_has_a_name_in_the_code() -> None:
    defined = {name for module in modules() for name in names_in(module)}
    for script in (ROOT / "gateway").rglob("*.lua"):
        defined |= set(re.findall(r"[a-z_]+", script.read_text(encoding="utf-8")))
    assert sorted(terms_in_code() - defined) == []


def test_every_class_of_the_vocabulary_is_a_term() -> None:
    classes = {
        node.name
        for pattern in VOCABULARY
        for path in ROOT.glob(pattern)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }
    assert sorted(classes - terms_in_code() - DETAILS) == []
    assert sorted(DETAILS - classes) == []


def test_a_name_is_listed_under_one_term() -> None:
    names = [name for row in ROWS for name in re.findall(r"`([^`]+)`", row[1])]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_terms_are_in_alphabetical_order_and_complete() -> None:
    terms = [row[0] for row in ROWS]
    assert terms == sorted(terms)
    assert [row for row in ROWS if len(row) != 3 or not all(row)] == []
