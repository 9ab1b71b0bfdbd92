"""The number of waiting requests over time, read from Redis without the delays of the client that sends them."""

from __future__ import annotations

import threading
import time
from typing import Any

import redis

from gateway.queue.redis import keys

_EVERY_S = 0.002
_STATE = dict(zip(keys.NAMES, keys.of_queue(), strict=True))["state"]


class Places(threading.Thread):
    """Reads the number of tickets every few milliseconds in a thread, from `start` to `stop`. Times are `monotonic`."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(daemon=True)
        self._client: Any = redis.Redis.from_url(redis_url)
        self._samples: list[tuple[float, int]] = []
        self._stopped = threading.Event()

    def run(self) -> None:
        """See `Thread`."""
        while not self._stopped.wait(_EVERY_S):
            tickets = int(self._client.hget(_STATE, "tickets") or 0)
            self._samples.append((time.monotonic(), tickets))

    def stop(self) -> None:
        """Ends the readings."""
        self._stopped.set()
        self.join()
        self._client.close()

    def fell_to(self, tickets: int) -> float | None:
        """The time of the first reading with at most this number of tickets, None when there was none."""
        return next((at for at, found in list(self._samples) if found <= tickets), None)
