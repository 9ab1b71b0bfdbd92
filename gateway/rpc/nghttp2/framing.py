"""gRPC's framing of messages in the DATA of a stream: a flag of one byte, a length of four bytes, the message.

No message is compressed, because the server announces no encoding.
"""

from __future__ import annotations

import struct

from gateway.rpc.methods import RpcError, Status

PREFIX = struct.Struct(">BI")
"""The flag and the length of a message."""


class MessageReader:
    """Splits the DATA of one stream into messages of at most `message_bytes_max` bytes, and buffers at most one."""

    __slots__ = ("_buffer", "_message_bytes_max", "_start")

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._buffer: bytes | bytearray = b""
        self._start = 0

    def feed(self, data: bytes) -> None:
        """Appends the next bytes of the stream, split anywhere."""
        if self._start == len(self._buffer):
            self._buffer = data
        elif isinstance(self._buffer, bytearray):
            del self._buffer[: self._start]
            self._buffer += data
        else:
            self._buffer = bytearray(self._buffer[self._start :])
            self._buffer += data
        self._start = 0

    def next(self) -> bytes | bytearray | None:
        """Removes and returns the next whole message, None when it is not complete.

        Raises RpcError for a message that is too large, as soon as its length is known, or compressed.
        """
        body = self._start + PREFIX.size
        if len(self._buffer) < body:
            return None
        flag, size = PREFIX.unpack_from(self._buffer, self._start)
        if flag:
            status = Status.UNIMPLEMENTED if flag == 1 else Status.INTERNAL
            raise RpcError(status, "compressed messages are not supported")
        if size > self._message_bytes_max:
            raise RpcError(
                Status.RESOURCE_EXHAUSTED, f"the message has {size} bytes, the limit is {self._message_bytes_max}"
            )
        if len(self._buffer) < body + size:
            return None
        end = body + size
        if end < len(self._buffer):
            self._start = end
            return self._slice(body, end)
        # The call may last long after a message of many MiB.
        rest, self._buffer, self._start = self._buffer, b"", 0
        if isinstance(rest, bytes):
            return rest[body:]
        # This moves no bytes.
        del rest[:body]
        return rest

    def _slice(self, start: int, end: int) -> bytes:
        if isinstance(self._buffer, bytes):
            return self._buffer[start:end]
        # A slice of a bytearray would be a second copy.
        with memoryview(self._buffer) as view:
            return bytes(view[start:end])

    @property
    def partial(self) -> bool:
        """Whether there are bytes that `next` has not returned."""
        return self._start < len(self._buffer)
