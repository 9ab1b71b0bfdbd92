"""Bounded log files of children: appended to, kept to two generations."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LOG_BYTES_MAX = 16 * 1024 * 1024


def open_append(path: Path) -> int:
    """A file descriptor that appends to `path`, which is created with mode 0600."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def trim(path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Moves what `path` holds to `path.1` once it is larger than `bytes_max`.

    The file is copied and emptied, not renamed: its writer keeps its descriptor, and with O_APPEND goes on at the
    new end. Lines written between the two steps are lost.
    """
    if size(path) <= bytes_max:
        return
    older = path.with_name(path.name + ".1")
    older.touch(mode=0o600)
    shutil.copyfile(path, older)
    os.truncate(path, 0)


def size(path: Path) -> int:
    """Bytes in `path`, 0 when it is not there."""
    return path.stat().st_size if path.exists() else 0


def tail(path: Path, since: int = 0, lines: int = 12, bytes_max: int = 8192) -> tuple[str, ...]:
    """The last lines after byte number `since`, oldest first, read from at most the last `bytes_max` bytes."""
    if not path.exists():
        return ()
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(since if since <= end else 0, end - bytes_max))
        text = file.read().decode(errors="replace")
    return tuple(text.splitlines()[-lines:])
