"""The embedded PostgreSQL: its cluster, its process, and the gateway's roles and database."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from ops.database.role_password import with_password
from ops.embedded import privileges
from ops.embedded.child import Child, User
from ops.embedded.errors import StackError
from ops.embedded.state import StateDirectory
from ops.host.binaries import POSTGRES_BIN

HOST = "127.0.0.1"
ROLE = DATABASE = "gateway"
SERVICE_ROLE = "gateway_service"
SUPERUSER = "postgres"
SUPERUSER_SECRET = "postgres-superuser"  # noqa: S105 (a file's name)
_TIMEOUT_S = 5.0
_INITDB_TIMEOUT_S = 120.0

# A magic link (proc(5)) instead of the path: following it needs no access to the parent directories, which belong to
# root alone when root runs the stack.
_DATA = "/proc/self/cwd"
# One pool per process of the stack, with a reserve for operators.
_CONNECTIONS_MAX = 300


def create_cluster(tree: Path, state: StateDirectory, user: User | None) -> None:
    """Creates the cluster on the first start, with SCRAM for every login and a random superuser password.

    It is renamed to its final path only when complete. Raises StackError with the output of initdb.
    """
    if state.postgres.exists():
        return
    partial = state.postgres.with_name("postgres.partial")
    shutil.rmtree(partial, ignore_errors=True)
    state.make_private(partial)
    if user is not None:
        os.chown(partial, *user)
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "--no-instructions"]
    # PostgreSQL's built-in C.UTF-8 depends on no locale of this machine.
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    program = str(tree / POSTGRES_BIN / "initdb")
    argv = [program, "-D", _DATA, "-U", SUPERUSER, "--pwfile=/dev/stdin", *options, *locale]
    password = _one_time_pipe(state.secret(SUPERUSER_SECRET), user)
    try:
        initdb = privileges.run_as(user, argv, partial, _INITDB_TIMEOUT_S, stdin=password)
    finally:
        os.close(password)
    if initdb.returncode != 0:
        raise StackError(f"PostgreSQL's initdb failed: {initdb.stderr.strip() or initdb.stdout.strip()}")
    partial.rename(state.postgres)


def _one_time_pipe(text: str, user: User | None) -> int:
    """Returns the reading end of a pipe that contains `text` and that `user` may open as /dev/fd."""
    reader, writer = os.pipe()
    if user is not None:
        os.fchown(reader, *user)
    os.write(writer, text.encode() + b"\n")
    os.close(writer)
    return reader


def child(tree: Path, state: StateDirectory, user: User | None, port: int, *, durable: bool = True) -> Child:
    """Describes the server, on loopback TCP.

    Without `durable`, for tests, it is faster but a power failure may destroy the cluster.
    """
    settings = {
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": str(_CONNECTIONS_MAX),
        "fsync": "on" if durable else "off",
    }
    password = state.secret(SUPERUSER_SECRET)

    async def ready() -> bool:
        try:
            connection = await _connect(SUPERUSER, password, port, SUPERUSER)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close(timeout=_TIMEOUT_S)
        return True

    return Child(
        name="postgres",
        argv=(
            str(tree / POSTGRES_BIN / "postgres"),
            "-D",
            _DATA,
            *(f"--{name}={value}" for name, value in settings.items()),
        ),
        env=privileges.environment(),
        cwd=state.postgres,
        log=state.log_file("postgres"),
        ready=ready,
        user=user,
        # After a crash the backends of the previous server may hold its shared memory for a moment.
        start_attempts=8,
        # SIGINT is the fast shutdown; SIGTERM would wait until clients disconnect.
        stop_signal=signal.SIGINT,
        stop_grace_s=20.0,
    )


def remove_stale_lock_file(state: StateDirectory) -> None:
    """Removes the lock file of a server that no longer runs.

    PostgreSQL only checks that the process id exists. After a crash that process may be a zombie that was never reaped,
    or another program. The lock of the state directory rules out a second stack.
    """
    lock = state.postgres / "postmaster.pid"
    try:
        pid = int(lock.read_text().partition("\n")[0])
        # The fields of proc(5): pid (name) state ...
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except ValueError:
        return
    except (FileNotFoundError, ProcessLookupError):
        name, rest = "", ""
    if name != "postgres" or rest.split()[0] == "Z":
        lock.unlink(missing_ok=True)


async def provision(state: StateDirectory, port: int, passwords: Mapping[str, str]) -> None:
    """Creates the roles with these passwords and no other attributes, and the database that ROLE owns. Idempotent."""
    connection = await _connect(SUPERUSER, state.secret(SUPERUSER_SECRET), port, SUPERUSER)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            for role, password in passwords.items():
                exists = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
                await connection.execute(with_password(role, password, exists=bool(exists)))
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
    finally:
        await connection.close(timeout=_TIMEOUT_S)


async def _connect(user: str, password: str, port: int, database: str) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=HOST, port=port, user=user, password=password, database=database, timeout=_TIMEOUT_S, ssl=False
    )
