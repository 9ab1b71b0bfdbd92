"""Streams that the upstream answers with one chunk, and that are silent afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.load.closed_loop import requests_of
from bench.load.job import Group
from bench.load.messages import STAMP
from bench.sides.side import BenchFailed, Side
from bench.workloads import body

_AT_ONCE = 50
_CONNECT_TIMEOUT_S = 10.0
_FIRST_CHUNK_TIMEOUT_S = 60.0
_RECEIVE_BYTES = 65_536


@contextmanager
def idle_streams(side: Side, count: int) -> Iterator[None]:
    """Opens `count` streams, each on its own connection, and closes them. Raises BenchFailed if one is not answered."""
    (request, *_) = requests_of(Group(1, side.path, body("chunks=0", stream=True), side.keys), side.host)
    with ExitStack() as opened:
        for first in range(0, count, _AT_ONCE):
            new = []
            for _ in range(first, min(first + _AT_ONCE, count)):
                connected = socket.create_connection((side.host, side.port), _CONNECT_TIMEOUT_S)
                new.append(opened.enter_context(connected))
                connected.sendall(request)
            for connected in new:
                _receive_first_chunk(connected)
        yield


def _receive_first_chunk(connected: socket.socket) -> None:
    connected.settimeout(_FIRST_CHUNK_TIMEOUT_S)
    received = b""
    while not STAMP.search(received):
        data = connected.recv(_RECEIVE_BYTES)
        received += data
        if not data or not received.startswith(b"HTTP/1.1 200"):
            raise BenchFailed(f"a stream was not answered: {received[:500].decode(errors='replace')}")
