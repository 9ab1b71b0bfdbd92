"""The role that authz and meter log in as, on a real PostgreSQL. The tests of their stores run as such a role, too."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from authz.keys.repository import KeyRepository
from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from gateway.values import Limits
from meter.prompt_log.store import PromptLog, PromptRecord
from ops.database.audit_chain import AuditChain
from ops.database.migrate import MigrationFailed, upgrade
from ops.database.service_role import ServiceRoleRefused, statements
from ops.database.tenants import TenantRepository
from tests.conftest import Login
from tests.row_builders import HASH, add_key, entry

PASSWORD = "pass word: $1 'quoted' \\"
NOW = datetime.now(UTC)


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


async def logs_in(url: str, role: str, password: str) -> None:
    parts = urlsplit(url)
    connection = await asyncpg.connect(
        host=parts.hostname, port=parts.port, database=parts.path[1:], user=role, password=password
    )
    await connection.close()


def settings_of(url: str, role: str, password: str | None = None) -> Settings:
    return Settings.model_validate(
        {"database_url": url, "database_service_role": role, "database_service_password": password}
    )


@pytest.fixture
async def name(empty_database_url: str) -> AsyncIterator[str]:
    """The name of a role that is not there before or afterwards; it needs quotes."""
    name = f'Röle "{secrets.token_hex(4)}"'
    quoted = '"' + name.replace('"', '""') + '"'
    yield name
    if await value(empty_database_url, "SELECT true FROM pg_roles WHERE rolname = $1", name):
        await execute(empty_database_url, f"DROP OWNED BY {quoted}", f"DROP ROLE {quoted}")


async def way_of_a_request(database: Database, key_id: int, at: datetime, request_id: str) -> None:
    """Everything that authz and meter ask of PostgreSQL."""
    directory = KeyRepository(database, Limits(1, 1, 1))
    assert await directory.find_key("nz_000000000") is None
    await directory.touch([key_id])
    await directory.store_hash(key_id, HASH, HASH)
    await directory.revoked_since(at)
    ledger = Ledger(database)
    await ledger.append([entry(request_id, at, key_id=key_id)])
    assert await ledger.recorded([entry(request_id, at)]) == {request_id}
    await ledger.usage_of(1, at, [request_id])
    await PromptLog(database).append([PromptRecord(request_id, at, 1, key_id, "m", "why?", "because", at)])


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


_RIGHTS = """
SELECT format('%s ON gateway.%I', privilege_type, relname) AS granted
FROM pg_class, aclexplode(relacl) WHERE relnamespace = 'gateway'::regnamespace AND grantee = $1::regrole
UNION ALL
SELECT format('%s (%I) ON gateway.%I', privilege_type, attname, relname)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
WHERE relnamespace = 'gateway'::regnamespace AND grantee = $1::regrole
"""


async def test_the_way_of_a_request_needs_every_single_right_and_no_other(
    owner: Database, service: Database, service_role: Login, key_id: int
) -> None:
    await way_of_a_request(service, key_id, NOW, "with all of them")
    rights = [row["granted"] for row in await owner.fetch(_RIGHTS, service_role.role)]
    assert len(rights) > 30
    idle = []
    for number, right in enumerate(rights):
        await owner.execute(f"REVOKE {right} FROM {service_role.role}")
        try:
            await way_of_a_request(service, key_id, NOW, f"without {number}")
            idle.append(right)
        except StoreUnavailable as error:
            assert "InsufficientPrivilege" in str(error)
        await owner.execute(f"GRANT {right} TO {service_role.role}")
    assert idle == []
    assert (await AuditChain(owner).verify(NOW)).problems == ()


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


async def test_it_may_do_nothing_else(
    owner: Database, service_database_url: str, service_role: Login, key_id: int
) -> None:
    await owner.execute("CREATE TABLE IF NOT EXISTS gateway.alembic_version (version_num text)")
    login = str(await owner.fetchval("SELECT user"))
    connection = await asyncpg.connect(service_database_url)
    done = []
    for statement in FORBIDDEN:
        try:
            await connection.execute(statement.replace("{owner}", login).replace("{role}", service_role.role))
            done.append(statement)
        except asyncpg.InsufficientPrivilegeError:
            pass
    await connection.close()
    assert done == []


async def test_migrate_makes_the_role_and_sets_its_password(empty_database_url: str, name: str) -> None:
    await upgrade(settings_of(empty_database_url, name, "first"))
    await logs_in(empty_database_url, name, "first")
    await upgrade(settings_of(empty_database_url, name, PASSWORD))
    await logs_in(empty_database_url, name, PASSWORD)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await logs_in(empty_database_url, name, "first")
    # Without one the role stays as it is.
    await upgrade(settings_of(empty_database_url, name))
    await logs_in(empty_database_url, name, PASSWORD)


async def test_months_that_are_made_later_take_its_rows_and_only_through_the_log(
    empty_database_url: str, service_role: Login
) -> None:
    await upgrade(settings_of(empty_database_url, service_role.role))
    service = Database(Settings(database_url=SecretStr(service_role.url(empty_database_url))))
    later = NOW + timedelta(days=150)
    await Ledger(service).append([entry("early", later)])
    await execute(empty_database_url, "SELECT gateway.ensure_audit_partitions(6)")
    await Ledger(service).append([entry("in time", later)])
    assert await service.fetchval("SELECT count(*) FROM gateway.audit_log") == 2
    partition = await value(empty_database_url, "SELECT max(tableoid::regclass::text) FROM gateway.audit_log")
    assert partition == f"gateway.audit_log_{later:%Y_%m}"
    with pytest.raises(StoreUnavailable, match="InsufficientPrivilege"):
        await service.execute(f"SELECT FROM {partition}")
    await service.close()


async def test_what_somebody_else_granted_it_in_our_schema_is_taken_back(
    empty_database_url: str, service_role: Login
) -> None:
    settings = settings_of(empty_database_url, service_role.role)
    await upgrade(settings)
    await execute(
        empty_database_url,
        f"GRANT ALL ON SCHEMA gateway TO {service_role.role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA gateway TO {service_role.role}",
        f"GRANT UPDATE (output_tokens) ON gateway.audit_log TO {service_role.role}",
    )
    await upgrade(settings)
    for statement in ("UPDATE gateway.audit_log SET output_tokens = 0", "CREATE TABLE gateway.mine (n int)"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(service_role.url(empty_database_url), statement)


async def test_a_schema_that_was_open_to_everybody_is_closed(empty_database_url: str, service_role: Login) -> None:
    await execute(empty_database_url, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    await upgrade(settings_of(empty_database_url, service_role.role))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(service_role.url(empty_database_url), "CREATE TABLE public.mine (n int)")


async def test_a_role_that_is_not_there_is_one_sentence_and_changes_nothing(empty_database_url: str) -> None:
    with pytest.raises(ServiceRoleRefused, match=r"there is no role nobody_here.*DATABASE_SERVICE_PASSWORD"):
        await upgrade(settings_of(empty_database_url, "nobody_here"))
    assert not await value(empty_database_url, "SELECT to_regnamespace('gateway') IS NOT NULL")


@pytest.mark.parametrize(
    ("give", "take", "sentence"),
    [
        ("ALTER ROLE {role} SUPERUSER", "ALTER ROLE {role} NOSUPERUSER", "is a superuser"),
        ("ALTER ROLE {role} CREATEROLE", "ALTER ROLE {role} NOCREATEROLE", "may create roles"),
        ("ALTER ROLE {role} CREATEDB", "ALTER ROLE {role} NOCREATEDB", "may create databases"),
        ("GRANT {owner} TO {role}", "REVOKE {owner} FROM {role}", "has the rights of the tables' owner"),
        (
            "GRANT pg_execute_server_program TO {role}",
            "REVOKE pg_execute_server_program FROM {role}",
            "may read or write files of the server or run programs there",
        ),
        ("GRANT pg_write_all_data TO {role}", "REVOKE pg_write_all_data FROM {role}", "may change the audit log"),
        (
            "GRANT CREATE ON SCHEMA public TO {role}",
            "REVOKE CREATE ON SCHEMA public FROM {role}",
            "may create objects in the schema public",
        ),
    ],
)
async def test_a_role_that_may_do_more_elsewhere_is_refused_and_keeps_its_password(
    empty_database_url: str, service_role: Login, give: str, take: str, sentence: str
) -> None:
    names = {"role": service_role.role, "owner": await value(empty_database_url, "SELECT user")}
    await execute(empty_database_url, give.format(**names))
    try:
        with pytest.raises(ServiceRoleRefused, match=f"{service_role.role} {sentence}"):
            await upgrade(settings_of(empty_database_url, service_role.role, "another"))
    finally:
        await execute(empty_database_url, take.format(**names))
    await logs_in(empty_database_url, service_role.role, service_role.password)
    assert not await value(empty_database_url, "SELECT to_regnamespace('gateway') IS NOT NULL")


async def test_what_everybody_may_do_counts_too(empty_database_url: str, service_role: Login) -> None:
    settings = settings_of(empty_database_url, service_role.role)
    await upgrade(settings)
    await execute(empty_database_url, "GRANT UPDATE (output_tokens) ON gateway.audit_log TO PUBLIC")
    with pytest.raises(ServiceRoleRefused, match="may change the audit log"):
        await upgrade(settings)


async def test_the_login_that_migrates_cannot_be_the_service_role(empty_database_url: str) -> None:
    login = str(await value(empty_database_url, "SELECT user"))
    with pytest.raises(ServiceRoleRefused, match="is a superuser"):
        await upgrade(settings_of(empty_database_url, login, "another"))


@pytest.fixture
async def managed(postgres_url: str) -> AsyncIterator[tuple[str, Callable[[str], Any]]]:
    """A database whose owner is no superuser: its URL, and a function that executes as the server's administrator."""
    role = f"owner_{secrets.token_hex(4)}"
    await execute(postgres_url, f"CREATE ROLE {role} LOGIN PASSWORD 'owner'", f"CREATE DATABASE {role} OWNER {role}")
    yield (
        Login(role, "owner").url(urlunsplit(urlsplit(postgres_url)._replace(path=f"/{role}"))),
        lambda statement: execute(postgres_url, statement.format(owner=role)),
    )
    await execute(postgres_url, f"DROP DATABASE {role} WITH (FORCE)", f"DROP ROLE {role}")


async def test_nothing_of_it_needs_a_superuser(
    name: str, managed: tuple[str, Callable[[str], Any]], service_role: Login
) -> None:
    url, administrator = managed
    with pytest.raises(MigrationFailed, match="permission denied to create role") as refused:
        await upgrade(settings_of(url, name, PASSWORD))
    assert PASSWORD not in str(refused.getrepr(style="long"))
    await upgrade(settings_of(url, service_role.role))
    service = Database(Settings(database_url=SecretStr(service_role.url(url))))
    await way_of_a_request(service, 1, NOW, "a")
    await service.close()
    await administrator("ALTER ROLE {owner} CREATEROLE")
    for password in ("first", PASSWORD):
        await upgrade(settings_of(url, name, password))
    await logs_in(url, name, PASSWORD)


def test_every_statement_names_the_role_as_an_identifier() -> None:
    assert all(statement.endswith(' "a""b; c"') for statement in statements('a"b; c'))
