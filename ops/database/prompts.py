"""Reads the prompt log: requests and answers of keys that record them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from gateway.record.encrypted_transcript import decrypt, key_id_of
from gateway.stores.postgres import Database
from ops.database.policies import PolicySubject, find_subject


@dataclass(frozen=True, slots=True, repr=False)
class LoggedPrompt:
    """One request and its answer as the caller sent and received them.

    `request` and `response` are None while they are encrypted, and `encrypted_to` is then the id of the key.

    `tenant` and `prefix` are None when the tenant, or every key of the account, no longer exists. `prefix` is that of
    the account's newest key.
    """

    request_id: str
    ts: datetime
    tenant: str | None
    prefix: str | None
    model: str
    request: str | None
    response: str | None
    expires_at: datetime
    encrypted_to: str | None = None


async def logged_prompts(
    database: Database,
    *,
    request_id: str | None,
    prefix: str | None,
    since: datetime | None,
    limit: int,
    keys: Mapping[str, X25519PrivateKey] | None = None,
) -> list[LoggedPrompt]:
    """The newest `limit` prompts of a request or of the account of a key, oldest first.

    None restricts nothing; `since` is aware. An expired prompt is left out even if it is not deleted yet. `keys`
    decrypt rows, by their ids. Raises StoreUnavailable, NotFound for an unknown key, and TranscriptRefused.
    """
    async with database.transaction(readonly=True) as connection:
        key_id = None if prefix is None else await find_subject(connection, PolicySubject("key", prefix))
        rows = await connection.fetch(_PROMPTS, request_id, key_id, since, limit)
    return [_readable(LoggedPrompt(**dict(row)), keys or {}) for row in reversed(rows)]


def _readable(prompt: LoggedPrompt, keys: Mapping[str, X25519PrivateKey]) -> LoggedPrompt:
    key_id = key_id_of(prompt.request or "")
    if key_id is None:
        return prompt
    if key_id not in keys:
        return replace(prompt, request=None, response=None, encrypted_to=key_id)
    request, response = decrypt(prompt.request_id, prompt.request or "", keys)
    return replace(prompt, request=request, response=response)


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
