"""Prompts and answers of keys created with `--log-prompts`, on their way into the prompt log.

The prompt log is separate from accounting. A transcript that finds no capacity, or whose meter dies, is missing from
the prompt log and not from the ledger.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol, TypeAlias

import structlog

from gateway.errors import Conflict, DataRefused
from gateway.loops import STORE_BACKOFF, Backoff, retry
from gateway.record.grant import Grant
from meter.prompt_log.store import PromptRecord

log = structlog.get_logger()

ANSWER_BYTES_MAX = 1024 * 1024
WAITING_BYTES_MAX = 64 * 1024 * 1024
BATCH_MAX = 50


class Transcript:
    """One request and the beginning of its answer, as the caller sent and received them. Pure."""

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        self._request = b""
        self._answer = bytearray()

    @property
    def size_bytes(self) -> int:
        """The memory that it takes while it waits."""
        return len(self._request) + len(self._answer)

    def set_request(self, body: bytes) -> None:
        """The body of the request."""
        self._request = body

    def add_response(self, data: bytes) -> None:
        """The next bytes of the answer; those past ANSWER_BYTES_MAX are left out."""
        self._answer += data[: ANSWER_BYTES_MAX - len(self._answer)]

    def record(self, retention: timedelta) -> PromptRecord:
        """The row, which expires after `retention`. Bytes that are not UTF-8 become replacement characters."""
        at = datetime.fromtimestamp(self._grant.admitted_at_ms / 1000, UTC)
        return PromptRecord(
            request_id=self._grant.request_id,
            ts=at,
            tenant_id=self._grant.tenant_id,
            key_id=self._grant.key_id,
            model=self._grant.model,
            request=self._request.decode("utf-8", "replace"),
            response=self._answer.decode("utf-8", "replace"),
            expires_at=at + retention,
        )


Protect: TypeAlias = Callable[[PromptRecord], PromptRecord]


class PromptSink(Protocol):
    """The store; see `meter.prompt_log.store`."""

    async def append(self, records: Sequence[PromptRecord]) -> None: ...


class PromptWriter:
    """Transcripts that wait for PostgreSQL, at most `waiting_bytes_max` of them. Rows expire after `retention`.

    `protect` redacts and encrypts a row. It runs in a thread, because long texts would delay the answers of others.
    """

    def __init__(
        self,
        sink: PromptSink,
        retention: timedelta,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
        backoff: Backoff = STORE_BACKOFF,
        protect: Protect | None = None,
    ) -> None:
        self._sink = sink
        self._retention = retention
        self._waiting_bytes_max = waiting_bytes_max
        self._backoff = backoff
        self._protect = protect
        self._waiting: deque[Transcript] = deque()
        self._submitted = asyncio.Event()
        self.waiting_bytes = 0

    def submit(self, transcript: Transcript, request_id: str) -> None:
        """Accepts the transcript of a finished request, or drops it when too many bytes wait."""
        if self.waiting_bytes + transcript.size_bytes > self._waiting_bytes_max:
            log.warning("prompt_not_logged", request_id=request_id)
            return
        self._waiting.append(transcript)
        self.waiting_bytes += transcript.size_bytes
        self._submitted.set()

    async def run(self) -> None:
        """Writes until cancelled."""
        # Not `forever`: it waits for transcripts and not for time, and `_write` retries by itself.
        while True:
            await self._submitted.wait()
            self._submitted.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
                records = [transcript.record(self._retention) for transcript in batch]
                await self._write([each for record in records if (each := await self._protected(record))])
                self.waiting_bytes -= sum(transcript.size_bytes for transcript in batch)

    async def _protected(self, record: PromptRecord) -> PromptRecord | None:
        """The record as it may be stored, None if it cannot be redacted or encrypted: then it is dropped."""
        if self._protect is None:
            return record
        try:
            return await asyncio.to_thread(self._protect, record)
        except Exception as error:  # noqa: BLE001 (a row that is not protected must not be stored, and others must be)
            # The message of the error may contain the prompt.
            log.error("prompt_refused", request_id=record.request_id, reason=type(error).__name__)
            return None

    async def _write(self, records: Sequence[PromptRecord]) -> None:
        """Writes the records, as soon as PostgreSQL is available.

        Halves a batch that PostgreSQL rejects until the rejected row is alone, and drops that row.
        """
        if not records:
            return
        append = partial(self._sink.append, records)
        try:
            await retry(append, on_error="prompt_log_postponed", backoff=self._backoff)
        except (DataRefused, Conflict) as error:
            if len(records) == 1:
                log.error("prompt_refused", request_id=records[0].request_id, reason=str(error))
                return
            middle = len(records) // 2
            await self._write(records[:middle])
            await self._write(records[middle:])
