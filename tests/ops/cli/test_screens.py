"""What tables look like on terminals of 80, 100 and 140 columns."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from rich.cells import cell_len

from gateway.values import Outcome
from ops.cli.table import Column, print_table
from tests.ops.cli.conftest import Operator
from tests.ops.cli.test_usage_and_audit import record
from tools.terminal import run_on_terminal

WIDTHS = (80, 100, 140)
TENANT = "Forschung und Entwicklung"
MODELS = ["llama3.2:latest", "nomic-embed-text:latest", "qwen3:0.6b", "gpt-oss:120b"]


@pytest.fixture
def prefix(operator: Operator) -> str:
    """A gateway with a tenant, two keys and some audit rows; the prefix of the first key."""
    operator.does("create-tenant", "--name", TENANT, "--models", ",".join(MODELS), "--rpm", "1200")
    operator.does("set-budget", "--tenant", TENANT, "--monthly", "5000000")
    prefix: str = operator.reads("create-key", "--tenant", TENANT, "--name", "laptop of Ada", "--expires", "90d")[
        "prefix"
    ]
    operator.does("create-key", "--tenant", TENANT, "--name", "ci")
    record(
        operator,
        "one",
        tenant=TENANT,
        key_prefix=prefix,
        outcome=Outcome.DENIED,
        code="concurrency_exceeded",
        status=429,
    )
    return prefix


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setenv("COLUMNS", str(request.param))
    yield request.param


def screen(operator: Operator, *arguments: str) -> str:
    """What a successful command prints to stdout; a note on stderr may name columns that were left out."""
    result = operator.run(*arguments)
    assert result.exit_code == 0, result.output
    assert all(line.startswith("note: the terminal is too narrow for ") for line in result.stderr.splitlines())
    return result.stdout


def test_no_line_is_wider_than_the_terminal_and_no_cell_is_cut(operator: Operator, prefix: str, width: int) -> None:
    for command in ("list-tenants", "list-keys", "show-audit", "show-usage --by key", "list-backends"):
        output = screen(operator, *command.split())
        assert max(map(cell_len, output.splitlines())) <= width, command
        assert "…" not in output, command


def test_names_prefixes_models_and_codes_are_complete_at_every_width(
    operator: Operator, prefix: str, width: int
) -> None:
    tenants, keys, audit = (screen(operator, each) for each in ("list-tenants", "list-keys", "show-audit"))
    assert all(each in tenants for each in (TENANT, "1,200", "100,000*", *MODELS))
    assert all(each in keys for each in (prefix, "laptop of Ada", TENANT, "active"))
    assert all(each in audit for each in (prefix, "429", "concurrency_exceeded"))


def test_less_important_columns_are_left_out_first_and_named(
    operator: Operator, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    headings = {}
    for columns in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(columns))
        result = operator.run("list-tenants")
        headings[columns] = result.stdout.splitlines()[0]
        assert ("created" in result.stderr) == ("created" not in headings[columns])
    assert "tenant" in headings[80]
    assert "created" not in headings[80]
    assert len(headings[80].split()) < len(headings[100].split()) <= len(headings[140].split())


def test_wide_shows_every_column_on_one_line_for_each_row(operator: Operator, prefix: str, width: int) -> None:
    output = screen(operator, "list-keys", "--wide")
    row = next(line for line in output.splitlines() if prefix in line)
    assert all(each in row for each in ("1,200 (tenant)", "8 (default)", *MODELS, "chat, embeddings"))
    assert "request_id" in screen(operator, "show-audit", "--wide").splitlines()[0]


def test_a_row_whose_identifying_cell_exceeds_the_terminal_is_not_cut(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "n" * 200
    print_table(["name", Column("other", rank=1)], [(name, "x")], empty="")
    assert name in capsys.readouterr().out


def test_no_line_of_doctor_is_wider_than_the_terminal(operator: Operator, width: int) -> None:
    """Except a word that would have to be divided, such as a path."""
    result = operator.run("doctor")
    shown = result.stdout.splitlines()
    assert len(shown) > 5
    assert [line for line in shown if cell_len(line) > width and " " in line[30:].strip()] == []


@pytest.mark.parametrize(
    ("command", "environ", "is_coloured"),
    [("doctor", {}, True), ("doctor", {"NO_COLOR": "1"}, False), ("list-tenants", {}, False)],
)
def test_only_a_report_has_colour_and_none_with_no_color(
    operator: Operator, command: str, environ: dict[str, str], is_coloured: bool
) -> None:
    arguments = [sys.executable, "-m", "ops.cli", "--env-file", str(operator.env_file), command]
    assert ("\x1b[3" in run_on_terminal(arguments, 80, environ)) is is_coloured
