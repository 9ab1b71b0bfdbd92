"""A service that shows what a transport does with its calls, and both transports that serve it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

from gateway.rpc.grpcio import GrpcioServer
from gateway.rpc.methods import Metadata, Method, RpcError, Status, Streaming, Unary
from gateway.rpc.nghttp2.server import Nghttp2Server
from gateway.rpc.server import RpcServer

TRANSPORTS: dict[str, Callable[[Sequence[Method], int], RpcServer]] = {"grpcio": GrpcioServer, "nghttp2": Nghttp2Server}
MESSAGE_BYTES_MAX = 4 << 20


class Echo:
    """Counts its sessions, and remembers how they ended."""

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0
        self.received = 0
        self.causes: list[Exception | None] = []
        self.metadata: Metadata = {}
        self.cancelled = asyncio.Event()
        self.gate = asyncio.Event()

    def methods(self) -> tuple[Method, ...]:
        """Unary: Echo, Later, Fail, Crash, Hang, Trace. Streaming: Chat, Noted, Await, Big, Endless."""
        return (
            Unary("/test.Echo/Echo", BytesValue, lambda message: message),
            Unary("/test.Echo/Later", BytesValue, self._later),
            Unary("/test.Echo/Fail", BytesValue, _fail),
            Unary("/test.Echo/Crash", BytesValue, _crash),
            Unary("/test.Echo/Hang", BytesValue, self._hang),
            Unary("/test.Echo/Trace", BytesValue, _crash, lambda _, trace: BytesValue(value=trace.encode())),
            Streaming("/test.Echo/Chat", BytesValue, lambda _: Chat(self)),
            Streaming("/test.Echo/Noted", BytesValue, self._noted),
            Streaming("/test.Echo/Await", BytesValue, lambda _: Waiting(self)),
            Streaming("/test.Echo/Big", BytesValue, lambda _: Big(self)),
            Streaming("/test.Echo/Endless", BytesValue, lambda _: Chat(self), endless=True),
        )

    def _noted(self, metadata: Metadata) -> Chat:
        self.metadata = metadata
        return Chat(self)

    async def _later(self, message: BytesValue) -> BytesValue:
        await asyncio.sleep(0)
        return message

    async def _hang(self, message: BytesValue) -> BytesValue:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return message


async def _fail(_: BytesValue) -> BytesValue:
    raise RpcError(Status.RESOURCE_EXHAUSTED, "50 % of a naïve\nlimit")


def _crash(_: BytesValue) -> BytesValue:
    raise ZeroDivisionError


class Chat:
    """Replies to each message but `quiet`, and ends the call for `fail` and `crash`."""

    def __init__(self, echo: Echo) -> None:
        self.echo = echo
        echo.open += 1
        echo.opened += 1

    def receive(self, message: BytesValue) -> Any:
        self.echo.received += 1
        match message.value:
            case b"fail":
                raise RpcError(Status.NOT_FOUND, "gone")
            case b"crash":
                raise ZeroDivisionError
            case b"quiet":
                return None
        return message

    def finish(self) -> Any:
        return BytesValue(value=b"bye")

    def close(self, cause: Exception | None) -> None:
        self.echo.open -= 1
        self.echo.causes.append(cause)


class Waiting(Chat):
    """Replies after a turn of the event loop, or when the gate opens."""

    def receive(self, message: BytesValue) -> Awaitable[BytesValue]:
        return self._reply(message)

    async def _reply(self, message: BytesValue) -> BytesValue:
        if message.value == b"gate":
            await self.echo.gate.wait()
        await asyncio.sleep(0)
        self.echo.received += 1
        return message


class Big(Chat):
    """Replies with 64 KiB for each message."""

    def receive(self, message: BytesValue) -> BytesValue:
        super().receive(message)
        return BytesValue(value=bytes(64 << 10))


class Client:
    """The calls of a channel by the names of their methods."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def unary(
        self, name: str, value: bytes = b"", timeout: float | None = 20, metadata: Sequence[tuple[str, str]] = ()
    ) -> Any:
        """A call of one message."""
        call = self._channel.unary_unary(f"/test.Echo/{name}", BytesValue.SerializeToString, BytesValue.FromString)
        return call(BytesValue(value=value), timeout=timeout, metadata=metadata)

    def stream(self, name: str, timeout: float | None = None, metadata: Sequence[tuple[str, str]] = ()) -> Any:
        """A call of many messages."""
        call = self._channel.stream_stream(f"/test.Echo/{name}", BytesValue.SerializeToString, BytesValue.FromString)
        return call(timeout=timeout, metadata=metadata)


@asynccontextmanager
async def served(transport: str, echo: Echo, directory: Path) -> AsyncIterator[tuple[RpcServer, Client]]:
    """A started server of the echo service, and a client of it."""
    server = TRANSPORTS[transport](echo.methods(), MESSAGE_BYTES_MAX)
    address = f"unix:{directory}/rpc.sock"
    await server.start(address)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield server, Client(channel)
    await server.stop(0)
