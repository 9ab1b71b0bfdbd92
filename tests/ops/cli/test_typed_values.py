"""What an operator may type for keys and numbers, and the confirmations of permanent changes."""

from __future__ import annotations

import pytest
import rich_click as click

from gateway.errors import GatewayError
from ops.cli import confirmation
from ops.cli.parameters import Clear, Number
from tests.ops.cli.conftest import Operator


class Terminal:
    """A standard input that is a terminal, or is none."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def prefix(operator: Operator) -> str:
    """The prefix of the key `Laptop` of the tenant `acme`."""
    operator.does("create-tenant", "--name", "acme")
    prefix: str = operator.reads("create-key", "--tenant", "acme", "--name", "Laptop")["prefix"]
    return prefix


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("5", 5),
        ("5k", 5000),
        ("5M", 5_000_000),
        ("1.5M", 1_500_000),
        ("2G", 2_000_000_000),
        ("5_000_000", 5_000_000),
        ("5,000,000", 5_000_000),
        ("NONE", Clear.CLEAR),
    ],
)
def test_numbers_are_read_as_people_write_them(typed: str, number: object) -> None:
    assert Number(1, 10**10, "none").convert(typed, None, None) == number


@pytest.mark.parametrize(
    "typed", ["", "k", "5,00", "5,000,00", "1.0005k", "1e3", "5kk", "-5", "0x5", "11G", "\u0665", "5 M"]
)
def test_other_numbers_are_refused_with_what_is_expected(typed: str) -> None:
    with pytest.raises(click.BadParameter, match="whole number from 1 to 10,000,000,000, such as 500, 5k or 5M"):
        Number(1, 10**10).convert(typed, None, None)


def test_a_key_is_identified_by_the_first_characters_that_no_other_key_has(operator: Operator, prefix: str) -> None:
    assert operator.reads("set-limits", "--prefix", prefix[:8], "--rpm", "5k")["prefix"] == prefix
    assert operator.reads("show-usage", "--prefix", prefix[:8])["rows"] == []
    assert operator.reads("show-audit", "--prefix", prefix[:8]) == []
    assert "no key with the prefix nz_---" in operator.fails("revoke-key", "--prefix", "nz_---")


def test_an_ambiguous_abbreviation_lists_the_keys(operator: Operator, prefix: str) -> None:
    others = {prefix}
    # 62 digits follow the mark, so two of 63 keys begin with the same four characters.
    for number in range(63):
        others.add(operator.reads("create-key", "--tenant", "acme", "--name", f"k{number}")["prefix"])
        same = [each for each in others if sum(other[:4] == each[:4] for other in others) > 1]
        if same:
            break
    error = operator.fails("revoke-key", "--prefix", same[0][:4])
    assert f"{same[0][:4]} identifies 2 keys: " in error
    assert all(each in error for each in same)


def test_a_key_is_identified_by_its_name_within_a_tenant(operator: Operator, prefix: str) -> None:
    key = ("--tenant", "ACME", "--prefix", "laptop")
    assert operator.reads("set-limits", *key, "--rpm", "5")["prefix"] == prefix
    new = operator.reads("rotate-key", *key)
    assert new["replaces"] == prefix
    assert operator.reads("revoke-key", *key)["prefix"] == new["prefix"]
    assert "identifies 2 keys" in operator.fails("revoke-key", *key)
    assert "no key with the prefix or name phone" in operator.fails(
        "revoke-key", "--tenant", "acme", "--prefix", "phone"
    )
    assert "did you mean acme?" in operator.fails("revoke-key", "--tenant", "acne", "--prefix", "laptop")


def test_a_script_proceeds_unless_a_confirmation_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(False))
    confirmation.confirm("Sure?", yes=False)
    confirmation.confirm("Sure?", yes=True, required=True)
    with pytest.raises(GatewayError, match="--yes"):
        confirmation.confirm("Sure?", yes=False, required=True)


@pytest.mark.parametrize("answer", [True, False])
def test_an_operator_at_a_terminal_confirms_or_declines(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(True))
    monkeypatch.setattr("rich_click.confirm", lambda *_, **__: answer)
    if answer:
        confirmation.confirm("Sure?", yes=False)
    else:
        with pytest.raises(GatewayError, match="nothing was changed"):
            confirmation.confirm("Sure?", yes=False)
    monkeypatch.setattr("rich_click.confirm", lambda *_, **__: pytest.fail("it was confirmed already"))
    confirmation.confirm("Sure?", yes=True)
