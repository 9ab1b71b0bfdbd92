"""What stands in docs/ is held against the tables of the code."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from gateway.errors import STATUS, Code
from gateway.wire.surfaces import SURFACES, Surface
from ops.cli import PANELS
from tests.surface_table import table

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
COMMANDS = [name for commands in PANELS.values() for name in commands]

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_ERROR_ROW = re.compile(r"^\| (\d{3}) \| `(\w+)` \| .+ \|$", re.MULTILINE)


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def test_the_error_table_is_that_of_the_code() -> None:
    documented = [(code, int(status)) for status, code in _ERROR_ROW.findall(read("api.md"))]
    assert sorted(documented) == sorted((str(code), STATUS[code]) for code in Code)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_every_surface_stands_in_the_api_with_dialect_scope_and_cap(surface: Surface) -> None:
    cap = f"`{'.'.join(surface.cap_field)}`" if surface.cap_field else "none"
    row = f"| `{surface.path}` | {surface.dialect} | `{surface.scope}` | {cap} |"
    assert any(line.startswith(row) for line in read("api.md").splitlines()), row


def test_the_table_of_surfaces_says_what_reader_and_rewriter_do() -> None:
    """`python -m tests.surface_table` prints the rows that belong there."""
    rows = [line for line in read("surfaces.md").splitlines() if line.startswith("|")]
    assert rows == table().splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_in_the_table_of_operating(command: str) -> None:
    rows = [line.split("|")[1] for line in read("operating.md").splitlines() if line.startswith("| `")]
    assert any(f"`{command}`" in first_cell for first_cell in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = [urlsplit(target) for target in _LINK.findall(page.read_text(encoding="utf-8"))]
    relative = [target.path for target in targets if not target.scheme and not target.netloc and target.path]
    assert [path for path in relative if not (page.parent / path).is_file()] == []


def test_every_page_stands_in_the_navigation() -> None:
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = [page for entry in configuration["nav"] for page in entry.values()]
    assert sorted(listed) == [str(page.relative_to(DOCS)) for page in PAGES]
