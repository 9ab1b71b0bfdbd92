"""The connection to PostgreSQL: a lazy pool with deadlines, and the one place that translates driver errors."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, TypeAlias

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from gateway.errors import Conflict, DataRefused, StoreUnavailable
from gateway.metrics.stores import POSTGRES_FAILURES, POSTGRES_SECONDS
from gateway.settings import Settings

log = structlog.get_logger()

Isolation: TypeAlias = Literal["read_committed", "repeatable_read"]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
PooledConnection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

_SET_LOCAL = "SELECT set_config(name, value, true) FROM unnest($1::text[], $2::text[]) AS local (name, value)"
_SESSION = {"application_name": "neuronetz-gateway", "timezone": "UTC"}


class Database:
    """A pool of connections that opens none before the first use and reconnects after an outage.

    Every step (connecting, waiting for a free connection, each command) has a deadline of `database_timeout_s`;
    `command_timeout_s` replaces that of the commands. With `report` the pool connects to DATABASE_REPORT_URL.
    Methods raise StoreUnavailable when PostgreSQL cannot answer, DataRefused when it cannot store the data, and
    Conflict when a constraint rejects the change.

    `local_settings` are run-time parameters of PostgreSQL that every transaction which may write sets for itself. They
    are no parameters of the connection, because a pooler in front of PostgreSQL would refuse or share them.
    """

    def __init__(
        self,
        settings: Settings,
        command_timeout_s: float | None = None,
        *,
        report: bool = False,
        local_settings: Mapping[str, str] | None = None,
    ) -> None:
        self._local_settings = local_settings or {}
        self.timeout_s = settings.database_timeout_s
        self._command_timeout_s = command_timeout_s or settings.database_timeout_s
        self._dsn = settings.database_url
        self._direct_dsn = settings.database_listen_url or settings.database_url
        if report and settings.database_report_url:
            self._dsn = settings.database_report_url
        self._statement_cache_size = settings.database_statement_cache_size
        self._size_max = settings.database_pool_size + settings.database_pool_overflow
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._direct: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[PooledConnection]:
        """A connection of the pool. Errors inside the block are translated too."""
        started_s = time.perf_counter()
        with translated_errors():
            pool = self._pool or await self._open()
            async with pool.acquire(timeout=self.timeout_s) as connection:
                try:
                    yield connection
                except (asyncio.CancelledError, TimeoutError):
                    # A cleanup would need another answer from a server that may be frozen.
                    connection.terminate()
                    raise
        POSTGRES_SECONDS.observe(time.perf_counter() - started_s)

    @asynccontextmanager
    async def transaction(
        self, *, isolation: Isolation = "read_committed", readonly: bool = False
    ) -> AsyncIterator[PooledConnection]:
        """A connection in a transaction, committed when the block ends and rolled back when it raises."""
        async with self.connection() as connection:
            transaction = connection.transaction(isolation=isolation, readonly=readonly)
            await transaction.start()
            try:
                if self._local_settings and not readonly:
                    await connection.execute(_SET_LOCAL, [*self._local_settings], [*self._local_settings.values()])
                yield connection
            except (asyncio.CancelledError, TimeoutError):
                raise  # The connection is terminated, which rolls the transaction back.
            except BaseException:
                await transaction.rollback()
                raise
            await transaction.commit()

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """All rows of one statement."""
        async with self.connection() as connection:
            return await connection.fetch(query, *args)

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """The first row of one statement, None without one."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *args)

    async def fetchval(self, query: str, *args: object) -> Any:
        """The first column of the first row, None without one."""
        async with self.connection() as connection:
            return await connection.fetchval(query, *args)

    async def execute(self, query: str, *args: object) -> None:
        """One statement without a result."""
        async with self.connection() as connection:
            await connection.execute(query, *args)

    async def connect(self) -> Connection:
        """A connection to PostgreSQL itself, outside the pool, to LISTEN or to migrate on; the caller closes it."""
        with translated_errors():
            connection = await self._connect()
        self._direct.add(connection)
        return connection

    async def leave_when_refused(self) -> None:
        """Closes all connections if PostgreSQL accepts no new one, because it waits for its clients to end.

        A server that received SIGTERM ("smart shutdown") answers new connections with the error 57P03 and goes on to
        serve the ones it has, without informing them. It would never end while the services keep their connections.
        Does nothing without connections, or while PostgreSQL cannot be reached.
        """
        if self._pool is None and not self._direct:
            return
        try:
            with translated_errors():
                await (await self._connect()).close(timeout=self.timeout_s)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, asyncpg.CannotConnectNowError):
                return
            log.warning("postgresql_refuses_connections", reason="it shuts down or starts")
            for connection in self._direct:
                connection.terminate()
            self._direct.clear()
            await self.close()

    async def ping(self) -> None:
        """Returns when PostgreSQL has answered; raises StoreUnavailable otherwise."""
        await self.fetchval("SELECT 1")

    async def close(self) -> None:
        """Closes the pool. Running commands have `timeout_s` to finish; then their connections are terminated."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), self.timeout_s)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()

    async def _connect(self) -> Connection:
        return await asyncpg.connect(
            self._direct_dsn.get_secret_value(),
            timeout=self.timeout_s,
            command_timeout=self._command_timeout_s,
            server_settings=_SESSION,
        )

    async def _open(self) -> asyncpg.Pool[asyncpg.Record]:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._dsn.get_secret_value(),
                    min_size=0,
                    max_size=self._size_max,
                    timeout=self.timeout_s,
                    command_timeout=self._command_timeout_s,
                    server_settings=_SESSION,
                    statement_cache_size=self._statement_cache_size,
                )
            return self._pool


def storable(text: str) -> str:
    """`text` as PostgreSQL takes it: U+FFFD for NUL, `?` for a lone surrogate."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Translates driver errors into Conflict, DataRefused or StoreUnavailable. No text contains the DSN or a value."""
    try:
        yield
    except asyncpg.IntegrityConstraintViolationError as error:
        raise Conflict(f"PostgreSQL rejects the change ({error.constraint_name or type(error).__name__})") from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if _is_data_error(error):
            raise DataRefused(f"PostgreSQL rejects the data ({type(error).__name__})") from error
        POSTGRES_FAILURES.inc()
        raise StoreUnavailable(_sentence(error)) from error


def _is_data_error(error: Exception) -> bool:
    """Whether a retry would fail too: a value out of range, a row too large, a trigger that raises.

    A value that the driver cannot encode is an InterfaceError of a class that it does not export.
    """
    if isinstance(error, asyncpg.InterfaceError):
        return isinstance(error, ValueError) and not isinstance(error, asyncpg.ClientConfigurationError)
    return isinstance(error, asyncpg.DataError | asyncpg.ProgramLimitExceededError | asyncpg.RaiseError)


def _sentence(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "PostgreSQL did not answer in time"
        case asyncpg.ClientConfigurationError():
            return "DATABASE_URL is not a PostgreSQL address"
        case asyncpg.InvalidAuthorizationSpecificationError():
            return "PostgreSQL rejected the login of DATABASE_URL"
        case asyncpg.InvalidCatalogNameError():
            return "the database that DATABASE_URL names does not exist"
        case asyncpg.InsufficientPrivilegeError():
            return "PostgreSQL does not let the login of DATABASE_URL do this (InsufficientPrivilegeError)"
        case asyncpg.UndefinedTableError() | asyncpg.InvalidSchemaNameError() | asyncpg.UndefinedFunctionError():
            return "the database has no gateway schema yet: run `neuronetz-gateway migrate`"
        case OSError():
            return "PostgreSQL cannot be reached at the address of DATABASE_URL"
        case _:
            return f"PostgreSQL failed ({type(error).__name__})"
