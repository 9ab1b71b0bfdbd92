"""The command lines in README.md and docs/ are valid: commands, options, arguments and targets of make exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ops.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_SHELL_OPERATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<"}


def shell_lines(text: str) -> Iterator[str]:
    """The lines of the shell blocks of a page, and the code spans that call the program or make."""
    for language, block in _FENCE.findall(text):
        if language == "sh":
            yield from block.replace("\\\n", " ").splitlines()
    for span in _CODE_SPAN.findall(_FENCE.sub("", text)):
        if re.match(r"(\.venv/bin/)?neuronetz-gateway |(\w+=\S+ )*make ", span):
            yield span


def calls(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of each call of `program` on a page. A call with an ellipsis or a usage line is not complete."""
    for line in shell_lines(page.read_text(encoding="utf-8")):
        if "…" in line or "[OPTIONS]" in line or program not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for position, word in enumerate(words):
            if word in (program, f".venv/bin/{program}"):
                rest = words[position + 1 :]
                end = next((index for index, each in enumerate(rest) if each in _SHELL_OPERATORS), len(rest))
                yield rest[:end]


def check_call(arguments: list[str]) -> None:
    """Raises click.UsageError unless the command and its options exist, have valid values, and nothing is missing."""
    program = click.Context(cli, info_name="neuronetz-gateway")
    _, words, _ = cli.make_parser(program).parse_args(list(arguments))
    if not words:
        return
    command = cli.get_command(program, words[0])
    if command is None:
        raise click.UsageError(f"no command {words[0]}")
    context = click.Context(command, info_name=words[0], parent=program)
    parameters = command.get_params(context)
    options, left, _ = command.make_parser(context).parse_args(list(words[1:]))
    if left:
        raise click.UsageError(f"stray arguments: {left}")
    for parameter in parameters:
        value = options.get(str(parameter.name))
        # `make_parser` gives each parameter that is not in the line a sentinel of click.
        if parameter.required and (value is None or type(value).__name__ == "Sentinel"):
            raise click.UsageError(f"missing {parameter.opts[0]}")
        if isinstance(value, str) and not isinstance(parameter.type, click.Path | click.File) and "$" not in value:
            parameter.type.convert(value, parameter, context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_is_valid(page: Path) -> None:
    for arguments in calls(page, "neuronetz-gateway"):
        check_call(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_in_the_text_exists(page: Path) -> None:
    """A code span such as `show-audit --follow` names a command and options, often without their values."""
    program = click.Context(cli, info_name="neuronetz-gateway")
    missing = []
    for span in _CODE_SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        command = cli.get_command(program, span.split(maxsplit=1)[0])
        if command is not None:
            known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
            missing += [(span, option) for option in re.findall(r"--[a-z-]+", span) if option not in known]
    assert missing == []


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("create-tenants --name acme", "no command"),
        ("create-tenant --nome acme", "No such option"),
        ("create-tenant", "missing --name"),
        ("create-tenant --name acme acme", "stray"),
        ("create-tenant --name acme --rpm many", "many"),
        ("list-keys --tenant", "requires an argument"),
    ],
)
def test_an_invalid_command_line_is_found(line: str, error: str) -> None:
    with pytest.raises(click.UsageError, match=error):
        check_call(line.split())


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    used = {
        argument for page in PAGES for arguments in calls(page, "make") for argument in arguments if "=" not in argument
    }
    assert used >= {"demo", "test"}
    assert used - targets == set()
