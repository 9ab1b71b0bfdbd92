"""The identities of Ollama installations: public keys that sign in as the account of a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.errors import Conflict, NotFound
from gateway.request.ssh_public_key import SshPublicKey
from gateway.stores.postgres import Database, PooledConnection
from ops.database.policies import key_not_found


async def add_identity(database: Database, prefix: str, key: SshPublicKey) -> bool:
    """Adds a public key to the account of an API key. False if the account has it already.

    Raises StoreUnavailable, NotFound, and Conflict for an API key that is revoked or replaced and for a public key of
    another account.
    """
    async with database.transaction() as connection:
        account_id = await _live_account(connection, prefix)
        return await _insert(connection, account_id, key)


async def remove_identity(database: Database, prefix: str, key: SshPublicKey) -> None:
    """Removes a public key from the account of an API key in any state. Every authz refuses it within a second.

    Raises StoreUnavailable, and NotFound if the account does not have it.
    """
    async with database.transaction() as connection:
        account = await connection.fetchrow("SELECT account_id FROM gateway.api_keys WHERE prefix = $1", prefix)
        if account is None:
            raise key_not_found(prefix)
        removed = await connection.fetchval(_DELETE, account["account_id"], key.blob)
    if removed is None:
        raise NotFound(f"the key {prefix} has no identity {key.fingerprint}; `list-keys` shows its identities")


async def read_identities(connection: PooledConnection) -> Mapping[int, Sequence[SshPublicKey]]:
    """The public keys by account, in the order in which they were added. Raises StoreUnavailable."""
    found: dict[int, list[SshPublicKey]] = {}
    for row in await connection.fetch("SELECT account_id, public_key, comment FROM gateway.identities ORDER BY id"):
        found.setdefault(row["account_id"], []).append(SshPublicKey(row["public_key"], row["comment"]))
    return found


async def remove_other_identities(connection: PooledConnection, account_id: int, keys: Sequence[SshPublicKey]) -> None:
    """Removes all public keys of an account but these. Raises StoreUnavailable."""
    await connection.execute(_DELETE_OTHERS, account_id, [key.blob for key in keys])


async def store_identities(connection: PooledConnection, account_id: int, keys: Sequence[SshPublicKey]) -> None:
    """Adds these public keys to an account, or changes their comments.

    Raises StoreUnavailable, and Conflict for one of another account.
    """
    for key in keys:
        if not await _insert(connection, account_id, key):
            await connection.execute(_COMMENT, account_id, key.blob, key.comment)


async def _insert(connection: PooledConnection, account_id: int, key: SshPublicKey) -> bool:
    if await connection.fetchval(_INSERT, account_id, key.blob, key.comment):
        return True
    owner = await connection.fetchrow(_OWNER, key.blob)
    if owner is None or owner["account_id"] != account_id:
        where = f"the key {owner['prefix']} of {owner['tenant']}" if owner else "another key"
        raise Conflict(f"the identity {key.fingerprint} belongs to {where}; remove it there first")
    return False


async def _live_account(connection: PooledConnection, prefix: str) -> int:
    row = await connection.fetchrow(_LOCK_KEY, prefix)
    if row is None:
        raise key_not_found(prefix)
    if not row["live"]:
        raise Conflict(f"the key {prefix} is revoked or replaced; name its successor, or create a new key")
    return int(row["account_id"])


_LOCK_KEY = """
SELECT account_id, status = 'active' AND replaced_by IS NULL AS live
FROM gateway.api_keys WHERE prefix = $1 FOR UPDATE
"""

_INSERT = """
INSERT INTO gateway.identities (account_id, public_key, comment) VALUES ($1, $2, $3)
ON CONFLICT (public_key) DO NOTHING RETURNING true
"""

_OWNER = """
SELECT i.account_id, k.prefix, t.name AS tenant
FROM gateway.identities i
JOIN gateway.api_keys k ON k.account_id = i.account_id AND k.replaced_by IS NULL
JOIN gateway.tenants t ON t.id = k.tenant_id
WHERE i.public_key = $1
"""

_DELETE = "DELETE FROM gateway.identities WHERE account_id = $1 AND public_key = $2 RETURNING true"

_DELETE_OTHERS = "DELETE FROM gateway.identities WHERE account_id = $1 AND public_key <> ALL ($2::text[])"

_COMMENT = """
UPDATE gateway.identities SET comment = $3 WHERE account_id = $1 AND public_key = $2 AND comment <> $3
"""
