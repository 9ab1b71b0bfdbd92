"""Connections that send their next request when the last one is answered."""

from __future__ import annotations

import itertools
import math
import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

from bench.load.job import Group, GroupResult, Job, percentile
from bench.load.messages import HEAD_END, end_of, is_complete, request

_RECEIVE_BYTES = 65_536
_POLL_S = 0.05
_CONNECT_TIMEOUT_S = 10.0
_RECONNECT_PAUSE_S = 0.01


def requests_of(group: Group, host: str) -> list[bytes]:
    """The requests of a group, one for each key."""
    headers = [{"Authorization": f"Bearer {key}"} for key in group.keys] or [{}]
    return [request(group.path, host, each, group.body.encode()) for each in headers]


def connect(host: str, port: int) -> socket.socket:
    """A connected socket that does not block."""
    connected = socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setblocking(False)
    return connected


class _Measured:
    """The measurements of one group."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.durations_ns = array("Q")
        self.statuses: Counter[str] = Counter()
        self.errors = 0

    def result(self) -> GroupResult:
        ordered_us = [duration / 1000 for duration in sorted(self.durations_ns)]
        p50_us, p99_us = percentile(ordered_us, 50), percentile(ordered_us, 99)
        return GroupResult(len(ordered_us), self.errors, p50_us, p99_us, dict(self.statuses))


class _Connection:
    """One connection, with the received part of a response and the unsent part of a request."""

    __slots__ = ("buffer", "end", "expected", "measured", "requests", "sent_ns", "socket", "unsent")

    def __init__(self, requests: Iterator[bytes], expected: Sequence[bytes], measured: _Measured) -> None:
        self.socket = socket.socket()
        self.requests = requests
        self.expected = expected
        self.measured = measured
        self.buffer = bytearray()
        self.end: int | None = 0
        self.sent_ns = 0
        self.unsent = memoryview(b"")


class ClosedLoop:
    """The groups of a job. Connections that break are counted as errors and opened again."""

    def __init__(self, job: Job) -> None:
        self._address = (job.host, job.port)
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, _Connection] = {}
        self._responses_left = math.inf if job.responses_max is None else job.responses_max
        self._measured = [_Measured() for _ in job.groups]
        for group, measured in zip(job.groups, self._measured, strict=True):
            requests = itertools.cycle(requests_of(group, f"{job.host}:{job.port}"))
            expected = [str(status).encode() for status in group.expected]
            for _ in range(group.connections):
                self._open(_Connection(requests, expected, measured))

    @property
    def is_waiting(self) -> bool:
        """Whether a group has no expected response yet, and may still receive one."""
        return self._responses_left > 0 and not all(measured.durations_ns for measured in self._measured)

    def begin(self) -> None:
        """Begins the measured time: what was measured so far is discarded."""
        for measured in self._measured:
            measured.reset()

    def end(self, _: float) -> None:
        """Ends the measured time and closes the connections. Requests without a response are not counted."""
        for connection in self._by_descriptor.values():
            connection.socket.close()

    def results(self) -> list[GroupResult]:
        """The results of the groups, in their order."""
        return [measured.result() for measured in self._measured]

    def run_until(self, deadline: float) -> None:
        """Sends and receives until the monotonic time `deadline`."""
        poll, by_descriptor, monotonic = self._epoll.poll, self._by_descriptor, time.monotonic
        while monotonic() < deadline and self._responses_left > 0:
            for descriptor, _ in poll(_POLL_S):
                if self._responses_left <= 0:
                    break
                # A connection that was opened anew in this batch has another descriptor.
                if connection := by_descriptor.get(descriptor):
                    if connection.unsent:
                        self._continue_sending(connection)
                    self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data: bytes | bytearray = connection.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._reopen_broken(connection)
            return
        if connection.buffer:
            connection.buffer += data
            data = connection.buffer
        end = None if connection.end is None else connection.end or end_of(data)
        if not is_complete(data, end):
            connection.end = end
            if data is not connection.buffer:
                connection.buffer += data
            return
        connection.buffer, connection.end = bytearray(), 0
        self._record(connection.measured, connection, data)
        if b"onnection: close" in data[: data.find(HEAD_END)]:
            self._close(connection)
            self._open(connection)
        else:
            self._send_next(connection)

    def _record(self, measured: _Measured, connection: _Connection, response: bytes | bytearray) -> None:
        self._responses_left -= 1
        status = bytes(response[9:12])
        if status in connection.expected:
            measured.durations_ns.append(time.perf_counter_ns() - connection.sent_ns)
        else:
            measured.errors += 1
        measured.statuses[status.decode()] += 1

    def _send_next(self, connection: _Connection) -> None:
        data = next(connection.requests)
        connection.sent_ns = time.perf_counter_ns()
        sent = self._send(connection, memoryview(data))
        if 0 <= sent < len(data):
            connection.unsent = memoryview(data)[sent:]
            self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _continue_sending(self, connection: _Connection) -> None:
        sent = self._send(connection, connection.unsent)
        if sent >= 0:
            connection.unsent = connection.unsent[sent:]
            if not connection.unsent:
                self._epoll.modify(connection.socket, select.EPOLLIN)

    def _send(self, connection: _Connection, data: memoryview) -> int:
        """The number of bytes that were sent, -1 if the connection is broken, which is noticed when receiving."""
        try:
            return connection.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def _reopen_broken(self, connection: _Connection) -> None:
        connection.measured.errors += 1
        time.sleep(_RECONNECT_PAUSE_S)
        self._close(connection)
        self._open(connection)

    def _close(self, connection: _Connection) -> None:
        del self._by_descriptor[connection.socket.fileno()]
        connection.socket.close()

    def _open(self, connection: _Connection) -> None:
        connection.socket = connect(*self._address)
        connection.buffer, connection.end, connection.unsent = bytearray(), 0, memoryview(b"")
        self._by_descriptor[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN)
        self._send_next(connection)
