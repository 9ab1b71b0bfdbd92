"""`python bench/seed_keys.py ENV_FILE TENANTS KEYS`: creates tenants and keys, and prints the keys as a list in JSON.

It runs with the interpreter and the packages of the measured checkout, which may be another one than this. Key number n
belongs to tenant n modulo TENANTS.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from authz.keys.hashing import KeyHasher
from authz.keys.key_format import generate
from gateway.settings import load
from gateway.stores.postgres import Database
from ops.cli.parameters import policy_change
from ops.database.tenants import TenantRepository

_TIMEOUT_S = 60.0
# The columns that a key needs. Creating keys one by one, as the CLI does, would take most of the time of a run.
_CREATE = "INSERT INTO gateway.api_keys (tenant_id, name, prefix, hash, scopes) VALUES ($1, $2, $3, $4, $5)"


async def seed(env_file: Path, tenants: int, keys: int) -> list[str]:
    """Creates `tenants` tenants that may use all models, and `keys` keys, and returns the keys."""
    settings = load(env_file)
    database, hasher = Database(settings, command_timeout_s=_TIMEOUT_S), KeyHasher.from_settings(settings)
    repository, created = TenantRepository(database), [generate() for _ in range(keys)]
    try:
        for number in range(tenants):
            await repository.create_tenant(f"bench-{number}", policy_change(allow_all_models=True))
        ids = [row["id"] for row in await database.fetch("SELECT id FROM gateway.tenants ORDER BY id")]
        rows = [
            (ids[number % tenants], f"key-{number}", key.prefix, await hasher.hash(key.secret), ["chat"])
            for number, key in enumerate(created)
        ]
        async with database.transaction() as connection:
            await connection.executemany(_CREATE, rows)
        return [key.secret.get_secret_value() for key in created]
    finally:
        hasher.close()
        await database.close()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(seed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))) + "\n")
