"""Notices changes of files, by any kind of edit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Signature = tuple[int, int, int, int]


class FileWatch:
    """Poll `changed` a fraction of a second apart.

    Editors replace a file or rewrite it in place, and a link may get another target. Each of these changes the result
    of stat(2). A change counts once the file is the same at two polls, because a file that is being written is complete
    only at the end. A missing or empty file counts as incomplete. The first complete file counts as a change.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reported: Signature | None = None
        self._polled: Signature | None = None

    def changed(self) -> bool:
        """True once for each change, when it is complete."""
        before, self._polled = self._polled, self._signature()
        if self._polled is None or self._polled != before or self._polled == self._reported:
            return False
        self._reported = self._polled
        return True

    def _signature(self) -> Signature | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size) if status.st_size else None


class FilesWatch:
    """The same for several files, which may differ from poll to poll."""

    def __init__(self) -> None:
        self._watches: dict[Path, FileWatch] = {}

    def changed(self, paths: Iterable[Path]) -> bool:
        """Whether a change of one of them is complete. A new path counts as a change too."""
        self._watches = {path: self._watches.get(path) or FileWatch(path) for path in paths}
        changed = [path for path, watch in self._watches.items() if watch.changed()]
        return bool(changed)
