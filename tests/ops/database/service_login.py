"""Connections to PostgreSQL with any login, and every statement that serving a request executes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from authz.keys.repository import KeyRepository
from gateway.ledger.store import Ledger
from gateway.stores.postgres import Database
from gateway.values import Limits
from meter.prompt_log.store import PromptLog, PromptRecord
from tests.row_builders import HASH, entry


async def execute(url: str, *scripts: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for script in scripts:
            await connection.execute(script)
    finally:
        await connection.close()


async def value(url: str, query: str, *arguments: object) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


async def log_in(url: str, role: str, password: str) -> None:
    parts = urlsplit(url)
    connection = await asyncpg.connect(
        host=parts.hostname, port=parts.port, database=parts.path[1:], user=role, password=password
    )
    await connection.close()


async def serve_request(database: Database, key_id: int, at: datetime, request_id: str) -> None:
    """Executes every statement that authz and meter execute to serve a request."""
    keys = KeyRepository(database, Limits(1, 1, 1))
    assert await keys.find_key("nz_000000000") is None
    assert await keys.find_identity("AAAA") is None
    await keys.touch(["nz_000000000"], timedelta(0))
    await keys.store_hash("nz_000000000", HASH, HASH)
    await keys.revoked_since(at)
    ledger = Ledger(database)
    await ledger.append([entry(request_id, at, key_id=key_id)])
    await ledger.reject(entry(request_id, at, key_id=key_id), "a constraint")
    await ledger.usage_of(1, at, [request_id])
    await PromptLog(database).append([PromptRecord(request_id, at, 1, key_id, "m", "why?", "because", at)])
