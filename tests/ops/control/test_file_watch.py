from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ops.control.file_watch import FilesWatch, FileWatch
from ops.host import env_file


def in_place(path: Path) -> None:
    path.write_text("A=2\n")


def by_rename(path: Path) -> None:
    env_file.update(path, {"A": "2"})


def moved_and_rewritten(path: Path) -> None:
    path.rename(path.with_suffix(".bak"))
    path.write_text("A=2\n")


def by_another_link_target(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_text("A=2\n")
    link = path.with_suffix(".link")
    link.symlink_to(other)
    link.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "env"
    path.write_text("A=1\n")
    return path


@pytest.mark.parametrize("change", [in_place, by_rename, moved_and_rewritten, by_another_link_target])
def test_every_way_of_changing_a_file_is_noticed_once(path: Path, change: Callable[[Path], None]) -> None:
    watch = FileWatch(path)
    assert [watch.changed() for _ in range(3)] == [False, True, False], "the file as it is found"
    change(path)
    assert [watch.changed() for _ in range(4)] == [False, True, False, False]


def test_a_file_that_is_being_written_is_no_change_until_it_is_complete(path: Path) -> None:
    watch = FileWatch(path)
    assert [watch.changed() for _ in range(2)] == [False, True]
    for size in range(1, 5):
        path.write_text("A=" + "1" * size * 10)
        assert not watch.changed()
    assert watch.changed()


def test_an_empty_or_missing_file_is_no_change(path: Path) -> None:
    watch = FileWatch(path)
    assert [watch.changed() for _ in range(2)] == [False, True]
    path.write_text("")
    assert not any(watch.changed() for _ in range(3))
    path.unlink()
    assert not any(watch.changed() for _ in range(3))
    path.write_text("A=3\n")
    assert [watch.changed() for _ in range(3)] == [False, True, False]


def test_the_set_of_watched_files_may_change(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_text("A=1\n")
    watch = FilesWatch()
    assert [watch.changed([path]) for _ in range(3)] == [False, True, False]
    assert [watch.changed([path, other]) for _ in range(3)] == [False, True, False]
    in_place(other)
    assert not watch.changed([path, other])
    in_place(path)
    assert [watch.changed([path, other]) for _ in range(3)] == [True, True, False], "each of them when it is complete"
    in_place(other)
    assert not any(watch.changed([path]) for _ in range(3))
