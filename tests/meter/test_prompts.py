"""The prompt log: only of keys that ask for it, bounded, and patient with PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
from pydantic import SecretStr

from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.prompts import PromptLog, PromptRecord
from gateway.surfaces import BY_NAME
from meter import prompts
from meter.prompts import ANSWER_BYTES_MAX, Prompts, Transcript
from tests.gateway.stores.rows import eventually
from tests.meter.wire_corpus import grant_for

KEPT = timedelta(days=30)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(Settings(database_url=SecretStr(database_url)))
    yield opened
    await opened.close()


def transcript(request_id: str, answer: bytes = b"yes") -> Transcript:
    made = Transcript(grant_for(BY_NAME["chat"], request_id=request_id, admitted_at_ms=1_763_726_400_000))
    made.asked(b'{"prompt": "h\xc3\xa4?"}')
    made.answered(answer)
    return made


def test_a_transcript_is_what_was_sent_and_delivered() -> None:
    made = transcript("a", b'{"response":"y')
    made.answered(b'es"}\n')
    record = made.record(KEPT)
    assert (record.request, record.response) == ('{"prompt": "hä?"}', '{"response":"yes"}\n')
    assert record.expires_at - record.ts == KEPT
    assert "hä" not in repr(record)


def test_a_long_answer_is_kept_in_part() -> None:
    made = transcript("a", b"x" * (ANSWER_BYTES_MAX - 1))
    made.answered(b"\xc3\xa4 and more")
    record = made.record(KEPT)
    assert len(record.response) == ANSWER_BYTES_MAX
    assert record.response.endswith("x\N{REPLACEMENT CHARACTER}")


async def test_transcripts_reach_postgresql_whatever_they_hold(database: Database) -> None:
    log = Prompts(PromptLog(database), KEPT)
    writing = asyncio.create_task(log.run())
    for number in range(prompts.BATCH_MAX + 1):
        log.submit(transcript(f"p{number}", b"\x00\xff\xed\xa0\x80"), f"p{number}")
    await eventually(lambda: log._waiting_bytes == 0)
    writing.cancel()
    rows = await database.fetch("SELECT request_id, expires_at - ts AS kept FROM gateway.prompt_log")
    assert len(rows) == prompts.BATCH_MAX + 1
    assert {row["kept"] for row in rows} == {KEPT}


async def test_without_room_a_transcript_is_dropped_and_room_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "WAITING_BYTES_MAX", 60)
    written: list[str] = []

    class Store:
        async def append(self, records: Sequence[PromptRecord]) -> None:
            written.extend(record.request_id for record in records)

    log = Prompts(Store(), KEPT)
    for name in "abcd":
        log.submit(transcript(name), name)
    writing = asyncio.create_task(log.run())
    await eventually(lambda: written == ["a", "b"])
    log.submit(transcript("e"), "e")
    await eventually(lambda: written == ["a", "b", "e"])
    writing.cancel()
