"""One call on one stream: from its messages to the handler, and from the replies back. Only HTTP/2 is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError

from gateway.rpc.methods import Message, Metadata, Method, RpcError, Session, Status, Streaming, Unary, encode
from gateway.rpc.nghttp2.framing import PREFIX, MessageReader

log = structlog.get_logger()

# The peer is permitted to send more in steps of this size. It is much less than the window of a stream, and what all
# streams of a connection leave unacknowledged is less than the window of the connection, so neither is ever used up.
ACKNOWLEDGE_BYTES = 4 << 10

# A reply of more bytes is sent after its prefix, without a copy of both together.
COPIED_BYTES_MAX = 16 << 10

_Reply = Message | Awaitable[Message | None] | None


class Stream(Protocol):
    """The stream of a call. Its methods never raise: a stream that the peer has reset ignores them."""

    def send(self, data: bytes) -> None:
        """Queues bytes of the response."""
        ...

    def end(self, status: Status, message: str) -> None:
        """Ends the response. No other method but `acknowledge` is called afterwards."""
        ...

    @property
    def congested(self) -> bool:
        """Whether the peer reads too slowly. The stream calls `Call.resume` when it is no longer congested."""
        ...

    def acknowledge(self, size: int) -> None:
        """Permits the peer to send `size` more bytes."""
        ...

    def hold(self, task: asyncio.Future[Message | None]) -> None:
        """Notes a task that the server waits for when it stops."""
        ...

    def release(self, task: asyncio.Future[Message | None]) -> None:
        """Forgets a task that is done."""
        ...


class Call:
    """What unary and streaming calls have in common. The subclasses handle the messages in `_process`."""

    def __init__(self, stream: Stream, method: Method, message_bytes_max: int) -> None:
        self.endless = isinstance(method, Streaming) and method.endless
        # On the clock of the event loop, None without a limit.
        self.deadline_s: float | None = None
        self._stream = stream
        self._path = method.path
        self._decode = method.request.FromString
        self._message_bytes_max = message_bytes_max
        self._reader = MessageReader(message_bytes_max)
        self._task: asyncio.Future[Message | None] | None = None
        self._unacknowledged_bytes = 0
        self._half_closed = False
        self._over = False

    def receive(self, data: bytes, ended: bool) -> None:
        """Handles DATA as far as the handler and the peer's reading allow, and buffers the rest."""
        if self._over:
            self._stream.acknowledge(len(data))
            return
        self._unacknowledged_bytes += len(data)
        self._half_closed |= ended
        if data:
            self._reader.feed(data)
        self.resume()

    def resume(self) -> None:
        """Handles what is buffered."""
        if self._over:
            return
        try:
            self._process()
        except Exception as error:  # noqa: BLE001 (it is logged unless it is a status)
            self._fail_with(error)
        else:
            is_due = self._unacknowledged_bytes >= ACKNOWLEDGE_BYTES
            if is_due and self._task is None and not self._over and not self._stream.congested:
                self._acknowledge()

    def fail(self, status: Status, message: str) -> None:
        """Ends the call with a status, unless it is over."""
        if not self._over:
            self._stream.end(status, message)
            self.cancel()

    def cancel(self) -> None:
        """Ends the call without a response, because the peer has reset its stream or the connection is lost."""
        if self._over:
            return
        self._over = True
        self._acknowledge()
        if self._task is None:
            self._closed()
        else:
            self._task.cancel()

    def _process(self) -> None:
        raise NotImplementedError

    def _closed(self) -> None:
        """Called once, when the call is over and no task of it runs."""

    def _message(self) -> Message | None:
        encoded = self._reader.next()
        if encoded is None:
            if self._half_closed and self._reader.partial:
                raise RpcError(Status.INTERNAL, "the last message is incomplete")
            return None
        try:
            return self._decode(encoded)
        except DecodeError:
            raise RpcError(Status.INTERNAL, "the message cannot be parsed") from None

    def _reply(self, reply: _Reply) -> None:
        """Sends the reply now, or when its task is done."""
        if isinstance(reply, Awaitable):
            self._task = asyncio.ensure_future(reply)
            self._task.add_done_callback(self._on_replied)
            self._stream.hold(self._task)
        elif reply is not None:
            self._send(reply)

    def _send(self, reply: Message) -> None:
        encoded = encode(reply)
        if len(encoded) > self._message_bytes_max:
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"the reply has {len(encoded)} bytes, too many")
        prefix = PREFIX.pack(0, len(encoded))
        if len(encoded) <= COPIED_BYTES_MAX:
            self._stream.send(prefix + encoded)
        else:
            self._stream.send(prefix)
            self._stream.send(encoded)

    def _on_replied(self, task: asyncio.Future[Message | None]) -> None:
        self._task = None
        self._stream.release(task)
        error = None if task.cancelled() else task.exception()
        if self._over:
            if error is not None:
                log.warning("rpc_failed_after_its_end", method=self._path, reason=str(error) or type(error).__name__)
            self._closed()
        elif task.cancelled():
            self.fail(Status.CANCELLED, "the handler was cancelled")
        elif error is not None:
            self._failed(error)
            self._fail_with(error)
        else:
            self._on_reply(task.result())

    def _on_reply(self, reply: Message | None) -> None:
        try:
            if reply is not None:
                self._send(reply)
        except Exception as error:  # noqa: BLE001 (it is logged unless it is a status)
            self._failed(error)
            self._fail_with(error)
        else:
            self.resume()

    def _fail_with(self, error: BaseException) -> None:
        if isinstance(error, RpcError):
            self.fail(error.status, error.message)
        else:
            log.error("rpc_failed", method=self._path, exc_info=error)
            self.fail(Status.UNKNOWN, "the handler failed")

    def _failed(self, error: BaseException) -> None:
        """Notes an exception of the handler."""

    def _acknowledge(self) -> None:
        if self._unacknowledged_bytes:
            self._stream.acknowledge(self._unacknowledged_bytes)
            self._unacknowledged_bytes = 0

    def _complete(self) -> None:
        self.fail(Status.OK, "")


class UnaryCall(Call):
    """Handles its message once the peer has sent the end of the stream."""

    def __init__(self, stream: Stream, method: Unary, metadata: Metadata, message_bytes_max: int) -> None:
        super().__init__(stream, method, message_bytes_max)
        self._handle = method.handler(metadata)
        self._request: Message | None = None
        self._handled = False

    def _process(self) -> None:
        if self._handled:
            if self._task is None:
                self._complete()
            return
        while (message := self._message()) is not None:
            if self._request is not None:
                raise RpcError(Status.INTERNAL, "more than one message")
            self._request = message
        if self._half_closed:
            if self._request is None:
                raise RpcError(Status.INTERNAL, "no message")
            self._handled = True
            # The handler alone decides how long the message, which may have a large body, stays in memory.
            request, self._request = self._request, None
            self._reply(self._handle(request))
            if self._task is None:
                self._complete()


class StreamingCall(Call):
    """Handles its messages one after the other. Raises RpcError if the method refuses the call."""

    def __init__(self, stream: Stream, method: Streaming, metadata: Metadata, message_bytes_max: int) -> None:
        super().__init__(stream, method, message_bytes_max)
        self._session: Session = method.open(metadata)
        self._cause: Exception | None = None
        self._finished = False

    def _process(self) -> None:
        while self._task is None and not self._over and not self._stream.congested:
            message = self._message()
            if message is None and not self._half_closed:
                return
            if self._finished:
                self._complete()
                return
            try:
                if message is None:
                    self._finished = True
                    reply = self._session.finish()
                else:
                    reply = self._session.receive(message)
            except Exception as error:
                self._cause = error
                raise
            self._reply(reply)

    def _failed(self, error: BaseException) -> None:
        self._cause = error if isinstance(error, Exception) else None

    def _closed(self) -> None:
        # The traceback of the cause refers to this call.
        cause, self._cause = self._cause, None
        try:
            self._session.close(cause)
        except Exception:
            log.exception("rpc_not_closed", method=self._path)
