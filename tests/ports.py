"""Free loopback ports for the servers that the tests start."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

# Below the ports that the embedded stack chooses from, and below those of outgoing connections (ip_local_port_range).
_CHOICE = range(10_000, 20_000)
_WORKERS_MAX = 16
# A node of a Redis cluster opens a second port, this far above its first one.
_BUS_OFFSET = 10_000


def free_port(*, with_bus: bool = False) -> int:
    """A port that can be bound now; `with_bus` requires the port of a Redis cluster's bus to be free as well.

    The port is bound only later, by the server. Each pytest-xdist worker therefore chooses from ports that no other
    worker chooses, and chooses a port again only after all others.
    """
    while True:
        port = next(_ports())
        if _can_be_bound(port) and (not with_bus or _can_be_bound(port + _BUS_OFFSET)):
            return port


@cache
def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = list(_CHOICE[worker % _WORKERS_MAX :: _WORKERS_MAX])
    random.shuffle(own)
    return cycle(own)


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it: the connections that a former server left in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
