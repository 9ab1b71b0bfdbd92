"""The connections to Redis: one factory, and the one place that translates their failures into StoreUnavailable.

A client is one of redis-py, for commands that are rare, block or subscribe, and has `calls` for the scripts of the
request path. Both use the same address and login.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias, cast

from pydantic import SecretStr
from redis import asyncio as driver
from redis import exceptions
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ResponseError

from gateway.errors import SettingsError, StoreUnavailable
from gateway.metrics.stores import REDIS_FAILURES
from gateway.settings import Settings, sentinel_url
from gateway.settings.sentinel_url import SentinelUrl
from gateway.stores.pipeline.call import Calls, ReplyError
from gateway.stores.pipeline.connection import Address, Login
from gateway.stores.pipeline.link import Resolve
from gateway.stores.pipeline.servers import Cluster, OneServer

__all__ = ["Redis", "ResponseError", "connect", "guarded", "subscription", "unavailable"]

FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, ReplyError, OSError, TimeoutError)
"""The errors of both clients."""

CONNECTIONS_MAX = 32
HEALTH_CHECK_INTERVAL_S = 15
RETRIES = 1
# The cluster client counts a new lookup of the nodes as a retry too.
CLUSTER_RETRIES = 3
# Per node. Beyond it a command fails at once, because the cluster client does not wait for a free connection.
CLUSTER_CONNECTIONS_MAX = 256


def connect(settings: Settings, *, block_s: float = 0.0) -> Redis:
    """A client of REDIS_URL that replies in bytes. It connects at its first command. Needs a running event loop.

    With REDIS_SHARDS > 1 the URL is a node of a Redis Cluster; with a URL of Sentinels the client connects to the
    master that they report. `redis_timeout_s` bounds connecting, reading, and waiting for one of the CONNECTIONS_MAX
    connections. A client for blocking reads has `block_s`, the longest time that a read blocks, on top of the bound for
    reading. When a connection breaks, the client may send a command again that was already executed, so commands
    must be idempotent.
    """
    url = settings.redis_url.get_secret_value()
    timeout_s = settings.redis_timeout_s
    options: dict[str, Any] = {
        "socket_connect_timeout": timeout_s,
        "socket_timeout": timeout_s + block_s,
        "health_check_interval": HEALTH_CHECK_INTERVAL_S,
        "protocol": 2,
    }
    if settings.redis_shards > 1:
        return _cluster_client(url, timeout_s, options)
    options["retry"] = Retry(NoBackoff(), RETRIES, (exceptions.ConnectionError,))
    options["max_connections"] = CONNECTIONS_MAX
    if sentinel_url.is_sentinel_url(url):
        pool = _master_pool(sentinel_url.parse(url), timeout_s, options)
        return _client(pool, pool.address, timeout_s)
    return _client(driver.BlockingConnectionPool.from_url(url, timeout=timeout_s, **options), None, timeout_s)


def _client(pool: driver.ConnectionPool, resolve: Resolve | None, timeout_s: float) -> ServerClient:
    address, login = _address_and_login(pool)

    async def fixed() -> Address:
        return address

    # redis-py annotates the base class.
    client = cast(ServerClient, ServerClient.from_pool(pool))
    client.calls = OneServer(resolve or fixed, login, timeout_s)
    return client


def _cluster_client(url: str, timeout_s: float, options: dict[str, Any]) -> ClusterClient:
    address, login = _address_and_login(driver.ConnectionPool.from_url(url, **options))
    if isinstance(address, str):
        raise SettingsError("REDIS_URL: the nodes of a cluster have no unix socket")
    # No full lookup after several MOVED: it closes connections in use, and each MOVED corrects its slot.
    options |= {"reinitialize_steps": 0, "max_connections": CLUSTER_CONNECTIONS_MAX}
    retry = Retry(NoBackoff(), CLUSTER_RETRIES)
    client = cast(ClusterClient, ClusterClient.from_url(url, retry=retry, **options))
    client.calls = Cluster([address], key_slot, login, timeout_s)
    return client


def _address_and_login(pool: driver.ConnectionPool) -> tuple[Address, Login]:
    """Those of the connections that `pool` would make. The address means nothing in a pool of Sentinels."""
    made: Any = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped.
    address = made.path if isinstance(made, UnixDomainSocketConnection) else (made.host, made.port)
    tls = made.ssl_context.get() if isinstance(made, SSLConnection) else None
    password = None if made.password is None else SecretStr(made.password)
    return address, Login(made.username, password, int(made.db), tls)


class ServerClient(driver.Redis):
    """The client of one server, or of the master that Sentinels report."""

    calls: Calls

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes all connections."""
        await self.calls.aclose()
        await super().aclose(close_connection_pool)


class _MasterPool(SentinelConnectionPool, driver.BlockingConnectionPool):
    """Connections to the master that Sentinels watch. Each new connection queries the Sentinels for it.

    redis-py's own Sentinel pool fails when all connections are in use; this one waits, like BlockingConnectionPool.
    """

    async def address(self) -> Address:
        """The address of the master. Raises OSError when no Sentinel reports one."""
        try:
            host, port = await self.get_master_address()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped.
        except exceptions.RedisError as error:
            raise ConnectionError(str(error)) from error
        return host, port

    async def aclose(self) -> None:
        """Closes the connections to the master and to the Sentinels."""
        await super().aclose()
        await self.sentinel_manager.aclose()


def _master_pool(address: SentinelUrl, timeout_s: float, options: dict[str, Any]) -> _MasterPool:
    # The client uses the first Sentinel that answers, and starts with that one from then on. All Sentinels together
    # have less than one deadline, so that unreachable ones do not consume it.
    each_s = timeout_s / (len(address.sentinels) + 1)
    sentinel_options = {
        "socket_connect_timeout": each_s,
        "socket_timeout": each_s,
        "password": address.sentinel_password,
        "ssl": address.tls,
        "retry": Retry(NoBackoff(), 0),
    }
    login = {"username": address.username, "password": address.password, "db": address.db, "ssl": address.tls}
    # redis-py leaves both constructors untyped.
    sentinel: Any = Sentinel(address.sentinels, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
    return _MasterPool(address.service, sentinel, timeout=timeout_s, **login, **options)  # type: ignore[no-untyped-call]


class ClusterClient(driver.RedisCluster):
    """The client of a cluster, made safe for concurrent commands."""

    calls: Calls

    async def aclose(self) -> None:
        """Closes all connections."""
        await self.calls.aclose()
        await super().aclose()

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """The reply of a command."""
        # Until it knows the nodes, redis-py would send a command to any of them.
        await self.initialize()
        try:
            return await super().execute_command(*args, **kwargs)
        except AttributeError as error:
            # On CLUSTERDOWN redis-py closes every connection, including those that another command is opening.
            raise exceptions.ConnectionError("the connection was closed while it was in use") from error


Redis: TypeAlias = ServerClient | ClusterClient


@asynccontextmanager
async def guarded(timeout_s: float) -> AsyncIterator[None]:
    """Turns every failure of Redis within the block into StoreUnavailable, and ends the block after `timeout_s`.

    Errors of the server (LOADING, READONLY, OOM, CLUSTERDOWN, a broken script) are included, because none of them is a
    statement about the caller.
    """
    with _cancellation_kept():
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except FAILURES as error:
            raise unavailable(error) from error


@asynccontextmanager
async def subscription(
    redis: Redis, channel: str, timeout_s: float
) -> AsyncIterator[Callable[[float], Awaitable[bytes | None]]]:
    """Subscribes to a channel and yields a function that waits for the next message, at most the given seconds.

    Every message that is published from then on arrives, unless its connection breaks. `timeout_s` bounds what does not
    wait for a message. Both raise StoreUnavailable.
    """
    async with guarded(timeout_s):
        # The cluster client subscribes only when it knows the nodes.
        await redis.initialize()
    async with redis.pubsub() as listener:

        async def next_message(wait_s: float) -> bytes | None:
            async with guarded(wait_s + timeout_s):
                message = await listener.get_message(ignore_subscribe_messages=True, timeout=wait_s)
            return message["data"] if message else None

        async with guarded(timeout_s):
            await listener.subscribe(channel)
            # Redis confirms the subscription.
            while await listener.get_message(timeout=timeout_s) is None:
                pass
        yield next_message


def unavailable(error: Exception) -> StoreUnavailable:
    """The error for the callers of a store, instead of one of FAILURES, which it counts."""
    REDIS_FAILURES.inc()
    return StoreUnavailable(_sentence(error))


def _sentence(error: Exception) -> str:
    match error:
        case TimeoutError() | exceptions.TimeoutError():
            return "Redis did not answer in time"
        case exceptions.AuthenticationError() | exceptions.NoPermissionError():
            return "Redis rejected the login of REDIS_URL"
        case exceptions.ConnectionError() | OSError() if not isinstance(error, exceptions.BusyLoadingError):
            return "Redis does not answer at the address of REDIS_URL"
        case ReplyError() if error.code in ("NOAUTH", "WRONGPASS", "NOPERM"):
            return "Redis rejected the login of REDIS_URL"
        case ReplyError():
            return f"Redis failed ({error.code})"
        case _:
            return f"Redis failed ({type(error).__name__})"


@contextmanager
def _cancellation_kept() -> Iterator[None]:
    """Raises a cancellation that happened within the block, also when the driver lost it.

    redis-py sends through `asyncio.wait_for`. Before Python 3.12 that returns normally when it is cancelled in the same
    step in which the sending ends. A loop that repeats a command would then never end.
    https://github.com/python/cpython/issues/86296
    """
    task = asyncio.current_task()
    requests_before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > requests_before:
            raise asyncio.CancelledError
