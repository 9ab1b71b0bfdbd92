"""The counters of one tenant in memory. Model of COUNTERS in Redis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date

from gateway.quota import periods
from gateway.quota.port import Hold
from gateway.values import Period

Subject = int | None
"""The id of a key, or None for the tenant itself."""


@dataclass(slots=True)
class TenantCounters:
    """The counters of one tenant and its keys; `day` is the day of the last admission or rebuild."""

    day: date
    used: Counter[tuple[Subject, Period, date]] = field(default_factory=Counter)
    held: Counter[tuple[Subject, Period, date]] = field(default_factory=Counter)
    in_flight: Counter[Subject] = field(default_factory=Counter)

    def roll_over(self, now_ms: int) -> None:
        """Drops the usage of past periods, once a day."""
        today, starts = periods.at(now_ms).date(), periods.starts(periods.at(now_ms))
        if today != self.day:
            self.day = today
            self.used = Counter({key: n for key, n in self.used.items() if key[2] >= starts[key[1]]})

    def add_hold(self, hold: Hold) -> None:
        """Counts the tokens of a hold, and the hold itself."""
        self._count_hold(hold, 1)

    def remove_hold(self, hold: Hold) -> None:
        """Undoes `add_hold`."""
        self._count_hold(hold, -1)

    def add_usage(self, key_id: int, at_ms: int, tokens: int) -> None:
        """Adds the tokens of a request to the periods of its admission at `at_ms`."""
        for subject in (None, key_id):
            for period, start in periods.starts(periods.at(at_ms)).items():
                self.used[subject, period, start] += tokens

    def _count_hold(self, hold: Hold, sign: int) -> None:
        for subject in (None, hold.key_id):
            self.in_flight[subject] += sign
            for period, start in periods.starts(periods.at(hold.admitted_at_ms)).items():
                self.held[subject, period, start] += sign * (hold.input_tokens + hold.output_cap)
        self.held += Counter()
        self.in_flight += Counter()
