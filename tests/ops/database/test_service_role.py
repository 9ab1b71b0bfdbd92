"""The role of authz and meter as `migrate` provides it. The tests of their stores log in as such a role, too."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from pydantic import SecretStr

from gateway.errors import StoreUnavailable
from gateway.ledger.store import Ledger
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.database.migrate import MigrationFailed, upgrade
from ops.database.service_role import ServiceRoleRefused, statements
from tests.conftest import Login
from tests.ops.database.service_login import execute, log_in, serve_request, value
from tests.row_builders import entry

PASSWORD = "pass word: $1 'quoted' \\"
NOW = datetime.now(UTC)


def settings_of(url: str, role: str, password: str | None = None) -> Settings:
    return Settings.model_validate(
        {"database_url": url, "database_service_role": role, "database_service_password": password}
    )


@pytest.fixture
async def name(empty_database_url: str) -> AsyncIterator[str]:
    """The name of a role that does not exist before or after the test. It needs quotes."""
    name = f'Röle "{secrets.token_hex(4)}"'
    quoted = '"' + name.replace('"', '""') + '"'
    yield name
    if await value(empty_database_url, "SELECT true FROM pg_roles WHERE rolname = $1", name):
        await execute(empty_database_url, f"DROP OWNED BY {quoted}", f"DROP ROLE {quoted}")


async def test_migrate_creates_the_role_and_sets_its_password(empty_database_url: str, name: str) -> None:
    await upgrade(settings_of(empty_database_url, name, "first"))
    await log_in(empty_database_url, name, "first")
    await upgrade(settings_of(empty_database_url, name, PASSWORD))
    await log_in(empty_database_url, name, PASSWORD)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await log_in(empty_database_url, name, "first")
    # Without a password the role is unchanged.
    await upgrade(settings_of(empty_database_url, name))
    await log_in(empty_database_url, name, PASSWORD)


async def test_the_role_writes_to_later_partitions_only_through_the_parent_table(
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


async def test_other_grants_in_our_schema_are_revoked(empty_database_url: str, service_role: Login) -> None:
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


async def test_the_create_privilege_of_public_is_revoked(empty_database_url: str, service_role: Login) -> None:
    await execute(empty_database_url, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    await upgrade(settings_of(empty_database_url, service_role.role))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(service_role.url(empty_database_url), "CREATE TABLE public.mine (n int)")


async def test_a_missing_role_is_refused_and_nothing_changes(empty_database_url: str) -> None:
    with pytest.raises(ServiceRoleRefused, match=r"there is no role missing_role.*DATABASE_SERVICE_PASSWORD"):
        await upgrade(settings_of(empty_database_url, "missing_role"))
    assert not await value(empty_database_url, "SELECT to_regnamespace('gateway') IS NOT NULL")


@pytest.mark.parametrize(
    ("grant", "revoke", "sentence"),
    [
        ("ALTER ROLE {role} SUPERUSER", "ALTER ROLE {role} NOSUPERUSER", "is a superuser"),
        ("ALTER ROLE {role} CREATEROLE", "ALTER ROLE {role} NOCREATEROLE", "may create roles"),
        ("ALTER ROLE {role} CREATEDB", "ALTER ROLE {role} NOCREATEDB", "may create databases"),
        ("GRANT {owner} TO {role}", "REVOKE {owner} FROM {role}", "has the privileges of the tables' owner"),
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
async def test_a_role_with_excess_privileges_is_refused_and_keeps_its_password(
    empty_database_url: str, service_role: Login, grant: str, revoke: str, sentence: str
) -> None:
    names = {"role": service_role.role, "owner": await value(empty_database_url, "SELECT user")}
    await execute(empty_database_url, grant.format(**names))
    try:
        with pytest.raises(ServiceRoleRefused, match=f"{service_role.role} {sentence}"):
            await upgrade(settings_of(empty_database_url, service_role.role, "another"))
    finally:
        await execute(empty_database_url, revoke.format(**names))
    await log_in(empty_database_url, service_role.role, service_role.password)
    assert not await value(empty_database_url, "SELECT to_regnamespace('gateway') IS NOT NULL")


async def test_privileges_of_public_count_as_excess(empty_database_url: str, service_role: Login) -> None:
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
    """A database with an owner that is not a superuser: its URL, and a function that executes as the superuser."""
    role = f"owner_{secrets.token_hex(4)}"
    await execute(postgres_url, f"CREATE ROLE {role} LOGIN PASSWORD 'owner'", f"CREATE DATABASE {role} OWNER {role}")
    yield (
        Login(role, "owner").url(urlunsplit(urlsplit(postgres_url)._replace(path=f"/{role}"))),
        lambda statement: execute(postgres_url, statement.format(owner=role)),
    )
    await execute(postgres_url, f"DROP DATABASE {role} WITH (FORCE)", f"DROP ROLE {role}")


async def test_migrate_needs_no_superuser(
    name: str, managed: tuple[str, Callable[[str], Any]], service_role: Login
) -> None:
    url, administrator = managed
    with pytest.raises(MigrationFailed, match="permission denied to create role") as refused:
        await upgrade(settings_of(url, name, PASSWORD))
    assert PASSWORD not in str(refused.getrepr(style="long"))
    await upgrade(settings_of(url, service_role.role))
    service = Database(Settings(database_url=SecretStr(service_role.url(url))))
    await serve_request(service, 1, NOW, "a")
    await service.close()
    await administrator("ALTER ROLE {owner} CREATEROLE")
    for password in ("first", PASSWORD):
        await upgrade(settings_of(url, name, password))
    await log_in(url, name, PASSWORD)


def test_every_statement_quotes_the_role_as_an_identifier() -> None:
    assert all(statement.endswith(' "a""b; c"') for statement in statements('a"b; c'))
