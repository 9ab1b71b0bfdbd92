"""What keys created with `--log-prompts` asked and were answered, on its way into the prompt log.

This is no accounting: what finds no room, or whose meter dies, is missing from the prompt log and not from the ledger.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from gateway.errors import Conflict, DataRefused, StoreUnavailable
from gateway.record.grant import Grant
from meter.prompt_log.store import PromptRecord

log = structlog.get_logger()

ANSWER_BYTES_MAX = 1024 * 1024
WAITING_BYTES_MAX = 64 * 1024 * 1024
BATCH_MAX = 50
RETRY_S = 0.5


class Transcript:
    """One request and the beginning of its answer, as the caller sent and got them. Pure."""

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        self._request = b""
        self._answer = bytearray()

    @property
    def size_bytes(self) -> int:
        """What it takes while it waits."""
        return len(self._request) + len(self._answer)

    def set_request(self, body: bytes) -> None:
        """The body of the request."""
        self._request = body

    def add_response(self, data: bytes) -> None:
        """The next bytes of the answer; those past ANSWER_BYTES_MAX are left out."""
        self._answer += data[: ANSWER_BYTES_MAX - len(self._answer)]

    def record(self, kept: timedelta) -> PromptRecord:
        """The row. A character that was cut in two, or is none, becomes a replacement character."""
        at = datetime.fromtimestamp(self._grant.admitted_at_ms / 1000, UTC)
        return PromptRecord(
            request_id=self._grant.request_id,
            ts=at,
            tenant_id=self._grant.tenant_id,
            key_id=self._grant.key_id,
            model=self._grant.model,
            request=self._request.decode("utf-8", "replace"),
            response=self._answer.decode("utf-8", "replace"),
            expires_at=at + kept,
        )


class Appends(Protocol):
    """The store's side; see `meter.prompt_log.store`."""

    async def append(self, records: Sequence[PromptRecord]) -> None: ...


class Prompts:
    """Transcripts that wait for PostgreSQL, at most WAITING_BYTES_MAX of them; rows are `kept` so long."""

    def __init__(self, store: Appends, kept: timedelta) -> None:
        self._store = store
        self._kept = kept
        self._waiting: deque[Transcript] = deque()
        self._waiting_bytes = 0
        self._submitted = asyncio.Event()

    def submit(self, transcript: Transcript, request_id: str) -> None:
        """Takes over a finished request, or drops it when there is no room."""
        if self._waiting_bytes + transcript.size_bytes > WAITING_BYTES_MAX:
            log.warning("prompt_not_logged", request_id=request_id)
            return
        self._waiting.append(transcript)
        self._waiting_bytes += transcript.size_bytes
        self._submitted.set()

    async def run(self) -> None:
        """Writes for ever."""
        while True:
            await self._submitted.wait()
            self._submitted.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
                await self._write([transcript.record(self._kept) for transcript in batch])
                self._waiting_bytes -= sum(transcript.size_bytes for transcript in batch)

    async def _write(self, records: Sequence[PromptRecord]) -> None:
        """Waits while PostgreSQL is away. Halves what it refuses until a refused row is alone, and drops that."""
        while True:
            try:
                await self._store.append(records)
            except (DataRefused, Conflict) as error:
                if len(records) > 1:
                    middle = len(records) // 2
                    await self._write(records[:middle])
                    await self._write(records[middle:])
                else:
                    log.error("prompt_refused", request_id=records[0].request_id, reason=str(error))
            except StoreUnavailable as error:
                log.warning("prompt_log_waits", reason=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            return
