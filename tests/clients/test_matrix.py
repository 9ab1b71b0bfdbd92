"""The table of clients, and the pages and pins that belong to it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clients.cases import CASES
from tests.clients.client import Result, read_agent, read_library
from tests.clients.matrix import BEGIN, END, Cell, Row, render, replace_table
from tests.clients.settings import JAVASCRIPT_SOURCES, ROOT

PAGE = ROOT / "docs" / "clients.md"


def test_a_cell_that_is_not_ok_has_its_reason_in_a_note() -> None:
    missing, failed, ok = Cell("missing", "it lists no models"), Cell("failed", "it ended"), Cell("ok")
    rows = [Row("A", "1.0", (missing, ok)), Row("B", "2.0", (missing, failed))]
    *_, first, second, blank, note, other = render(rows).splitlines()
    assert first == "| A | 1.0 | no (1) | ok |"
    assert second == "| B | 2.0 | no (1) | **failed** (2) |"
    assert (blank, note, other) == ("", "1. It lists no models.", "2. It ended.")


def test_the_table_replaces_the_one_between_the_markers() -> None:
    page = f"before\n{BEGIN}old\n{END}after\n"
    assert replace_table(page, "new\n") == f"before\n{BEGIN}\nnew\n\n{END}after\n"
    assert replace_table(replace_table(page, "new\n"), "new\n") == replace_table(page, "new\n")
    with pytest.raises(ValueError, match="has no lines"):
        replace_table("a page", "new\n")


def test_the_page_has_a_table_of_these_cases_in_which_nothing_failed() -> None:
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert table.split("\n")[1] == f"| client | version | {' | '.join(case.name for case in CASES)} |"
    assert "failed" not in table


def test_the_versions_of_the_page_are_those_that_are_pinned() -> None:
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    pinned = set(json.loads((JAVASCRIPT_SOURCES / "package.json").read_text())["dependencies"].values())
    lock = (Path(__file__).parent / "requirements.lock").read_text()
    pinned |= set(re.findall(r"^[\w-]+==(\S+)", lock, re.MULTILINE))
    versions = re.findall(r"^\| [^|]+ \| (\d[\w.]*) \|", table, re.MULTILINE)
    assert len(versions) == 14
    assert set(versions) <= pinned


def test_the_pins_of_npm_have_hashes_and_no_addresses() -> None:
    lock = json.loads((JAVASCRIPT_SOURCES / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []


def test_the_result_of_a_library_is_in_its_last_line() -> None:
    assert read_library(0, 'a warning\n{"text": "hi", "dimensions": [3, 3]}\n', "") == Result("hi", dimensions=(3, 3))
    assert "boom" in (read_library(1, "", "boom").error or "")


def test_the_error_of_an_agent_is_all_that_it_printed() -> None:
    assert read_agent(0, "hello", "") == Result("hello")
    assert read_agent(1, "out", "err").error == "exit code 1: out\nerr"
