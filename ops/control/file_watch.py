"""Notices that files have changed, however they were changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Signature = tuple[int, int, int, int]


class FileWatch:
    """`changed` is to be asked again and again, a fraction of a second apart.

    Editors replace a file or write it anew in place, and links may be turned to another one; all of it changes what
    stat(2) says. A file is believed once it has stayed the same between two looks, because one that is being written
    is whole only at the end. One that is empty, or not there, is such a file. The first file that is seen counts as a
    change.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Signature | None = None
        self._seen: Signature | None = None

    def changed(self) -> bool:
        """True once for each change, when it is over."""
        before, self._seen = self._seen, self._look()
        if self._seen is None or self._seen != before or self._seen == self._known:
            return False
        self._known = self._seen
        return True

    def _look(self) -> Signature | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size) if status.st_size else None


class FilesWatch:
    """The same for several files, which may become others between two looks."""

    def __init__(self) -> None:
        self._watches: dict[Path, FileWatch] = {}

    def changed(self, paths: Iterable[Path]) -> bool:
        """Whether a change of one of them is over. One that was not among them before is one that is first seen."""
        self._watches = {path: self._watches.get(path) or FileWatch(path) for path in paths}
        changed = [path for path, watch in self._watches.items() if watch.changed()]
        return bool(changed)
