"""check-key needs no network, no database and no settings, and never repeats a key."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from authz.keys.key_format import generate
from ops.cli import cli

KEY = generate().secret.get_secret_value()
OTHER = "b" if KEY[20] == "a" else "a"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the command opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def check(text: str, *options: str, env_file: Path = Path("/nonexistent/env")) -> Result:
    return CliRunner().invoke(cli, ["--env-file", str(env_file), "check-key", *options], input=text)


def test_a_generated_key_is_well_formed() -> None:
    result = check(f" {KEY}\n")
    assert (result.exit_code, result.output) == (0, f"a well-formed key with the prefix {KEY[:12]}\n")
    document = json.loads(check(KEY, "--json").stdout)
    assert document == {"well_formed": True, "prefix": KEY[:12], "problem": None}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "does not begin with nz_"),
        ("sk-" + KEY[3:], "does not begin with nz_"),
        (KEY[:-1], "43 characters instead of 44"),
        (KEY[:20] + "-" + KEY[21:], "not an ASCII letter or digit"),
        (KEY[:20] + OTHER + KEY[21:], "check digits are wrong"),
    ],
    ids=["empty", "other mark", "short", "other character", "mistyped"],
)
def test_the_problem_of_any_other_text_is_named_and_the_text_is_not_repeated(text: str, problem: str) -> None:
    for options in ((), ("--json",)):
        result = check(text + "\n", *options)
        assert result.exit_code == 1
        assert problem in result.output
        assert KEY[12:19] not in result.output


def test_wrong_settings_do_not_matter(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("DATABASE_URL=nonsense\nDEFAULT_RPM=-1\n")
    assert check(KEY, env_file=env_file).exit_code == 0
