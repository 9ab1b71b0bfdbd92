"""The lean transport: listens on one address, and stops when its calls have ended or their time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from gateway.errors import CannotListen
from gateway.rpc.methods import Message, Method
from gateway.rpc.nghttp2.connection import KEEPALIVE_S, Connection
from gateway.service.listening import bind_failure, private_socket
from gateway.service.tls import ServiceTls

log = structlog.get_logger()

# How long `stop` waits for cancelled handlers, and for the last bytes to a peer that does not read them.
FINISH_TIMEOUT_S = 2.0


class Nghttp2Server:
    """See `gateway.rpc.server.RpcServer`. `message_bytes_max` limits messages of both directions.

    A peer that has sent nothing for `keepalive_s` seconds receives a PING.
    """

    def __init__(self, methods: Sequence[Method], message_bytes_max: int, keepalive_s: float = KEEPALIVE_S) -> None:
        self._methods = {method.path: method for method in methods}
        self._message_bytes_max = message_bytes_max
        self._keepalive_s = keepalive_s
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Future[Message | None]] = set()
        self._listener: asyncio.Server | None = None

    async def start(self, listen: str, tls: ServiceTls | None = None) -> None:
        """See RpcServer."""
        loop = asyncio.get_running_loop()
        context = tls.http2_context() if tls else None
        try:
            with private_socket(listen):
                if listen.startswith("unix:"):
                    path = listen.removeprefix("unix:")
                    self._listener = await loop.create_unix_server(self._connection, path, ssl=context)
                else:
                    host, _, port = listen.rpartition(":")
                    self._listener = await loop.create_server(
                        self._connection, host.strip("[]"), int(port), ssl=context
                    )
        except OSError as error:
            raise CannotListen(listen, bind_failure(error)) from None
        log.info("serving", listen=listen, tls=tls is not None, transport="nghttp2")

    async def stop(self, grace_s: float) -> None:
        """See RpcServer."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.drain()
        await self._lost(grace_s)
        for connection in list(self._connections):
            connection.end_calls()
        await self._lost(FINISH_TIMEOUT_S)
        for connection in list(self._connections):
            connection.abort()
        await self._lost(FINISH_TIMEOUT_S)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FINISH_TIMEOUT_S)

    def _connection(self) -> Connection:
        return Connection(self._methods, self._message_bytes_max, self._connections, self._tasks, self._keepalive_s)

    async def _lost(self, timeout_s: float) -> None:
        """Waits until every connection is closed."""
        if lost := [connection.lost for connection in self._connections]:
            await asyncio.wait(lost, timeout=timeout_s)
