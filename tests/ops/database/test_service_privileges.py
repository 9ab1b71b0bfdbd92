"""The privileges of authz and meter, each one needed and no other one granted, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.audit_chain import AuditChain
from ops.database.audit_seal import AuditSealer
from ops.database.tenants import TenantRepository
from tests.conftest import Login
from tests.ops.database.service_login import serve_request
from tests.row_builders import add_key

NOW = datetime.now(UTC)


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[Database]:
    opened = Database(Settings(database_url=SecretStr(database_url)))
    yield opened
    await opened.close()


@pytest.fixture
async def service(service_database_url: str) -> AsyncIterator[Database]:
    opened = Database(Settings(database_url=SecretStr(service_database_url)))
    yield opened
    await opened.close()


@pytest.fixture
async def key_id(owner: Database) -> int:
    tenants = TenantRepository(owner)
    await tenants.create_tenant("acme", {})
    return (await add_key(tenants)).id


_PRIVILEGES = """
SELECT format('%s ON %s gateway.%I', privilege_type, CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relname)
    AS granted
FROM pg_class, aclexplode(relacl) WHERE relnamespace = 'gateway'::regnamespace AND grantee = $1::regrole
UNION ALL
SELECT format('%s (%I) ON gateway.%I', privilege_type, attname, relname)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
WHERE relnamespace = 'gateway'::regnamespace AND grantee = $1::regrole
"""


async def test_serving_a_request_needs_every_privilege(
    owner: Database, service: Database, service_role: Login, key_id: int
) -> None:
    await serve_request(service, key_id, NOW, "with all privileges")
    privileges = [row["granted"] for row in await owner.fetch(_PRIVILEGES, service_role.role)]
    assert len(privileges) > 30
    unused = []
    for number, privilege in enumerate(privileges):
        await owner.execute(f"REVOKE {privilege} FROM {service_role.role}")
        try:
            await serve_request(service, key_id, NOW, f"without {number}")
            unused.append(privilege)
        except StoreUnavailable as error:
            assert "InsufficientPrivilege" in str(error)
        await owner.execute(f"GRANT {privilege} TO {service_role.role}")
    assert unused == []
    await AuditSealer(owner).seal()
    report = await AuditChain(owner).verify(NOW)
    assert report.rows > 0
    assert report.problems == ()


FORBIDDEN = (
    "UPDATE gateway.audit_log SET output_tokens = 0",
    "DELETE FROM gateway.audit_log",
    "TRUNCATE gateway.audit_log",
    "DELETE FROM gateway.audit_log_default",
    "INSERT INTO gateway.audit_log_default SELECT * FROM gateway.audit_log",
    "INSERT INTO gateway.audit_log SELECT * FROM gateway.audit_log",
    "ALTER TABLE gateway.audit_log DISABLE TRIGGER ALL",
    "SET session_replication_role = replica",
    "UPDATE gateway.audit_chain SET digest = ''",
    "DELETE FROM gateway.audit_chain",
    "INSERT INTO gateway.audit_chain SELECT * FROM gateway.audit_chain",
    "SELECT gateway.seal_audit_log(9, '9', 9, '0')",
    "SELECT setval('gateway.audit_log_seq', 1)",
    "SELECT gateway.drop_audit_partitions('infinity')",
    "SELECT gateway.prune_audit_chain('infinity')",
    "SELECT gateway.ensure_audit_partitions(30)",
    "INSERT INTO gateway.tenants (name) VALUES ('mine')",
    "UPDATE gateway.tenants SET status = 'active'",
    "UPDATE gateway.tenant_limits SET rpm = 1",
    "UPDATE gateway.api_keys SET scopes = '{debug}'",
    "UPDATE gateway.api_keys SET expires_at = NULL",
    "INSERT INTO gateway.key_limits SELECT 1",
    "INSERT INTO gateway.revocations (key_id) VALUES (1)",
    "DELETE FROM gateway.budget_usage",
    "SELECT request FROM gateway.prompt_log",
    "UPDATE gateway.prompt_log SET request = ''",
    "SELECT * FROM gateway.alembic_version",
    "CREATE TABLE mine (n int)",
    "CREATE TABLE gateway.mine (n int)",
    "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "CREATE DATABASE mine",
    "CREATE EXTENSION dblink",
    "DROP TABLE gateway.audit_log",
    "SELECT * FROM pg_authid",
    "SELECT pg_read_file('PG_VERSION')",
    "COPY gateway.tenants TO PROGRAM 'true'",
    "ALTER SYSTEM SET log_statement = 'none'",
    "SET ROLE {owner}",
    "ALTER ROLE {role} CREATEROLE",
)


async def test_the_role_has_no_other_privilege(
    owner: Database, service_database_url: str, service_role: Login, key_id: int
) -> None:
    await owner.execute("CREATE TABLE IF NOT EXISTS gateway.alembic_version (version_num text)")
    login = str(await owner.fetchval("SELECT user"))
    connection = await asyncpg.connect(service_database_url)
    executed = []
    for statement in FORBIDDEN:
        try:
            await connection.execute(statement.replace("{owner}", login).replace("{role}", service_role.role))
            executed.append(statement)
        except asyncpg.InsufficientPrivilegeError:
            pass
    await connection.close()
    assert executed == []
