"""The gRPC servers of authz and meter: their limits, and one address that each of them binds."""

from __future__ import annotations

import grpc
import structlog

from gateway.errors import CannotListen
from gateway.service.listening import bind_failure, private_socket, try_bind
from gateway.service.tls import ServiceTls

log = structlog.get_logger()

# Envoy multiplexes all its requests over one connection per worker thread; the ext_authz body comes in one message.
_MESSAGE_OVERHEAD_BYTES = 1 << 20
# The largest JSON answer that Envoy holds (`$HELD_BYTES_MAX` of envoy/hold_response.wat; a test compares them).
HELD_BYTES_MAX = 16 << 20
# Such an answer comes in one message, together with the read of at most 1 MiB that made it outgrow the limit.
ANSWER_BYTES_MAX = HELD_BYTES_MAX + (2 << 20)


def make_server(message_bytes_max: int) -> grpc.aio.Server:
    """A server that accepts messages of `message_bytes_max` plus an allowance for headers and metadata."""
    limit = message_bytes_max + _MESSAGE_OVERHEAD_BYTES
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            # Envoy pings the connection to notice a stopped worker.
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Two processes on one port would share connections by luck.
            ("grpc.so_reuseport", 0),
        ]
    )


async def start(server: grpc.aio.Server, listen: str, tls: ServiceTls | None = None) -> None:
    """Binds `HOST:PORT` or `unix:/path` (mode 0600, a stale socket is replaced) and starts. Raises CannotListen.

    With `tls` every client must present a certificate.
    """
    try:
        with private_socket(listen):
            if tls:
                server.add_secure_port(listen, tls.grpc_credentials())
            else:
                server.add_insecure_port(listen)
    except RuntimeError:
        error = try_bind(listen)
        raise CannotListen(listen, bind_failure(error) if error else "gRPC could not bind it") from None
    await server.start()
    log.info("serving", listen=listen, tls=tls is not None)
