from __future__ import annotations

from pathlib import Path

import pytest

from ops.host.atomic_write import write_atomically


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"content", keep_owner_and_mode=True)
    assert (path.read_bytes(), _mode(path)) == (b"content", 0o600)


@pytest.mark.parametrize(("keep", "mode"), [(False, 0o600), (True, 0o640)])
def test_a_replaced_file_keeps_its_mode_only_when_that_is_wanted(tmp_path: Path, keep: bool, mode: int) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    path.chmod(0o640)
    write_atomically(path, b"new", keep_owner_and_mode=keep, durable=True)
    assert (path.read_bytes(), _mode(path)) == (b"new", mode)


def test_an_open_reader_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"


def test_a_symbolic_link_is_replaced_and_its_target_left(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"target")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert (target.read_bytes(), link.is_symlink(), link.read_bytes()) == (b"target", False, b"new")


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "in_the_way").touch()
    with pytest.raises(OSError, match="directory"):
        write_atomically(directory, b"new")
    assert list(tmp_path.iterdir()) == [directory]
