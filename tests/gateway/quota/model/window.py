"""The sliding window of 60 s: requests and tokens in buckets of one second. Pure. Model of `admit.lua`.

A bucket leaves the window 60 s after its youngest request. A window therefore never counts fewer requests than were
made in the last 60 s, an older request of the same second counts up to 1 s too long, and a window has at most 61
buckets for any limit.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_MS = 60_000


@dataclass(slots=True)
class Bucket:
    """The requests and tokens that were admitted within one second, and the time of the youngest request."""

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

    def clear_if_out_of_range(self, now_ms: int) -> None:
        """Empties a window that is a whole window behind the clock or, after a step of the clock, ahead of it."""
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
        """Changes the bucket of `second` by the differences, if it is still there."""
        if bucket := self._buckets.get(second):
            bucket.requests = max(0, bucket.requests + requests)
            bucket.tokens = max(0, bucket.tokens + tokens)

    def resets_in_s(self, now_ms: int) -> int:
        """The whole seconds until the window is empty if nothing is added."""
        return max(0, -((now_ms - self.last_ms - WINDOW_MS) // 1000)) if self.last_ms else 0

    def free_at_ms(self, requests_max: int, tokens_max: int) -> int | None:
        """The time at which the window falls to these maxima if nothing is added; None when it never does."""
        if requests_max < 0 or tokens_max < 0:
            return None
        requests, tokens, at_ms = self.requests, self.tokens, 0
        for second in sorted(self._buckets):
            if requests <= requests_max and tokens <= tokens_max:
                break
            bucket = self._buckets[second]
            requests, tokens, at_ms = requests - bucket.requests, tokens - bucket.tokens, bucket.youngest_ms + WINDOW_MS
        return at_ms
