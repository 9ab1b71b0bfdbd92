"""A flood of requests writes a bounded number of lines."""

from __future__ import annotations

import structlog

from gateway.service.log_limit import LIMITED, LINES_MAX, WINDOW_S, LineLimit


class Log:
    """The lines that pass the limit, at a time that the test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lines: list[dict[str, object]] = []
        self._limit = LineLimit(lambda: self.now_s)

    def write(self, event: str, count: int = 1) -> None:
        for _ in range(count):
            try:
                self.lines.append(dict(self._limit(None, "warning", {"event": event})))
            except structlog.DropEvent:
                continue


def test_lines_beyond_the_limit_are_counted_in_the_first_line_of_the_next_window() -> None:
    log = Log()
    log.write("unavailable", 1000)
    assert log.lines == [{"event": "unavailable"}] * LINES_MAX
    log.now_s = WINDOW_S
    log.write("unavailable", 2)
    assert log.lines[LINES_MAX:] == [{"event": "unavailable", "suppressed": 1000 - LINES_MAX}, {"event": "unavailable"}]


def test_each_event_has_its_own_limit_and_other_events_have_none() -> None:
    log = Log()
    for event in (*LIMITED, "entry_rejected"):
        log.write(event, LINES_MAX + 1)
    assert len(log.lines) == LINES_MAX * len(LIMITED) + LINES_MAX + 1


def test_a_quiet_window_reports_nothing() -> None:
    log = Log()
    log.write("unavailable", LINES_MAX)
    log.now_s = 5 * WINDOW_S
    log.write("unavailable")
    assert log.lines[-1] == {"event": "unavailable"}
