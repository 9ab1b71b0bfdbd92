"""The bound of log files, and their tails."""

from __future__ import annotations

import os
from pathlib import Path

from ops.embedded import logfile


def test_a_log_over_its_bound_moves_to_the_older_generation_and_its_writer_continues(tmp_path: Path) -> None:
    path = tmp_path / "child.log"
    descriptor = logfile.open_append(path)
    os.write(descriptor, b"x" * 100)
    logfile.trim(path, bytes_max=99)
    os.write(descriptor, b"after")
    os.close(descriptor)
    assert path.read_bytes() == b"after"
    assert (tmp_path / "child.log.1").read_bytes() == b"x" * 100
    assert (tmp_path / "child.log.1").stat().st_mode & 0o777 == 0o600


def test_a_log_within_its_bound_is_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "child.log"
    path.write_bytes(b"x" * 100)
    logfile.trim(path, bytes_max=100)
    assert path.read_bytes() == b"x" * 100
    assert not (tmp_path / "child.log.1").exists()


def test_the_tail_is_the_last_lines_of_the_last_bytes(tmp_path: Path) -> None:
    path = tmp_path / "child.log"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    assert logfile.tail(path, lines=2) == ("line 998", "line 999")
    assert len(logfile.tail(path, lines=1000, bytes_max=80)) <= 10
    assert logfile.tail(tmp_path / "absent.log") == ()


def test_the_tail_of_this_run_has_no_lines_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "child.log"
    path.write_text("before\n")
    start = logfile.size(path)
    path.write_text("before\nnow\n")
    assert logfile.tail(path, since=start) == ("now",)
    path.write_text("cut\n")
    assert logfile.tail(path, since=start) == ("cut",)
