"""A documented backup restored to another database has the same reports, and counters are rebuilt from its ledger."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from gateway.ledger.store import Ledger
from gateway.quota.redis.quota import RedisQuota
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.stores.redis import connect
from gateway.values import Period
from ops.host.binaries import POSTGRES_BIN, postgres_tree
from tests.conftest import Login
from tests.gateway.quota.builders import admitted, asks
from tests.ops.cli.conftest import Operator, write_env
from tests.redis_server import one_server
from tests.row_builders import entry

ROLE = f"t_{secrets.token_hex(6)}"
GUIDE = Path(__file__).parents[3] / "docs/backup-and-restore.md"


def documented(program: str) -> str:
    (line,) = re.findall(rf"^{program} .+$", GUIDE.read_text(), re.MULTILINE)
    return str(line)


def run(line: str, url: str, directory: Path) -> None:
    # The PostgreSQL programs are in the wheel, our own command is in this interpreter's folder.
    folders = (str(postgres_tree() / POSTGRES_BIN), str(Path(sys.executable).parent), os.environ["PATH"])
    env = {**os.environ, "PATH": ":".join(folders), "DATABASE_URL": url}
    command = ["/bin/sh", "-c", line]
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def restore(url: str, directory: Path) -> None:
    """Restores the backup as documented; it replaces existing data."""
    for program in ("psql", "pg_restore"):
        run(documented(program), url, directory)


@pytest.fixture
def restored_url(postgres_url: str) -> Iterator[str]:
    """The URL of a second, empty database on the server of the first one."""
    name = f"t_{secrets.token_hex(6)}"
    asyncio.run(execute(postgres_url, f"CREATE DATABASE {name}"))
    yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    asyncio.run(execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def drop_role(*urls: str) -> None:
    """Drops the role. `urls` are all databases in which it has privileges."""
    for url in urls:
        connection = await asyncpg.connect(url)
        await connection.execute(f"DROP OWNED BY {ROLE}")
        if url == urls[-1]:
            await connection.execute(f"DROP ROLE {ROLE}")
        await connection.close()


async def record(url: str, *ids: str) -> None:
    """Appends ledger rows of the only key."""
    database = Database(Settings(database_url=SecretStr(url)))
    row = await database.fetchrow("SELECT tenant_id, id FROM gateway.api_keys")
    assert row is not None
    now = datetime.now(UTC)
    await Ledger(database).append([entry(each, now, tenant_id=row["tenant_id"], key_id=row["id"]) for each in ids])
    await database.close()


async def counted_total(url: str, redis_url: str) -> int:
    """Returns the total of the only tenant in the live counters, which its first request has rebuilt."""
    settings = Settings(database_url=SecretStr(url), redis_url=SecretStr(redis_url), redis_timeout_s=5)
    database, redis = Database(settings), connect(settings)
    quota = RedisQuota(redis, settings, Ledger(database).usage_of, restore_s=0.0)
    key = await database.fetchrow("SELECT tenant_id, id FROM gateway.api_keys")
    assert key is not None
    await admitted(quota, asks(tenant=key["tenant_id"], key=key["id"]))
    counters = await quota.counters(key["tenant_id"])
    assert counters is not None
    for each in (quota, redis):
        await each.aclose()
    await database.close()
    return counters.used[None, Period.TOTAL]


def test_a_restored_backup_has_the_same_reports_and_its_counters_match_the_ledger(
    empty_database_url: str, restored_url: str, tmp_path: Path
) -> None:
    lines = (f"DATABASE_SERVICE_ROLE={ROLE}", "DATABASE_SERVICE_PASSWORD=chosen")
    operator = Operator(write_env(tmp_path / "env", empty_database_url, lines))
    operator.does("migrate")
    operator.does("create-tenant", "--name", "acme", "--allow-all-models")
    operator.does("create-key", "--tenant", "acme", "--name", "laptop")
    operator.does("set-budget", "--tenant", "acme", "--total", "1000")
    asyncio.run(record(empty_database_url, "one", "two"))
    run(documented("pg_dump"), empty_database_url, tmp_path)
    asyncio.run(drop_role(empty_database_url))
    usage, audit = operator.reads("show-usage"), operator.reads("show-audit")
    asyncio.run(record(empty_database_url, "after the backup"))

    restored = Operator(write_env(tmp_path / "restored", restored_url, lines))
    restore(restored_url, tmp_path)
    assert restored.reads("migrate") == operator.reads("migrate")
    assert (restored.reads("show-usage"), restored.reads("show-audit")) == (usage, audit)
    assert len(audit) == 2
    with one_server() as redis:
        assert asyncio.run(counted_total(restored_url, redis.url)) == sum(
            row["input_tokens"] + row["output_tokens"] for row in audit
        )
    # The backup also restores over existing data.
    restore(empty_database_url, tmp_path)
    assert operator.reads("show-audit") == audit
    # The restored audit log is still append-only.
    refused = subprocess.run(
        [postgres_tree() / POSTGRES_BIN / "psql", restored_url, "-c", "DELETE FROM gateway.audit_log"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode != 0
    # `migrate` created the role of authz and meter again, with its privileges.
    asyncio.run(record(Login(ROLE, "chosen").url(restored_url), "after the restore"))
    asyncio.run(drop_role(empty_database_url, restored_url))
