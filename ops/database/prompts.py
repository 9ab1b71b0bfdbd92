"""Reads the prompt log: requests and answers of keys that record them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.stores.postgres import Database
from ops.database.policies import PolicySubject, find_subject


@dataclass(frozen=True, slots=True, repr=False)
class LoggedPrompt:
    """One request and its answer as the caller sent and received them.

    `tenant` and `prefix` are None when the tenant, or every key of the account, no longer exists. `prefix` is that of
    the account's newest key.
    """

    request_id: str
    ts: datetime
    tenant: str | None
    prefix: str | None
    model: str
    request: str
    response: str
    expires_at: datetime


async def logged_prompts(
    database: Database, *, request_id: str | None, prefix: str | None, since: datetime | None, limit: int
) -> list[LoggedPrompt]:
    """The newest `limit` prompts of a request or of the account of a key, oldest first.

    None restricts nothing; `since` is aware. An expired prompt is left out even if it is not deleted yet. Raises
    StoreUnavailable, and NotFound for an unknown key.
    """
    async with database.transaction(readonly=True) as connection:
        key_id = None if prefix is None else await find_subject(connection, PolicySubject("key", prefix))
        rows = await connection.fetch(_PROMPTS, request_id, key_id, since, limit)
    return [LoggedPrompt(**dict(row)) for row in reversed(rows)]


_PROMPTS = """
SELECT p.request_id, p.ts, t.name AS tenant, k.prefix, p.model, p.request, p.response, p.expires_at
FROM gateway.prompt_log p
LEFT JOIN gateway.tenants t ON t.id = p.tenant_id
LEFT JOIN (SELECT DISTINCT ON (account_id) account_id, prefix FROM gateway.api_keys ORDER BY account_id, id DESC) k
    ON k.account_id = (SELECT account_id FROM gateway.api_keys WHERE id = p.key_id)
WHERE ($1::text IS NULL OR p.request_id = $1) AND ($3::timestamptz IS NULL OR p.ts >= $3) AND p.expires_at > now()
    AND ($2::bigint IS NULL OR p.key_id IN (SELECT id FROM gateway.api_keys WHERE account_id = $2))
ORDER BY p.ts DESC, p.request_id DESC LIMIT $4
"""
