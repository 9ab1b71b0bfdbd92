"""The keys in PostgreSQL as authz reads them: the owner of a key and the policy that applies to it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from gateway.stores.postgres import Database
from gateway.values import Budgets, Limits, Principal, Priority, Refusal, Scope, Sizes


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as stored, with its principal. `hash` is Argon2id of the whole key."""

    hash: str
    revoked: bool
    tenant_disabled: bool
    expires_at: datetime | None
    principal: Principal

    def is_usable(self, now: datetime) -> bool:
        """Whether the key is valid at `now` (aware), given that it is verified."""
        return self.refusal(now) is None

    def refusal(self, now: datetime) -> Refusal | None:
        """Why the key is not valid at `now` (aware), given that it is verified; None for a valid key."""
        if self.revoked:
            return Refusal.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return Refusal.EXPIRED
        return Refusal.TENANT_DISABLED if self.tenant_disabled else None


class KeyRepository:
    """Keys and their policy. `defaults` and `sizes` are those of a tenant without its own."""

    def __init__(self, database: Database, defaults: Limits, sizes: Sizes = Sizes()) -> None:  # noqa: B008 (it is frozen)
        self._database = database
        self._defaults = defaults
        self._sizes = sizes

    async def find_key(self, prefix: str) -> StoredKey | None:
        """The key with that prefix, in any state; None when there is none. Raises StoreUnavailable."""
        row = await self._database.fetchrow(_FIND_KEY, prefix)
        return None if row is None else _stored_key(row, self._defaults, self._sizes)

    async def find_identity(self, blob: str) -> StoredKey | None:
        """The key to whose account the public key (the base64 of its blob) was added; None when there is none.

        Of an account with several keys it is the current one, in any state. Raises StoreUnavailable.
        """
        row = await self._database.fetchrow(_FIND_IDENTITY, blob)
        return None if row is None else _stored_key(row, self._defaults, self._sizes)

    async def revoked_since(self, since: datetime) -> list[str]:
        """Prefixes of the keys that were revoked at or after `since` (aware). Raises StoreUnavailable."""
        rows = await self._database.fetch("SELECT prefix FROM gateway.revocations WHERE revoked_at >= $1", since)
        return [row["prefix"] for row in rows]

    async def touch(self, prefixes: Collection[str], interval: timedelta) -> None:
        """Records that these keys were used now, unless a use within the last `interval` is recorded already.

        A key whose row another worker is updating is skipped. Raises StoreUnavailable.
        """
        await self._database.execute(_TOUCH, sorted(prefixes), interval)

    async def store_hash(self, prefix: str, old: str, new: str) -> None:
        """Replaces the hash `old` by `new`, which has other costs. No effect if the hash has changed meanwhile.

        The change of policy that the replacement leaves names authz as its command.
        """
        async with self._database.transaction() as connection:
            await connection.execute("SELECT set_config('gateway.command', 'authz', true)")
            await connection.execute(
                "UPDATE gateway.api_keys SET hash = $3 WHERE prefix = $1 AND hash = $2", prefix, old, new
            )


_SELECT = """
SELECT k.account_id, k.prefix, k.hash, k.status = 'revoked' AS revoked, k.scopes, k.log_prompts, k.priority,
       k.expires_at, tl.weight,
       t.id AS tenant_id, t.name AS tenant, t.status = 'disabled' AS tenant_disabled,
       tl.rpm AS tenant_rpm, tl.tpm AS tenant_tpm, tl.concurrent AS tenant_concurrent,
       tl.budget_day AS tenant_day, tl.budget_month AS tenant_month, tl.budget_total AS tenant_total,
       tl.allow_all_models AS tenant_allow_all, tl.allowed_models AS tenant_models,
       coalesce(kl.max_output, tl.max_output) AS max_output, coalesce(kl.max_body, tl.max_body) AS max_body,
       kl.rpm, kl.tpm, kl.concurrent, kl.budget_day, kl.budget_month, kl.budget_total,
       kl.allow_all_models, kl.allowed_models
FROM gateway.api_keys k
JOIN gateway.tenants t ON t.id = k.tenant_id
LEFT JOIN gateway.tenant_limits tl ON tl.tenant_id = t.id
LEFT JOIN gateway.key_limits kl ON kl.key_id = k.account_id
"""

_FIND_KEY = f"{_SELECT} WHERE k.prefix = $1"

_FIND_IDENTITY = f"""{_SELECT}
JOIN gateway.identities i ON i.account_id = k.account_id
WHERE i.public_key = $1 AND k.replaced_by IS NULL ORDER BY k.id DESC LIMIT 1
"""

_TOUCH = """
UPDATE gateway.api_keys SET last_used_at = now()
WHERE id IN (
    SELECT id FROM gateway.api_keys
    WHERE prefix = ANY($1::text[]) AND (last_used_at IS NULL OR last_used_at < now() - $2::interval)
    FOR NO KEY UPDATE SKIP LOCKED
)
"""


def _stored_key(row: asyncpg.Record, defaults: Limits, sizes: Sizes) -> StoredKey:
    tenant_limits = Limits(
        rpm=row["tenant_rpm"] or defaults.rpm,
        tpm=row["tenant_tpm"] or defaults.tpm,
        concurrent=row["tenant_concurrent"] or defaults.concurrent,
    )
    allow_all, models = _models(row)
    principal = Principal(
        tenant_id=row["tenant_id"],
        tenant=row["tenant"],
        key_id=row["account_id"],
        key_prefix=row["prefix"],
        # A scope that a later release has added permits nothing here.
        scopes=frozenset(scope for scope in Scope if scope in row["scopes"]),
        models=models,
        allow_all_models=allow_all,
        tenant_limits=tenant_limits,
        key_limits=Limits(
            rpm=row["rpm"] or tenant_limits.rpm,
            tpm=row["tpm"] or tenant_limits.tpm,
            concurrent=row["concurrent"] or tenant_limits.concurrent,
        ),
        tenant_budgets=Budgets(row["tenant_day"], row["tenant_month"], row["tenant_total"]),
        key_budgets=Budgets(row["budget_day"], row["budget_month"], row["budget_total"]),
        log_prompts=row["log_prompts"],
        expires_at=row["expires_at"],
        weight=row["weight"] or 1,
        priority=Priority(row["priority"]),
        sizes=Sizes(row["max_output"] or sizes.output_tokens, row["max_body"] or sizes.body_bytes),
    )
    return StoredKey(row["hash"], row["revoked"], row["tenant_disabled"], row["expires_at"], principal)


def _models(row: asyncpg.Record) -> tuple[bool, frozenset[str]]:
    """The flag or list of the key takes precedence. A key with a list does not inherit the tenant's flag either."""
    own_list, own_flag = row["allowed_models"], row["allow_all_models"]
    models = frozenset(own_list if own_list is not None else row["tenant_models"] or ())
    if own_flag is not None:
        return own_flag, models
    return own_list is None and bool(row["tenant_allow_all"]), models
