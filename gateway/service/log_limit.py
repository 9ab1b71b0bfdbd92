"""Bounds the log lines of events that any request may cause, so that a flood during an outage fills no disk."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

LINES_MAX = 20
WINDOW_S = 10.0
# An event that is not listed is rare, or a line of it is the only copy of a ledger entry.
LIMITED = frozenset(
    "cause_not_shared cause_unknown denial_not_recorded denial_postponed key_refused orphan_not_checked "
    "unavailable".split()
)


class LineLimit:
    """A processor of structlog that drops the lines of an event beyond LINES_MAX in WINDOW_S.

    The first line of the next window has the number of dropped ones as `suppressed`. `now` gives seconds that never go
    back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # By event: the begin of its window (s), and its lines in that window.
        self._windows: dict[str, tuple[float, int]] = {}

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Returns `event`, or raises structlog.DropEvent."""
        name = event.get("event")
        if name not in LIMITED:
            return event
        now_s = self._now()
        begin_s, lines = self._windows.get(name, (now_s, 0))
        if now_s - begin_s >= WINDOW_S:
            if lines > LINES_MAX:
                event["suppressed"] = lines - LINES_MAX
            begin_s, lines = now_s, 0
        self._windows[name] = begin_s, lines + 1
        if lines >= LINES_MAX:
            raise structlog.DropEvent
        return event
