"""The counters of one tenant in memory: what COUNTERS is in Redis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date

from gateway.quota import periods
from gateway.quota.port import Hold
from gateway.values import Period

Subject = int | None
"""A key's id, or None for the tenant itself."""


@dataclass(slots=True)
class TenantCounters:
    """The counters of one tenant and its keys; `day` is the last day they were looked at."""

    day: date
    used: Counter[tuple[Subject, Period, date]] = field(default_factory=Counter)
    held: Counter[tuple[Subject, Period, date]] = field(default_factory=Counter)
    live: Counter[Subject] = field(default_factory=Counter)

    def turn(self, now_ms: int) -> None:
        """Forgets what was used in periods that are over, once a day."""
        today, starts = periods.at(now_ms).date(), periods.starts(periods.at(now_ms))
        if today != self.day:
            self.day = today
            self.used = Counter({key: n for key, n in self.used.items() if key[2] >= starts[key[1]]})

    def take(self, hold: Hold, sign: int) -> None:
        """Adds (1) or takes away (-1) what a hold holds."""
        for subject in (None, hold.key_id):
            self.live[subject] += sign
            for period, start in periods.starts(periods.at(hold.admitted_at_ms)).items():
                self.held[subject, period, start] += sign * (hold.input_tokens + hold.output_cap)
        self.held += Counter()
        self.live += Counter()

    def use(self, key_id: int, at_ms: int, tokens: int) -> None:
        """Adds what a request used to the periods of its admission."""
        for subject in (None, key_id):
            for period, start in periods.starts(periods.at(at_ms)).items():
                self.used[subject, period, start] += tokens
