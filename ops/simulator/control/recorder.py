"""Records what a simulated Ollama received and did, for tests to compare with the gateway's accounting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

RECORDS_MAX = 10_000
RECORDED_BYTES_MAX = 64 * 2**20

Ending = Literal["complete", "cancelled", "failed"]


@dataclass(slots=True)
class Record:
    """One request. Times are in seconds since the epoch.

    `output_tokens`: the tokens that were really generated. `frames`: the frames that were written to the socket.
    `cached_tokens`: the tokens of the prompt that the slot had already evaluated. `waited_s`: how long the request
    waited for a slot. `faults`: the kinds of injected faults. `finished`: None while the request runs.
    """

    id: int
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    started_at: float
    body: str = ""
    model: str | None = None
    status: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    waited_s: float = 0.0
    frames: int = 0
    faults: tuple[str, ...] = ()
    finished: Ending | None = None
    ended_at: float | None = None


@dataclass
class Recorder:
    """The last 10,000 requests, or fewer when their bodies exceed 64 MiB. `clock` returns seconds since the epoch."""

    clock: Callable[[], float]
    records: deque[Record] = field(default_factory=deque)
    running: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _bytes: int = 0
    _next_id: int = 1

    def __post_init__(self) -> None:
        """Starts without running requests."""
        self._idle.set()

    def begin(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> Record:
        """Opens the record of a request whose head has arrived."""
        record = Record(self._next_id, method, path, query, headers, self.clock())
        self._next_id += 1
        self.records.append(record)
        self.running += 1
        self._idle.clear()
        self._drop_oldest()
        return record

    def add_body(self, record: Record, body: bytes) -> None:
        """Adds the body as text, with U+FFFD for invalid UTF-8."""
        record.body = body.decode("utf-8", "replace")
        self._bytes += len(record.body)
        self._drop_oldest()

    def end(self, record: Record, ending: Ending) -> None:
        """Closes the record."""
        record.finished = ending
        record.ended_at = self.clock()
        self.running -= 1
        if self.running == 0:
            self._idle.set()

    def clear(self) -> None:
        """Drops every record. Requests that still run are no longer listed."""
        self.records.clear()
        self._bytes = 0

    async def wait_idle(self, timeout_s: float) -> bool:
        """Waits until no request runs. Returns False after `timeout_s`."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def listing(self, method: str | None = None, request_id: str | None = None) -> list[dict[str, Any]]:
        """The records as JSON objects, oldest first, filtered by method and `x-request-id` if given."""
        return [
            asdict(record)
            for record in self.records
            if method in (None, record.method) and request_id in (None, record.headers.get("x-request-id"))
        ]

    def _drop_oldest(self) -> None:
        if self._bytes > RECORDED_BYTES_MAX:
            self._bytes = sum(len(record.body) for record in self.records)
        while len(self.records) > RECORDS_MAX or (self._bytes > RECORDED_BYTES_MAX and len(self.records) > 1):
            self._bytes -= len(self.records.popleft().body)
