"""The reference transport: grpc.aio. It is not the default, because it takes several times the CPU time per message."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import structlog

from gateway.errors import CannotListen
from gateway.rpc.message_sizes import HEADER_BYTES_MAX
from gateway.rpc.methods import Message, Metadata, Method, RpcError, Session, Streaming, Unary, encode
from gateway.service.listening import bind_failure, private_socket, try_bind
from gateway.service.tls import ServiceTls

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

# How long `stop` waits for handlers after grpc.aio has reported that the server stopped.
FINISH_TIMEOUT_S = 2.0
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioServer:
    """See `gateway.rpc.server.RpcServer`. `message_bytes_max` limits messages of both directions."""

    def __init__(self, methods: Sequence[Method], message_bytes_max: int) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", message_bytes_max),
                ("grpc.max_metadata_size", HEADER_BYTES_MAX),
                ("grpc.absolute_max_metadata_size", HEADER_BYTES_MAX),
                ("grpc.max_send_message_length", message_bytes_max),
                # Envoy pings the connection to notice a stopped worker.
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.keepalive_permit_without_calls", 1),
                # Two processes on one port would share connections by luck.
                ("grpc.so_reuseport", 0),
            ]
        )
        self._running: set[asyncio.Task[object]] = set()
        self._endless: set[asyncio.Task[object]] = set()
        self._stopping = False
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = defaultdict(dict)
        for method in methods:
            service, _, name = method.path.removeprefix("/").partition("/")
            services[service][name] = self._handler(method)
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items())
        )

    async def start(self, listen: str, tls: ServiceTls | None = None) -> None:
        """See RpcServer."""
        try:
            with private_socket(listen):
                if tls:
                    self._server.add_secure_port(listen, _credentials(tls))
                else:
                    self._server.add_insecure_port(listen)
        except RuntimeError:
            error = try_bind(listen)
            raise CannotListen(listen, bind_failure(error) if error else "gRPC could not bind it") from None
        await self._server.start()
        log.info("serving", listen=listen, tls=tls is not None, transport="grpcio")

    async def stop(self, grace_s: float) -> None:
        """See RpcServer. grpc.aio reports a stopped server before its last handlers have ended."""
        self._stopping = True
        for task in self._endless:
            task.cancel()
        await self._server.stop(grace_s)
        if running := self._running | self._endless:
            await asyncio.wait(running, timeout=FINISH_TIMEOUT_S)

    def _handler(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        decode: Callable[[bytes], Message] = method.request.FromString
        if isinstance(method, Unary):
            return grpc.unary_unary_rpc_method_handler(_unary(method), decode, encode)
        return grpc.stream_stream_rpc_method_handler(self._streaming(method), decode, encode)

    def _streaming(self, method: Streaming) -> Callable[[Any, Context], Awaitable[None]]:
        tasks = self._endless if method.endless else self._running

        async def call(_: Any, context: Context) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 (every handler of a server runs in a task)
            tasks.add(task)
            try:
                await _serve(method.open(_metadata(context)), context)
            except RpcError as error:
                await context.abort(_CODES[error.status], error.message)
            except asyncio.CancelledError:
                if not (self._stopping and method.endless):
                    raise
                # grpc.aio would leave the peer's side of a cancelled handler open.
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")
            except Exception:
                log.exception("rpc_failed", method=method.path)
                raise
            finally:
                tasks.discard(task)

        return call


def _metadata(context: Context) -> Metadata:
    pairs = context.invocation_metadata() or ()
    return {name.encode(): value.encode() if isinstance(value, str) else value for name, value in pairs}


async def _serve(session: Session, context: Context) -> None:
    cause: Exception | None = None
    try:
        while (message := await context.read()) is not grpc.aio.EOF:
            await _reply(context, session.receive(message))
        await _reply(context, session.finish())
    except Exception as error:
        cause = error
        raise
    finally:
        session.close(cause)


async def _reply(context: Context, reply: Message | Awaitable[Message | None] | None) -> None:
    if isinstance(reply, Awaitable):
        reply = await reply
    if reply is not None:
        await context.write(reply)


def _unary(method: Unary) -> Callable[[Message, Context], Awaitable[Message]]:
    async def call(request: Message, context: Context) -> Message:
        try:
            reply = method.handler(_metadata(context))(request)
            return await reply if isinstance(reply, Awaitable) else reply
        except RpcError as error:
            await context.abort(_CODES[error.status], error.message)
        except Exception:
            log.exception("rpc_failed", method=method.path)
            raise

    return call


def _credentials(tls: ServiceTls) -> grpc.ServerCredentials:
    """Credentials that follow renewals of the files."""
    current = tls.newest()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        newest = tls.newest()
        if newest is current:
            return None
        current = newest
        return _configuration(newest.key, newest.cert, newest.ca)

    configuration = _configuration(current.key, current.cert, current.ca)
    # The stubs omit that the result may be None, for no change.
    return grpc.dynamic_ssl_server_credentials(configuration, renewed, True)  # type: ignore[arg-type]


def _configuration(key: bytes, cert: bytes, ca: bytes) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(key, cert)], ca)
