"""The usual design of a Python gateway, for comparison: FastAPI, httpx, limits in Redis and rows in PostgreSQL.

It follows the design that this project replaced: the key's principal is cached in Redis after Argon2id has verified it
once; a sliding window in Lua limits requests and tokens per minute; a semaphore in Redis limits concurrency; budgets
are counters; token counts come from the last frame; rows are written in batches from a bounded queue. It reserves
nothing, recovers nothing after a crash, and reads no more of a body than `model`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import redis.asyncio
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

PREFIX_LENGTH = 12
PRINCIPAL_TTL_S = 60
LIMIT = 100_000_000
CONCURRENT_MAX = 10_000
CONCURRENCY_TTL_S = 600
WINDOW_MS = 60_000
QUEUE_MAX = 1000
BATCH_S = 0.25

# KEYS: requests of the key, requests of the tenant, tokens of the key, running requests, budget.
# ARGV: now in ms, window in ms, member, limit, concurrent, TTL of the concurrency in s, budget.
ADMIT = """
for i = 1, 3 do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], 0, ARGV[1] - ARGV[2])
  if redis.call('ZCARD', KEYS[i]) >= tonumber(ARGV[4]) then return i end
end
if tonumber(redis.call('GET', KEYS[5]) or 0) >= tonumber(ARGV[7]) then return 5 end
if redis.call('INCR', KEYS[4]) > tonumber(ARGV[5]) then redis.call('DECR', KEYS[4]) return 4 end
redis.call('EXPIRE', KEYS[4], ARGV[6])
for i = 1, 2 do
  redis.call('ZADD', KEYS[i], ARGV[1], ARGV[3])
  redis.call('PEXPIRE', KEYS[i], ARGV[2])
end
return 0
"""

INSERT = """
INSERT INTO audit_log VALUES ($1, $2, $3, $4, $5, $6, $7, to_timestamp($8), $9)
"""
CHARGE = """
INSERT INTO budget_usage (key_id, tokens) VALUES ($1, $2)
ON CONFLICT (key_id) DO UPDATE SET tokens = budget_usage.tokens + excluded.tokens
"""

Row = tuple[Any, ...]


class Gateway:
    """The clients of one worker process."""

    def __init__(self, database: asyncpg.Pool) -> None:
        self.database = database
        self.redis = redis.asyncio.from_url(os.environ["PEER_REDIS_URL"])
        self.admit_script = self.redis.register_script(ADMIT)
        self.upstream = httpx.AsyncClient(
            base_url=os.environ["PEER_UPSTREAM_URL"],
            timeout=httpx.Timeout(600.0, connect=5.0),
            limits=httpx.Limits(max_connections=1000, max_keepalive_connections=1000),
        )
        self.hasher = PasswordHasher()
        self.rows: asyncio.Queue[Row] = asyncio.Queue(QUEUE_MAX)

    async def principal(self, authorization: str) -> tuple[int, int]:
        """The ids of key and tenant. Raises HTTPException(401)."""
        key = authorization.removeprefix("Bearer ")
        cached_at = f"principal:{hashlib.sha256(key.encode()).hexdigest()}"
        if cached := await self.redis.get(cached_at):
            key_id, tenant_id = json.loads(cached)
            return key_id, tenant_id
        found = await self.database.fetchrow(
            "SELECT id, tenant_id, hash FROM api_keys WHERE prefix = $1", key[:PREFIX_LENGTH]
        )
        try:
            if found is None:
                raise HTTPException(401)
            await asyncio.to_thread(self.hasher.verify, found["hash"], key)
        except VerifyMismatchError:
            raise HTTPException(401) from None
        await self.redis.set(cached_at, json.dumps([found["id"], found["tenant_id"]]), ex=PRINCIPAL_TTL_S)
        return found["id"], found["tenant_id"]

    async def admit(self, request_id: str, key_id: int, tenant_id: int) -> None:
        """Counts the request against its limits. Raises HTTPException(429)."""
        names = [f"rpm:k{key_id}", f"rpm:t{tenant_id}", f"tpm:k{key_id}", f"running:k{key_id}", f"budget:k{key_id}"]
        now_ms = time.time_ns() // 1_000_000
        arguments: list[str | int] = [
            now_ms,
            WINDOW_MS,
            request_id,
            LIMIT,
            CONCURRENT_MAX,
            CONCURRENCY_TTL_S,
            LIMIT * LIMIT,
        ]
        if await self.admit_script(keys=names, args=arguments):
            raise HTTPException(429)

    async def settle(self, key_id: int, tokens: int, row: Row) -> None:
        """Charges the tokens and queues the row."""
        pipeline = self.redis.pipeline()
        pipeline.decr(f"running:k{key_id}")
        pipeline.incrby(f"budget:k{key_id}", tokens)
        pipeline.zadd(f"tpm:k{key_id}", {str(row[0]): time.time_ns() // 1_000_000})
        pipeline.pexpire(f"tpm:k{key_id}", WINDOW_MS)
        await pipeline.execute()
        await self.rows.put(row)

    async def write_rows(self) -> None:
        """Writes queued rows in batches until cancelled."""
        while True:
            rows = [await self.rows.get()]
            await asyncio.sleep(BATCH_S)
            while not self.rows.empty():
                rows.append(self.rows.get_nowait())
            async with self.database.acquire() as connection, connection.transaction():
                await connection.executemany(INSERT, rows)
                await connection.executemany(CHARGE, [(row[2], row[5] + row[6]) for row in rows])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connects the clients of the worker."""
    async with asyncpg.create_pool(os.environ["PEER_DATABASE_URL"], min_size=2, max_size=10) as database:
        gateway = app.state.gateway = Gateway(database)
        writer = asyncio.create_task(gateway.write_rows())
        yield
        writer.cancel()
        await gateway.upstream.aclose()


async def chat(request: Request) -> Response:
    """Proxies one chat."""
    gateway: Gateway = request.app.state.gateway
    started, request_id = time.time(), uuid.uuid4()
    key_id, tenant_id = await gateway.principal(request.headers.get("authorization", ""))
    body = await request.body()
    document = json.loads(body)
    await gateway.admit(str(request_id), key_id, tenant_id)
    sent = gateway.upstream.build_request(
        "POST", request.url.path, content=body, headers={"Content-Type": "application/json"}
    )
    answer = await gateway.upstream.send(sent, stream=True)

    async def passed_on() -> AsyncIterator[bytes]:
        last = b""
        try:
            async for data in answer.aiter_raw():
                last = (last + data)[-4096:]
                yield data
        finally:
            await answer.aclose()
            final = json.loads(last.strip().rpartition(b"\n")[2] or b"{}")
            tokens = final.get("prompt_eval_count", 0), final.get("eval_count", 0)
            elapsed_ms = (time.time() - started) * 1000
            row = (request_id, tenant_id, key_id, document["model"], answer.status_code, *tokens, started, elapsed_ms)
            await gateway.settle(key_id, sum(tokens), row)

    headers = {"content-type": answer.headers["content-type"], "x-request-id": str(request_id)}
    return StreamingResponse(passed_on(), answer.status_code, headers)


app = FastAPI(lifespan=lifespan)
app.add_api_route("/api/chat", chat, methods=["POST"], response_model=None)
