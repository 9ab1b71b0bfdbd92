"""The methods of a service, the sessions of its streaming calls, and the statuses that end calls.

Statuses: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

# A protobuf message. The classes that xds-protos generates have no type stubs.
Message = Any

Metadata = Mapping[bytes, bytes]
"""The headers of a call by their names in lower case. Of a name that is given twice, one value."""


def traceparent_of(metadata: Metadata) -> str:
    """The `traceparent` header of W3C Trace Context, empty without one."""
    return metadata.get(b"traceparent", b"").decode("ascii", "replace")


def encode(reply: Message | bytes) -> bytes:
    """The encoding of a reply, which a handler may have encoded itself."""
    encoded: bytes = reply if isinstance(reply, bytes) else reply.SerializeToString()
    return encoded


class Status(IntEnum):
    """The gRPC status codes that a server sends."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class RpcError(Exception):
    """Ends a call with `status`. Any other exception of a handler ends it with UNKNOWN."""

    def __init__(self, status: Status, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(f"{status.name}: {message}")


class Session(Protocol):
    """One streaming call. Its methods are never called concurrently, and `close` is the last call, exactly once."""

    def receive(self, message: Message) -> Message | Awaitable[Message | None] | None:
        """Returns the reply to a message, None for no reply, or an awaitable of either. An exception ends the call.

        The reply is a message or its encoding.

        The transport creates a task only for an awaitable, and cancels it when the call ends early.
        """
        ...

    def finish(self) -> Message | Awaitable[Message | None] | None:
        """Returns a last reply like `receive`, because the peer has sent its last message."""
        ...

    def close(self, cause: Exception | None) -> None:
        """Releases the session, whichever side ended the call.

        `cause` is the exception of `receive` or `finish` that ended it, None for every other end.
        """
        ...


@dataclass(frozen=True, slots=True)
class Unary:
    """A call of one message. `path` is `/package.Service/Method`, and `request` is the class of the message.

    `handle` returns the reply, as a message or encoded, or an awaitable of it. The awaitable is cancelled when the peer
    cancels the call or the deadline passes. If there is a `handle_traced`, it is called instead, with the call's
    `traceparent` header of W3C Trace Context, empty without one.
    """

    path: str
    request: type[Message]
    handle: Callable[[Message], Message | Awaitable[Message]]
    handle_traced: Callable[[Message, str], Message | Awaitable[Message]] | None = None

    def handler(self, metadata: Metadata) -> Callable[[Message], Message | Awaitable[Message]]:
        """The handler of a call with this metadata."""
        traced = self.handle_traced
        return self.handle if traced is None else lambda message: traced(message, traceparent_of(metadata))


@dataclass(frozen=True, slots=True)
class Streaming:
    """A call of many messages in both directions.

    `open` begins the session of a call with this metadata, and an RpcError refuses the call.
    An `endless` call stays open as long as both processes run, so a server that stops ends it first.
    """

    path: str
    request: type[Message]
    open: Callable[[Metadata], Session]
    endless: bool = False


Method = Unary | Streaming
