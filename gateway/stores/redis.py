"""The connection to Redis: one factory, and one place where its failures become StoreUnavailable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

from redis import asyncio as driver
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError

from gateway.errors import StoreUnavailable
from gateway.settings import Settings, sentinel_url
from gateway.settings.sentinel_url import SentinelUrl

__all__ = ["NoScriptError", "Redis", "ResponseError", "connect", "guarded"]

Redis: TypeAlias = driver.Redis | driver.RedisCluster

CONNECTIONS_MAX = 32
HEALTH_CHECK_INTERVAL_S = 15
RETRIES = 1
# The cluster client counts looking up the nodes anew as a retry too.
CLUSTER_RETRIES = 3
# Per node, and beyond it a command fails at once: the cluster client does not wait for a free one.
CLUSTER_CONNECTIONS_MAX = 256


def connect(settings: Settings) -> Redis:
    """A client of REDIS_URL that replies in bytes; nothing is sent before its first command.

    REDIS_SHARDS > 1 says that the URL is a node of a Redis Cluster; a URL of Sentinels leads to the master that they
    name at the time. Connecting and reading are bounded by `redis_timeout_s`, and so is waiting for one of the
    CONNECTIONS_MAX connections. When a connection breaks, a command may be sent once more although the first was
    carried out: whoever uses this must bear that.
    """
    url = settings.redis_url.get_secret_value()
    timeout_s = settings.redis_timeout_s
    options: dict[str, Any] = {
        "socket_connect_timeout": timeout_s,
        "socket_timeout": timeout_s,
        "health_check_interval": HEALTH_CHECK_INTERVAL_S,
        "protocol": 2,
    }
    if settings.redis_shards > 1:
        # No full look-up after several MOVED: it closes connections that are in use, and each MOVED mends its slot.
        options |= {"reinitialize_steps": 0, "max_connections": CLUSTER_CONNECTIONS_MAX}
        return _Cluster.from_url(url, retry=Retry(NoBackoff(), CLUSTER_RETRIES), **options)
    options["retry"] = Retry(NoBackoff(), RETRIES, (exceptions.ConnectionError,))
    options["max_connections"] = CONNECTIONS_MAX
    if sentinel_url.is_sentinel_url(url):
        return driver.Redis.from_pool(_master_pool(sentinel_url.parse(url), timeout_s, options))
    return driver.Redis.from_pool(driver.BlockingConnectionPool.from_url(url, timeout=timeout_s, **options))


class _MasterPool(SentinelConnectionPool, driver.BlockingConnectionPool):
    """Connections to the master that Sentinels watch: they are asked for it whenever a connection is made.

    redis-py's own pool of this kind fails when its connections are all in use; this one waits as the other does.
    """

    async def aclose(self) -> None:
        """Closes the connections to the master and to the Sentinels."""
        await super().aclose()
        await self.sentinel_manager.aclose()


def _master_pool(place: SentinelUrl, timeout_s: float, options: dict[str, Any]) -> _MasterPool:
    # The first Sentinel that answers is believed, and asked first from then on. Together they get less than one
    # deadline, so that those that are away do not use it up.
    each_s = timeout_s / (len(place.sentinels) + 1)
    sentinel_options = {
        "socket_connect_timeout": each_s,
        "socket_timeout": each_s,
        "password": place.sentinel_password,
        "ssl": place.tls,
        "retry": Retry(NoBackoff(), 0),
    }
    login = {"username": place.username, "password": place.password, "db": place.db, "ssl": place.tls}
    # redis-py leaves both constructors untyped.
    sentinel: Any = Sentinel(place.sentinels, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
    return _MasterPool(place.service, sentinel, timeout=timeout_s, **login, **options)  # type: ignore[no-untyped-call]


class _Cluster(driver.RedisCluster):
    """redis-py's cluster client, made safe for commands that run at once."""

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """A command's reply."""
        # Before it knows the nodes, redis-py sends a command to any of them.
        await self.initialize()
        try:
            return await super().execute_command(*args, **kwargs)
        except AttributeError as error:
            # On CLUSTERDOWN it closes every connection, those included that another command is just opening.
            raise exceptions.ConnectionError("the connection was closed while it was in use") from error


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
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError) as error:
            raise StoreUnavailable(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    match error:
        case TimeoutError() | exceptions.TimeoutError():
            return "Redis did not answer in time"
        case exceptions.AuthenticationError() | exceptions.NoPermissionError():
            return "Redis refused the login of REDIS_URL"
        case exceptions.ConnectionError() | OSError() if not isinstance(error, exceptions.BusyLoadingError):
            return "Redis does not answer at the address of REDIS_URL"
        case _:
            return f"Redis failed ({type(error).__name__})"


@contextmanager
def _cancellation_kept() -> Iterator[None]:
    """A cancellation within the block leaves it, also where the driver lost it.

    redis-py sends through `asyncio.wait_for`, which before Python 3.12 returns as if nothing had been when it is
    cancelled in the very step in which the sending ends. A loop that asks Redis again would then never end.
    https://github.com/python/cpython/issues/86296
    """
    task = asyncio.current_task()
    asked_before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > asked_before:
            raise asyncio.CancelledError
