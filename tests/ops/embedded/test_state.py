"""The state directory, its lock and its temporary directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ops.embedded.errors import StackError
from ops.embedded.state import SOCKET_PATH_BYTES_MAX, open_state


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_directory_and_every_secret_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_state(tmp_path / "state") as state:
            state.secret("one")
            directories = [state.root, state.sockets, *(path for path in state.root.iterdir() if path.is_dir())]
            assert {_mode(path) for path in directories} == {0o700}
            assert _mode(state.secrets / "one") == 0o600
    finally:
        os.umask(before)


def test_a_secret_is_created_once_and_is_unique(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        one, other = state.secret("one"), state.secret("other")
    with open_state(tmp_path) as state:
        assert state.secret("one") == one
    assert one != other
    assert len(one) >= 32


def test_a_second_stack_is_refused_until_the_first_one_releases_the_lock(tmp_path: Path) -> None:
    with open_state(tmp_path), pytest.raises(StackError, match="already running"), open_state(tmp_path):
        pass
    with open_state(tmp_path):
        pass


def test_a_directory_with_other_files_is_refused_and_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(StackError, match="neither empty nor a state directory"), open_state(tmp_path):
        pass
    assert _mode(tmp_path) == 0o755


def test_a_path_below_a_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="cannot be used: Not a directory"), open_state(tmp_path / "file" / "state"):
        pass


def test_sockets_are_in_the_state_directory_when_their_paths_are_short_enough(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with open_state(root) as state:
        expected = root / "run" if len(os.fsencode(root)) < 80 else state.temporary() / "run"
        assert state.sockets == expected


def test_sockets_of_a_deep_state_directory_are_in_a_private_temporary_one_that_is_removed(tmp_path: Path) -> None:
    with open_state(tmp_path / ("deep" * 30)) as state:
        run = state.sockets
        assert not run.is_relative_to(tmp_path)
        assert _mode(run) == 0o700
        assert len(os.fsencode(run / "authz-99-http.sock")) <= SOCKET_PATH_BYTES_MAX
    assert not run.parent.exists()


def test_the_temporary_directory_of_a_killed_stack_is_removed_by_the_next(tmp_path: Path) -> None:
    link = tmp_path / "tmp"
    with open_state(tmp_path) as state:
        leftover = state.temporary()
        # Hidden from the clean-up of this context, as if the stack had been killed.
        link.rename(tmp_path / "hidden")
    (tmp_path / "hidden").rename(link)
    assert leftover.is_dir()
    with open_state(tmp_path):
        assert not leftover.exists()
        assert not link.is_symlink()


def test_a_link_to_another_directory_is_removed_and_its_target_is_kept(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    with open_state(tmp_path / "state"):
        pass
    (tmp_path / "state" / "tmp").symlink_to(precious)
    with open_state(tmp_path / "state"):
        assert precious.is_dir()
