"""The log files of a state directory: their last lines, the errors in them, and new lines as they are written."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ops.embedded import logfile
from ops.embedded.state import StateDirectory

POLL_S = 0.25
ERRORS_BYTES_MAX = 256 * 1024

# The services and Caddy write JSON, Envoy `[level]`, PostgreSQL `LEVEL:`. Redis marks warnings and errors alike.
_ERROR = re.compile(
    r'"level": ?"(?:error|critical|fatal|panic)"|\[(?:error|critical)\]| (?:ERROR|FATAL|PANIC): ', re.ASCII
)
# PostgreSQL logs these while it starts and stops, and `up` retries.
_HARMLESS = re.compile(
    r"FATAL:  the database system is (?:starting up|shutting down)|terminating connection due to admin"
)


class Line(NamedTuple):
    """One line of the log of a child."""

    service: str
    text: str


Offsets: TypeAlias = Mapping[str, int]
"""Bytes of the log of each service that were read."""


def names(state: StateDirectory) -> list[str]:
    """The children that have a log, in alphabetical order."""
    return sorted(path.stem for path in state.logs.glob("*.log"))


def last_lines(state: StateDirectory, services: Sequence[str], count: int) -> tuple[list[Line], Offsets]:
    """The last `count` complete lines of each service, oldest first, and the offsets with which `follow` continues."""
    lines: list[Line] = []
    offsets: dict[str, int] = {}
    for service in services:
        path = state.log_file(service)
        begin = max(0, logfile.size(path) - max(65_536, count * 1024))
        texts, offsets[service] = _new_lines(path, begin)
        lines += [Line(service, text) for text in texts[max(0, len(texts) - count) :]]
    return lines, offsets


def last_errors(state: StateDirectory, services: Sequence[str], count: int) -> list[Line]:
    """The last `count` errors of each service, oldest first, from the last ERRORS_BYTES_MAX bytes of its log."""
    errors = []
    for service in services:
        lines = logfile.tail(state.log_file(service), lines=ERRORS_BYTES_MAX, bytes_max=ERRORS_BYTES_MAX)
        found = [text for text in lines if _ERROR.search(text) and not _HARMLESS.search(text)]
        errors += [Line(service, text) for text in found[-count:]]
    return errors


def follow(state: StateDirectory, offsets: Offsets) -> Iterator[Line]:
    """Yields lines as they are written after these offsets, without end. A log that was trimmed is read anew."""
    read = dict(offsets)
    while True:
        for service in read:
            lines, read[service] = _new_lines(state.log_file(service), read[service])
            yield from (Line(service, text) for text in lines)
        time.sleep(POLL_S)


def _new_lines(path: Path, offset: int) -> tuple[list[str], int]:
    """The complete lines after `offset`, and the offset after them."""
    size = logfile.size(path)
    if size == offset:
        return [], offset
    with path.open("rb") as file:
        start = file.seek(offset if size > offset else 0)
        complete, separator, _ = file.read().rpartition(b"\n")
    return complete.decode(errors="replace").splitlines() if separator else [], start + len(complete + separator)
