"""Replaces a file in one step: a reader sees the old content or the new, whole."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, keep_owner_and_mode: bool = False, durable: bool = False) -> None:
    """Writes a temporary file next to `path` and renames it over `path`. A symbolic link is replaced, not followed.

    The new file has mode 0600; with `keep_owner_and_mode` it takes those of the file that it replaces, if there is one.
    With `durable` the content is on the disk before the rename. Raises OSError, and then `path` is unchanged.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if keep_owner_and_mode and path.exists():
                _adopt(file.fileno(), path.stat())
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _adopt(descriptor: int, replaced: os.stat_result) -> None:
    os.fchmod(descriptor, stat.S_IMODE(replaced.st_mode))
    own = os.fstat(descriptor)
    if (replaced.st_uid, replaced.st_gid) != (own.st_uid, own.st_gid):
        # Only root may give a file to another owner. For others this raises, rather than lock the owner out.
        os.fchown(descriptor, replaced.st_uid, replaced.st_gid)
