"""The sliding window of 60 s: requests and tokens in buckets of one second. Pure; `admit.lua` does the same in Redis.

A bucket leaves the window 60 s after the youngest request in it. So a window never holds fewer requests than were
really made in the last 60 s, an older request of the same second counts up to 1 s longer than it had to, and a window
is at most 61 buckets whatever the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_MS = 60_000


@dataclass(slots=True)
class Bucket:
    """What was admitted within one second, and when the youngest of it was."""

    requests: int
    tokens: int
    youngest_ms: int


class Window:
    """One subject's window. Seconds are whole seconds since the epoch."""

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}
        self.last_ms = 0

    @property
    def requests(self) -> int:
        """Requests in the window."""
        return sum(bucket.requests for bucket in self._buckets.values())

    @property
    def tokens(self) -> int:
        """Tokens in the window."""
        return sum(bucket.tokens for bucket in self._buckets.values())

    def forget_if_apart(self, now_ms: int) -> None:
        """Empties a window that lies a whole window behind the clock, or, after a step of the clock, before it."""
        if self.last_ms and (now_ms - self.last_ms >= WINDOW_MS or self.last_ms - now_ms > WINDOW_MS):
            self._buckets.clear()
            self.last_ms = 0

    def drop(self, now_ms: int) -> None:
        """Drops the buckets that have left the window."""
        gone = [s for s, bucket in self._buckets.items() if bucket.youngest_ms + WINDOW_MS <= now_ms]
        for second in gone:
            del self._buckets[second]

    def add(self, now_ms: int, tokens: int) -> None:
        """Counts one request."""
        bucket = self._buckets.setdefault(now_ms // 1000, Bucket(0, 0, now_ms))
        bucket.requests += 1
        bucket.tokens += tokens
        bucket.youngest_ms = self.last_ms = now_ms

    def adjust(self, second: int, requests: int, tokens: int) -> None:
        """Corrects a bucket by what turned out differently, if it is still there."""
        if bucket := self._buckets.get(second):
            bucket.requests = max(0, bucket.requests + requests)
            bucket.tokens = max(0, bucket.tokens + tokens)

    def free_at_ms(self, requests_max: int, tokens_max: int) -> int | None:
        """When at most so many requests and tokens will be left if nothing is added; None when that is never."""
        if requests_max < 0 or tokens_max < 0:
            return None
        requests, tokens, at_ms = self.requests, self.tokens, 0
        for second in sorted(self._buckets):
            if requests <= requests_max and tokens <= tokens_max:
                break
            bucket = self._buckets[second]
            requests, tokens, at_ms = requests - bucket.requests, tokens - bucket.tokens, bucket.youngest_ms + WINDOW_MS
        return at_ms
