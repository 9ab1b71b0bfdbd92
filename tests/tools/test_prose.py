"""The prose check finds each refused word where it is prose, and passes over code and quotations."""

import subprocess
from pathlib import Path

import pytest

from tools.prose import findings, load_rules, main

RULES = load_rules()

PYTHON = '''\
"""Reads the file.

Whoever calls it is told.
"""
size = 1  # nobody knows
message = f"the store is away: {size}"
protocol = b"mend"
key = "told"
'''


def lines_of(name: str, source: str) -> list[int]:
    """The line numbers of the findings."""
    return [int(finding.split(":")[1]) for finding in findings(name, source, RULES)]


def test_docstrings_comments_and_messages_of_python_are_checked() -> None:
    assert lines_of("module.py", PYTHON) == [3, 3, 5, 6]


@pytest.mark.parametrize("name", ["backend_away", "test_a_client_is_told", "untold_log"])
def test_a_refused_word_is_found_within_an_identifier(name: str) -> None:
    assert lines_of("module.py", f"{name} = 1\n") == [1]


def test_an_identifier_that_only_contains_the_letters_of_a_word_passes() -> None:
    assert lines_of("module.py", "mushroom = saidi = amendment = 1\n") == []


def test_code_spans_fences_and_link_targets_of_markdown_are_passed_over() -> None:
    page = "See `told` and [the page](away.md).\n\n```sh\necho nobody\n```\n\nThe backend is away.\n"
    assert lines_of("page.md", page) == [7]


@pytest.mark.parametrize(
    ("name", "sign"), [("a.yaml", "#"), ("a.lua", "--"), ("a.sql", "--"), ("a.wat", ";;"), ("Makefile", "#")]
)
def test_comments_of_configuration_are_checked_and_values_are_not(name: str, sign: str) -> None:
    assert lines_of(name, f"key: told\n  {sign} Nobody reads it.\n") == [2]


def test_a_finding_names_file_line_word_and_replacement() -> None:
    (finding,) = findings("page.md", "It is mended.\n", RULES)
    assert finding == "page.md:1: 'mended'; write: fix, repair, remedy"


def test_the_command_fails_when_a_tracked_file_has_a_refused_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("Nobody is told.\n")
    (tmp_path / "untracked.md").write_text("Nobody is told.\n")
    for arguments in (["init", "-q"], ["add", "page.md"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    assert main([], tmp_path) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["page.md", "page.md"]
    (tmp_path / "page.md").write_text("No client is notified.\n")
    assert main([], tmp_path) == 0
