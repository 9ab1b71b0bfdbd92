"""Log files of children: appended to, bounded in size, with one older generation."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LOG_BYTES_MAX = 16 * 1024 * 1024


def open_append(path: Path) -> int:
    """Returns a file descriptor that appends to `path`. A new file has mode 0600."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def trim(path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Moves the content of `path` to `path.1` when it is larger than `bytes_max`.

    The file is copied and truncated, not renamed. The writer keeps its descriptor, and with O_APPEND its next line
    goes to the new end. Lines written between the two steps are lost.
    """
    if size(path) <= bytes_max:
        return
    older = path.with_name(path.name + ".1")
    older.touch(mode=0o600)
    shutil.copyfile(path, older)
    os.truncate(path, 0)


def size(path: Path) -> int:
    """Returns the size of `path` in bytes, 0 when it does not exist."""
    return path.stat().st_size if path.exists() else 0


def tail(path: Path, since: int = 0, lines: int = 12, bytes_max: int = 8192) -> tuple[str, ...]:
    """Returns the last lines after byte `since`, oldest first, from at most the last `bytes_max` bytes."""
    if not path.exists():
        return ()
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(since if since <= end else 0, end - bytes_max))
        text = file.read().decode(errors="replace")
    return tuple(text.splitlines()[-lines:])
