"""The state directory: the files of one embedded stack, and the lock that excludes a second one."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ops.embedded.errors import StackError
from ops.host import env_file

# sockaddr_un.sun_path holds 108 bytes with the closing zero (unix(7)).
SOCKET_PATH_BYTES_MAX = 107
# The certificate of Caddy's authority, for clients.
AUTHORITY_ROOT = "caddy-root.crt"
_LONGEST_SOCKET = "authz-99-metrics.sock"
_LOCK = "lock"
_TEMPORARY_PREFIX = "neuronetz-gateway-"


class StateDirectory:
    """The paths below `root`, all directories with mode 0700. Created by `open_state`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env_file = root / ".env"
        self.running = root / "running.json"
        self.logs = root / "logs"
        self.secrets = root / "secrets"
        self.postgres = root / "postgres"
        self.redis = root / "redis"
        self.envoy = root / "envoy"
        self.caddy = root / "caddy"
        self._temporary_link = root / "tmp"
        self._temporary: Path | None = None
        self._temporary_lock: int | None = None

    def make_private(self, directory: Path) -> Path:
        """Creates `directory` with mode 0700, or sets that mode on an existing one."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(directory.stat().st_mode) != 0o700:
            directory.chmod(0o700)
        return directory

    @functools.cached_property
    def sockets(self) -> Path:
        """The directory of the unix sockets, below `root` unless that makes their paths too long for the kernel."""
        directory = self.root / "run"
        if len(os.fsencode(directory / _LONGEST_SOCKET)) <= SOCKET_PATH_BYTES_MAX:
            return self.make_private(directory)
        return self.make_private(self.temporary() / "run")

    def temporary(self) -> Path:
        """Returns a directory outside `root` that belongs to this stack and is removed when the state is closed.

        Other users may traverse but not list it, so that a server that runs as another user can reach files in it. A
        link in `root` names it, so that the next stack can remove the directory of one that was killed.
        """
        if self._temporary is None:
            path = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX))
            self._temporary_link.symlink_to(path)
            path.chmod(0o711)
            # Cleaners of old temporary files skip a locked directory (tmpfiles.d(5)).
            self._temporary_lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._temporary_lock, fcntl.LOCK_SH)
            self._temporary = path
        return self._temporary

    def secret(self, name: str) -> str:
        """Returns a random password, stored in a file with mode 0600 on its first use."""
        path = self.secrets / name
        if not path.exists():
            env_file.write(path, secrets.token_urlsafe(32))
        return path.read_text()

    def log_file(self, name: str) -> Path:
        """Returns the path of a child's log file."""
        return self.logs / f"{name}.log"

    def remove_temporary(self) -> None:
        """Removes the temporary directory of this stack, or of an earlier one that was killed."""
        if self._temporary_lock is not None:
            os.close(self._temporary_lock)
            self._temporary_lock = None
        if not self._temporary_link.is_symlink():
            return
        target = self._temporary_link.readlink()
        is_ours = target.name.startswith(_TEMPORARY_PREFIX) and target.is_dir() and not target.is_symlink()
        if is_ours and target.stat().st_uid == os.geteuid():
            shutil.rmtree(target)
        self._temporary_link.unlink()
        self._temporary = None


def is_state_directory(root: Path) -> bool:
    """Whether `open_state` has used this directory."""
    return (root / _LOCK).is_file()


def is_in_use(root: Path) -> bool:
    """Whether a stack holds the lock of this state directory. Raises OSError when the lock file cannot be read."""
    lock = os.open(root / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextlib.contextmanager
def open_state(root: Path) -> Iterator[StateDirectory]:
    """Creates missing directories and holds the lock until the context ends.

    Raises StackError when another stack holds the lock, when the directory contains other files, or when it cannot be
    written.
    """
    state = StateDirectory(root.absolute())
    try:
        # Only directories of a stack may become private: never a user's home or /tmp.
        if root.exists() and not (root / _LOCK).exists() and any(root.iterdir()):
            raise StackError(f"{root} is neither empty nor a state directory; choose another --state-dir")
        for directory in (root, state.logs, state.secrets, state.redis, state.envoy, state.caddy):
            state.make_private(directory)
        lock = os.open(state.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StackError(f"the state directory {root} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(
                f"another stack is already running on the state directory {root}; "
                "stop it first, with Ctrl-C in its terminal"
            ) from None
        state.remove_temporary()
        try:
            yield state
        finally:
            state.remove_temporary()
    finally:
        os.close(lock)
