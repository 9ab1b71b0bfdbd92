"""A gRPC server of either transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.rpc.message_sizes import MESSAGE_OVERHEAD_BYTES
from gateway.rpc.methods import Method
from gateway.service.tls import ServiceTls
from gateway.settings import Settings


class RpcServer(Protocol):
    """Serves its methods on one address."""

    async def start(self, listen: str, tls: ServiceTls | None = None) -> None:
        """Binds `HOST:PORT` or `unix:/path` (mode 0600, a stale socket is replaced) and serves. Raises CannotListen.

        With `tls` every client must present a certificate.
        """
        ...

    async def stop(self, grace_s: float) -> None:
        """Accepts no new calls, ends endless ones, and gives the others `grace_s` seconds before it cancels them.

        Every session is closed when it returns.
        """
        ...


def make_server(settings: Settings, methods: Sequence[Method], message_bytes_max: int) -> RpcServer:
    """Returns a server of GRPC_TRANSPORT for messages of `message_bytes_max` plus an allowance for headers.

    Only the selected transport is imported, because grpc.aio takes some 10 MB of memory.
    """
    limit = message_bytes_max + MESSAGE_OVERHEAD_BYTES
    if settings.grpc_transport == "nghttp2":
        from gateway.rpc.nghttp2.server import Nghttp2Server

        return Nghttp2Server(methods, limit)
    from gateway.rpc.grpcio import GrpcioServer

    return GrpcioServer(methods, limit)
