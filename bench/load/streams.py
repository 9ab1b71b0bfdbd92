"""Connections that read one streamed answer each."""

from __future__ import annotations

import select
import socket
import time
from collections import Counter

from bench.load.closed_loop import connect, requests_of
from bench.load.job import GroupResult, Job, percentile
from bench.load.messages import CHUNKED_END, STAMP, STAMP_MASK

_RECEIVE_BYTES = 65_536
_POLL_S = 0.05


class _Stream:
    """One streamed answer: the pieces that were received, each with its time of arrival."""

    __slots__ = ("arrivals", "ended", "opened_us", "socket")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.opened_us = now_us()
        self.arrivals: list[tuple[int, bytes]] = []
        self.ended = False

    def first_us(self) -> int | None:
        """The time from the request to the first piece of the answer."""
        return self.arrivals[0][0] - self.opened_us if self.arrivals else None

    def chunks(self) -> list[tuple[int, int]]:
        """The arrival and the age of each chunk. A chunk in two pieces arrives with the second."""
        found, rest = [], b""
        for at_us, data in self.arrivals:
            received, consumed = rest + data, 0
            for match in STAMP.finditer(received):
                found.append((at_us, (at_us - int(match[1], 16)) & STAMP_MASK))
                consumed = match.end()
            rest = received[consumed:]
        return found


def now_us() -> int:
    """The clock of the stamps: the monotonic time of the machine, which all processes share."""
    return time.monotonic_ns() // 1000


class Streams:
    """The streams of a job. They are parsed afterwards, so that this work delays no chunk that is measured."""

    def __init__(self, job: Job) -> None:
        self._job = job
        (group,) = job.groups
        self._group = group
        self._requests = requests_of(group, f"{job.host}:{job.port}")
        self._epoll = select.epoll()
        self._streams: dict[int, _Stream] = {}
        self._started = time.monotonic()
        self._begin_us = self._end_us = 0

    @property
    def is_waiting(self) -> bool:
        """Whether no stream has received anything yet."""
        return not any(stream.arrivals for stream in self._streams.values())

    def begin(self) -> None:
        """Begins the measured time."""
        self._begin_us = now_us()

    def run_until(self, deadline: float) -> None:
        """Opens the streams when they are due, and receives until the monotonic time `deadline`."""
        poll, streams = self._epoll.poll, self._streams
        while time.monotonic() < deadline and not self._all_ended():
            self._open_due()
            for descriptor, _ in poll(_POLL_S if len(streams) == self._group.connections else 0.001):
                self._receive(streams[descriptor])

    def end(self, deadline: float) -> None:
        """Ends the measured time, and receives the rest of the streams until `deadline`."""
        self._end_us = now_us()
        self.run_until(deadline)
        for stream in self._streams.values():
            stream.socket.close()

    def results(self) -> list[GroupResult]:
        """The result of the group."""
        ages_us: list[float] = []
        statuses = Counter(stream.arrivals[0][1][9:12].decode() for stream in self._streams.values() if stream.arrivals)
        for stream in self._streams.values():
            ages_us += [age for at_us, age in stream.chunks() if self._begin_us <= at_us < self._end_us]
        ages_us.sort()
        firsts_us = sorted(first for stream in self._streams.values() if (first := stream.first_us()) is not None)
        complete = sum(
            bool(stream.arrivals) and stream.arrivals[-1][1].endswith(CHUNKED_END) for stream in self._streams.values()
        )
        return [
            GroupResult(
                len(ages_us),
                self._group.connections - complete,
                percentile(ages_us, 50),
                percentile(ages_us, 99),
                dict(statuses),
                complete,
                percentile(firsts_us, 50),
                percentile(firsts_us, 99),
            )
        ]

    def _all_ended(self) -> bool:
        return len(self._streams) == self._group.connections and all(each.ended for each in self._streams.values())

    def _open_due(self) -> None:
        """Opens the streams whose time within the warm-up has come."""
        opened, total = len(self._streams), self._group.connections
        share = 1.0 if not self._job.warm_up_s else (time.monotonic() - self._started) / self._job.warm_up_s
        # The last stream opens before the warm-up ends, so that the streams are running when the measured time begins.
        for number in range(opened, min(total, int(share * 1.25 * total) + 1)):
            stream = _Stream(connect(self._job.host, self._job.port))
            stream.socket.sendall(self._requests[number % len(self._requests)])
            self._streams[stream.socket.fileno()] = stream
            self._epoll.register(stream.socket, select.EPOLLIN)

    def _receive(self, stream: _Stream) -> None:
        try:
            data = stream.socket.recv(_RECEIVE_BYTES)
        except OSError:
            data = b""
        if data:
            stream.arrivals.append((now_us(), data))
        if not data or data.endswith(CHUNKED_END):
            stream.ended = True
            self._epoll.unregister(stream.socket)
