"""The prompt log: only of keys that ask for it, bounded, and patient with PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from gateway.errors import DataRefused, StoreUnavailable
from gateway.loops import Backoff
from gateway.record.encrypted_transcript import decrypt, read_private_keys
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.wire.surfaces import BY_NAME
from meter.prompt_log.protection import protection
from meter.prompt_log.store import PromptLog, PromptRecord
from meter.prompt_log.writer import ANSWER_BYTES_MAX, BATCH_MAX, PromptWriter, Transcript
from tests.gateway.record.test_encrypted_transcript import write_key
from tests.meter.wire_corpus import grant_for
from tests.polling import eventually_async

KEPT = timedelta(days=30)
OUT_OF_RANGE: dict[str, Any] = {"tenant_id": 2**63}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(Settings(database_url=SecretStr(database_url)))
    yield opened
    await opened.close()


@pytest.fixture
async def prompt_log(service_database_url: str) -> AsyncIterator[PromptLog]:
    opened = Database(Settings(database_url=SecretStr(service_database_url)))
    yield PromptLog(opened)
    await opened.close()


def transcript(request_id: str, answer: bytes = b"yes", **granted: Any) -> Transcript:
    grant = grant_for(BY_NAME["chat"], request_id=request_id, admitted_at_ms=1_763_726_400_000)
    made = Transcript(replace(grant, **granted))
    made.set_request(b'{"prompt": "h\xc3\xa4?"}')
    made.add_response(answer)
    return made


def test_a_transcript_is_what_was_sent_and_delivered() -> None:
    made = transcript("a", b'{"response":"y')
    made.add_response(b'es"}\n')
    record = made.record(KEPT)
    assert (record.request, record.response) == ('{"prompt": "hä?"}', '{"response":"yes"}\n')
    assert record.expires_at - record.ts == KEPT
    assert "hä" not in repr(record)


def test_a_long_answer_is_kept_in_part() -> None:
    made = transcript("a", b"x" * (ANSWER_BYTES_MAX - 1))
    made.add_response(b"\xc3\xa4 and more")
    record = made.record(KEPT)
    assert len(record.response) == ANSWER_BYTES_MAX
    assert record.response.endswith("x\N{REPLACEMENT CHARACTER}")


async def test_transcripts_reach_postgresql_whatever_they_hold(database: Database, prompt_log: PromptLog) -> None:
    log = PromptWriter(prompt_log, KEPT)
    writing = asyncio.create_task(log.run())
    for number in range(BATCH_MAX + 1):
        log.submit(transcript(f"p{number}", b"\x00\xff\xed\xa0\x80"), f"p{number}")
    await eventually_async(lambda: log.waiting_bytes == 0)
    writing.cancel()
    rows = await database.fetch("SELECT request_id, expires_at - ts AS kept FROM gateway.prompt_log")
    assert len(rows) == BATCH_MAX + 1
    assert {row["kept"] for row in rows} == {KEPT}


@pytest.mark.parametrize(
    ("refused", "reason"),
    [(OUT_OF_RANGE, "DataError"), ({"model": None}, "NotNullViolationError")],
    ids=["out of range", "against a constraint"],
)
async def test_a_row_that_postgresql_refuses_is_dropped_alone_and_nothing_of_it_is_logged(
    database: Database, refused: dict[str, Any], reason: str
) -> None:
    log = PromptWriter(PromptLog(database), KEPT)
    for number in range(5):
        log.submit(transcript(f"p{number}", b"private", **(refused if number == 3 else {})), f"p{number}")
    with structlog.testing.capture_logs() as logged:
        writing = asyncio.create_task(log.run())
        await eventually_async(lambda: log.waiting_bytes == 0)
        writing.cancel()
    rows = await database.fetch("SELECT request_id FROM gateway.prompt_log ORDER BY request_id")
    assert [row["request_id"] for row in rows] == ["p0", "p1", "p2", "p4"]
    (line,) = logged
    assert (line["event"], line["request_id"]) == ("prompt_refused", "p3")
    assert reason in line["reason"]
    assert "private" not in str(line)
    assert "hä" not in str(line)


async def test_while_postgresql_is_unavailable_every_row_waits_beside_a_refused_one(database: Database) -> None:
    store, back = PromptLog(database), asyncio.Event()

    class Leaves:
        """PostgreSQL, which is unavailable after it has refused something, until `back` is set."""

        refusals = attempts = 0

        async def append(self, records: Sequence[PromptRecord]) -> None:
            self.attempts += 1
            if self.refusals and not back.is_set():
                raise StoreUnavailable("unavailable")
            try:
                await store.append(records)
            except DataRefused:
                self.refusals += 1
                raise

    leaves = Leaves()
    log = PromptWriter(leaves, KEPT, backoff=Backoff(0.01, 0.01))
    for number in range(4):
        log.submit(transcript(f"p{number}", **(OUT_OF_RANGE if number == 1 else {})), f"p{number}")
    writing = asyncio.create_task(log.run())
    await eventually_async(lambda: leaves.attempts > 3)
    assert log.waiting_bytes > 0
    back.set()
    await eventually_async(lambda: log.waiting_bytes == 0)
    writing.cancel()
    rows = await database.fetch("SELECT request_id FROM gateway.prompt_log ORDER BY request_id")
    assert [row["request_id"] for row in rows] == ["p0", "p2", "p3"]


async def test_rows_are_redacted_and_encrypted_before_postgresql_receives_them(
    database: Database, prompt_log: PromptLog, tmp_path: Path
) -> None:
    private, public = write_key(tmp_path)
    settings = Settings(prompt_log_redact=["email"], prompt_log_public_key_file=public)
    log = PromptWriter(prompt_log, KEPT, protect=protection(settings))
    writing = asyncio.create_task(log.run())
    log.submit(transcript("p", b'{"response": "ada@example.com"}'), "p")
    await eventually_async(lambda: log.waiting_bytes == 0)
    writing.cancel()
    row = await database.fetchrow("SELECT request, response FROM gateway.prompt_log")
    assert row is not None
    assert row["response"] == ""
    assert decrypt("p", row["request"], read_private_keys(private)) == (
        '{"prompt": "hä?"}',
        '{"response": "[redacted: email]"}',
    )


def test_rows_are_stored_as_they_are_without_settings() -> None:
    assert protection(Settings()) is None


async def test_a_transcript_beyond_the_capacity_is_dropped_and_capacity_returns() -> None:
    written: list[str] = []

    class Store:
        async def append(self, records: Sequence[PromptRecord]) -> None:
            written.extend(record.request_id for record in records)

    log = PromptWriter(Store(), KEPT, waiting_bytes_max=60)
    for name in "abcd":
        log.submit(transcript(name), name)
    writing = asyncio.create_task(log.run())
    await eventually_async(lambda: written == ["a", "b"])
    log.submit(transcript("e"), "e")
    await eventually_async(lambda: written == ["a", "b", "e"])
    writing.cancel()


async def test_a_row_that_cannot_be_protected_is_dropped_and_the_others_are_stored() -> None:
    stored: list[str] = []

    class Sink:
        async def append(self, records: Sequence[PromptRecord]) -> None:
            stored.extend(each.request_id for each in records)

    def protect(record: PromptRecord) -> PromptRecord:
        if record.request_id != "b":
            raise RecursionError(record.request)
        return record

    writer = PromptWriter(Sink(), KEPT, protect=protect)
    with structlog.testing.capture_logs() as logs:
        for request_id in "abc":
            writer.submit(transcript(request_id), request_id)
        running = asyncio.create_task(writer.run())
        await eventually_async(lambda: writer.waiting_bytes == 0)
        running.cancel()
    assert stored == ["b"]
    assert [(each["event"], each["request_id"], each["reason"]) for each in logs] == [
        ("prompt_refused", "a", "RecursionError"), ("prompt_refused", "c", "RecursionError"),
    ]  # fmt: skip
