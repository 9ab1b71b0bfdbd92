"""`python -m bench.load.upstream`: prints its port and answers chats on the wire of Ollama until stdin ends.

A chat that is not streamed is answered at once. A streamed chat has as many chunks as its prompt requests with
`chunks=N`, one every CHUNK_INTERVAL_MS. With `chunks=0` it has one, and nothing more until the caller closes. The
answers to discovery are constant.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from collections import deque
from email.utils import formatdate

from bench.load.messages import CHUNKED_END, HEAD_END, STAMP_MASK, chunk, end_of, is_complete

CHUNK_INTERVAL_MS = 20
# A longer body is not searched for `"stream":true`.
_STREAMED_BODY_BYTES_MAX = 65_536
_RECEIVE_BYTES = 262_144
_BACKLOG = 4096
_ENDLESS = 1 << 62
_CHUNKS = re.compile(rb"chunks=(\d+)")
_STREAM = re.compile(rb'"stream": ?true')

_STATUS = "HTTP/1.1 200 OK\r\nContent-Type: "
MODEL = "llama3.2:latest"
_DETAILS = {"format": "gguf", "family": "llama", "parameter_size": "3.2B", "quantization_level": "Q4_K_M"}
_ROW = {"name": MODEL, "model": MODEL, "size": 2019393189, "digest": "a" * 64, "details": _DETAILS}
_CONSTANT = {
    b"/api/version": {"version": "0.33.0"},
    b"/api/tags": {"models": [{**_ROW, "modified_at": "2026-01-01T00:00:00Z"}]},
    b"/api/ps": {"models": [{**_ROW, "expires_at": "2036-01-01T00:00:00Z", "size_vram": 2019393189}]},
    b"/api/show": {
        "details": _DETAILS,
        "model_info": {"general.architecture": "llama"},
        "capabilities": ["completion"],
    },
}
_TIMES = (
    '"total_duration":4883583458,"load_duration":1334875,"prompt_eval_duration":342546000,"eval_duration":4535599000'
)
_FINAL = f'"done":true,"done_reason":"stop","prompt_eval_count":26,"eval_count":%d,{_TIMES}'


class Connection:
    """One connection: the received part of a request, and the state of a streamed answer."""

    __slots__ = ("buffer", "chunks", "chunks_left", "closed", "end", "large_left", "rest", "socket")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.buffer = bytearray()
        self.end: int | None = 0
        self.chunks = 0
        self.chunks_left = 0
        self.large_left = 0
        self.rest = b""
        self.closed = False


class Upstream:
    """Serves one listening socket. All methods run in one thread."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(sys.stdin, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        # Every stream has the same interval, so the order of their next chunks is that of the queue.
        self._due: deque[tuple[float, Connection]] = deque()
        self._created_ms = 0
        self._created_at = ""
        self._head = b""
        self._stream_head = b""

    @property
    def port(self) -> int:
        """The TCP port on loopback."""
        return int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """Serves until stdin ends."""
        poll, connections = self._epoll.poll, self._connections
        listener, stdin = self._listener.fileno(), sys.stdin.fileno()
        while True:
            wait_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 1.0
            for descriptor, _ in poll(wait_s):
                if connection := connections.get(descriptor):
                    self._receive(connection)
                elif descriptor == listener:
                    self._accept()
                elif descriptor == stdin:
                    return
            self._send_due()

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[accepted.fileno()] = Connection(accepted)
        self._epoll.register(accepted, select.EPOLLIN)

    def _receive(self, connection: Connection) -> None:
        try:
            data: bytes | bytearray = connection.socket.recv(_RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        if connection.large_left > 0:
            self._receive_large(connection, bytes(data))
            return
        if connection.buffer:
            connection.buffer += data
            data = connection.buffer
        end = None if connection.end is None else connection.end or end_of(data)
        if is_complete(data, end):
            connection.buffer, connection.end = bytearray(), 0
            self._answer(connection, data)
            return
        connection.end = end
        if data is not connection.buffer:
            connection.buffer += data
        if end and end > _STREAMED_BODY_BYTES_MAX:
            connection.large_left = end - len(data)

    def _receive_large(self, connection: Connection, data: bytes) -> None:
        """Counts the bytes of a body that is not searched, instead of storing them."""
        connection.large_left -= len(data)
        if connection.large_left <= 0:
            received, connection.buffer, connection.end = connection.buffer, bytearray(), 0
            self._answer(connection, received)

    def _close(self, connection: Connection) -> None:
        connection.closed = True
        del self._connections[connection.socket.fileno()]
        connection.socket.close()

    def _answer(self, connection: Connection, received: bytes | bytearray) -> None:
        self._update_time()
        path = bytes(received[: received.find(b"\r\n")]).split(b" ")[1]
        constant = _CONSTANT.get(path)
        if constant is not None:
            body = json.dumps(constant).encode()
        elif len(received) <= _STREAMED_BODY_BYTES_MAX and _STREAM.search(received):
            requested = _CHUNKS.search(received)
            connection.chunks = connection.chunks_left = int(requested[1]) if requested else 8
            if not connection.chunks:
                connection.chunks = connection.chunks_left = _ENDLESS
                self._send_chunk(connection)
                return
            self._due.append((time.monotonic() + CHUNK_INTERVAL_MS / 1000, connection))
            return
        else:
            body = self._line("I am well, thank you. How can I help?", _FINAL % 11).rstrip()
        self._send(connection, b"%sContent-Length: %d%s%s" % (self._head, len(body), HEAD_END, body))
        if connection.rest:
            self._due.append((time.monotonic() + CHUNK_INTERVAL_MS / 1000, connection))

    def _send(self, connection: Connection, data: bytes) -> None:
        try:
            sent = connection.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        connection.rest = data[sent:]

    def _send_due(self) -> None:
        due, now = self._due, time.monotonic()
        if due and due[0][0] <= now:
            self._update_time()
        while due and due[0][0] <= now:
            at, connection = due.popleft()
            if connection.closed:
                continue
            if connection.rest:
                # The peer does not read. The next chunk is created when it does.
                self._send(connection, connection.rest)
            else:
                self._send_chunk(connection)
            if connection.chunks_left or connection.rest:
                due.append((at + CHUNK_INTERVAL_MS / 1000, connection))

    def _send_chunk(self, connection: Connection) -> None:
        head = self._stream_head if connection.chunks_left == connection.chunks else b""
        connection.chunks_left -= 1
        stamp = time.monotonic_ns() // 1000 & STAMP_MASK
        data = head + chunk(self._line(f"{stamp:08x}", '"done":false'))
        if not connection.chunks_left:
            data += chunk(self._line("", _FINAL % connection.chunks)) + CHUNKED_END
        self._send(connection, data)

    def _line(self, content: str, rest: str) -> bytes:
        message = f'"message":{{"role":"assistant","content":"{content}"}}'
        return f'{{"model":"{MODEL}","created_at":"{self._created_at}",{message},{rest}}}\n'.encode()

    def _update_time(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        if now_ms == self._created_ms:
            return
        if now_ms // 1000 != self._created_ms // 1000:
            date = f"Date: {formatdate(now_ms // 1000, usegmt=True)}\r\n"
            self._head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n{date}".encode()
            stream = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n{date}Transfer-Encoding: chunked\r\n\r\n"
            )
            self._stream_head = stream.encode()
        self._created_ms = now_ms
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ms // 1000))
        self._created_at = f"{seconds}.{now_ms % 1000:03d}000000Z"


def main() -> None:
    """Prints the port as a line and serves."""
    upstream = Upstream()
    sys.stdout.write(f"{upstream.port}\n")
    sys.stdout.flush()
    upstream.serve()


if __name__ == "__main__":
    main()
