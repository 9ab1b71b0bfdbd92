"""The state directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ops.embedded.errors import StackError
from ops.embedded.state import SOCKET_PATH_BYTES_MAX, open_state


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_directory_is_private_and_every_secret_too(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_state(tmp_path / "state") as state:
            state.secret("one")
            directories = [state.root, state.run, *(path for path in state.root.iterdir() if path.is_dir())]
            assert {_mode(path) for path in directories} == {0o700}
            assert _mode(state.secrets / "one") == 0o600
    finally:
        os.umask(before)


def test_a_secret_is_made_once_and_differs_from_every_other(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        one, other = state.secret("one"), state.secret("other")
    with open_state(tmp_path) as state:
        assert state.secret("one") == one
    assert one != other
    assert len(one) >= 32


def test_a_second_stack_on_the_directory_is_refused_and_the_lock_ends_with_the_first(tmp_path: Path) -> None:
    with open_state(tmp_path), pytest.raises(StackError, match="already running"), open_state(tmp_path):
        pass
    with open_state(tmp_path):
        pass


def test_a_directory_that_holds_something_else_is_refused_and_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(StackError, match="neither empty nor a state directory"), open_state(tmp_path):
        pass
    assert _mode(tmp_path) == 0o755


def test_a_place_where_no_directory_can_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="cannot be used: Not a directory"), open_state(tmp_path / "file" / "state"):
        pass


def test_sockets_are_in_the_state_directory_when_their_paths_are_short_enough(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with open_state(root) as state:
        expected = root / "run" if len(os.fsencode(root)) < 80 else state.temporary() / "run"
        assert state.run == expected


def test_sockets_of_a_deep_state_directory_are_in_a_private_temporary_one_that_goes_with_it(tmp_path: Path) -> None:
    with open_state(tmp_path / ("deep" * 30)) as state:
        run = state.run
        assert not run.is_relative_to(tmp_path)
        assert _mode(run) == 0o700
        assert len(os.fsencode(run / "authz-99-http.sock")) <= SOCKET_PATH_BYTES_MAX
    assert not run.parent.exists()


def test_the_temporary_directory_of_a_killed_stack_is_removed_by_the_next(tmp_path: Path) -> None:
    link = tmp_path / "tmp"
    with open_state(tmp_path) as state:
        left_behind = state.temporary()
        # Out of sight of the end of this context, as if it had never come.
        link.rename(tmp_path / "hidden")
    (tmp_path / "hidden").rename(link)
    assert left_behind.is_dir()
    with open_state(tmp_path):
        assert not left_behind.exists()
        assert not link.is_symlink()


def test_a_link_to_anything_else_is_dropped_without_touching_its_target(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    with open_state(tmp_path / "state"):
        pass
    (tmp_path / "state" / "tmp").symlink_to(precious)
    with open_state(tmp_path / "state"):
        assert precious.is_dir()
