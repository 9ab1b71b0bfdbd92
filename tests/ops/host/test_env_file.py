"""An env file is merged line by line and replaced atomically."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.host import env_file


def test_other_lines_stay_in_place() -> None:
    text = "# a note\nMINE=1\n\nDEFAULT_RPM=7 # as agreed\nexport OTHER=2\n"
    merged = env_file.merge(text, {"MINE": "one", "OTHER": "two", "NEW": "three"})
    assert merged == "# a note\nMINE=one\n\nDEFAULT_RPM=7 # as agreed\nOTHER=two\nNEW=three\n"


def test_a_name_that_is_assigned_twice_is_assigned_once_after_a_merge() -> None:
    assert env_file.merge("A=1\nB=2\nA=3\n", {"A": "4"}) == "A=4\nB=2\n"


def test_a_commented_out_assignment_is_not_replaced() -> None:
    assert env_file.merge("#A=1\n", {"A": "2"}) == "#A=1\nA=2\n"


def test_a_new_file_is_private_and_is_not_rewritten_without_a_change(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    env_file.update(path, {"A": "1"})
    before = path.stat()
    env_file.update(path, {"A": "1"})
    assert path.stat().st_ino == before.st_ino
    assert before.st_mode & 0o777 == 0o600
    env_file.update(path, {"A": "2"})
    assert path.stat().st_ino != before.st_ino
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_keeps_its_mode_and_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "real.env", tmp_path / ".env"
    path.write_text("A=1\n")
    path.chmod(0o644)
    link.symlink_to(path.name)
    env_file.update(link, {"A": "2"})
    assert link.is_symlink()
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("A=2\n", 0o644)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])))
def test_every_value_of_one_line_is_read_back_unchanged(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    path = tmp_path_factory.mktemp("env") / ".env"
    env_file.update(path, {"NAME": value, "NEXT": "1"})
    assert env_file.read(path) == {"NAME": value, "NEXT": "1"}


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="'$`")))
def test_a_shell_reads_the_same_value_without_quotes_dollars_and_backticks(value: str) -> None:
    script = f'{env_file.line("NAME", value)}\nprintf %s "$NAME"'
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=10)
    assert shell.stdout == value


def test_a_value_of_two_lines_is_rejected() -> None:
    with pytest.raises(ValueError, match="NAME"):
        env_file.line("NAME", "a\nB=c")
