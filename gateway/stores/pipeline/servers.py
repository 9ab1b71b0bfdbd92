"""Which server a call goes to: a single one, or the node of a Redis Cluster that has the slot of its key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from gateway.stores.pipeline.call import ReplyError
from gateway.stores.pipeline.connection import Login, pack
from gateway.stores.pipeline.link import Link, Resolve

SLOTS = 16384
# How often a call is sent again, to another node or by a new map.
REDIRECTIONS_MAX = 5
# The pause before a map is read again.
CHANGE_PAUSE_S = 0.05
# MOVED and ASK name another node. During the others the cluster is changing.
_REDIRECTIONS = ("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN")

_CLUSTER_SLOTS = pack(("CLUSTER", "SLOTS"))

Node = tuple[str, int]
"""Host and port."""

SlotOf = Callable[[bytes], int]


class OneServer:
    """A `Calls` of one server, whose address `resolve` returns for each new connection."""

    def __init__(self, resolve: Resolve, login: Login, timeout_s: float) -> None:
        self._link = Link(resolve, login, timeout_s)
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s

    def call(self, _key: str, command: bytes) -> asyncio.Future[Any]:
        """See `Calls`."""
        return self._link.call(command, self._loop.time() + self._timeout_s)

    async def aclose(self) -> None:
        """See `Calls`."""
        await self._link.aclose()


class Cluster:
    """A `Calls` of a Redis Cluster. `seeds` are some of its nodes, and `slot_of` returns the slot of a key.

    The map of slots is read from any node when a slot is unknown or its node fails. Redirections correct it slot by
    slot. https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
    """

    def __init__(self, seeds: Sequence[Node], slot_of: SlotOf, login: Login, timeout_s: float) -> None:
        self._seeds = tuple(seeds)
        self._slot_of = slot_of
        self._login = login
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._links: dict[Node, Link] = {}
        self._nodes: list[Node | None] = [None] * SLOTS
        self._reading: asyncio.Task[None] | None = None

    async def call(self, key: str, command: bytes) -> Any:
        """See `Calls`."""
        deadline_s = self._loop.time() + self._timeout_s
        slot = self._slot_of(key.encode())
        redirected: Node | None = None
        for attempt in range(REDIRECTIONS_MAX + 1):
            node = redirected or self._nodes[slot] or await self._node_of(slot, deadline_s)
            asks, redirected = redirected is not None, None
            try:
                return await self._link(node).call(command, deadline_s, asks=asks)
            except TimeoutError:
                raise
            except OSError:
                if attempt == REDIRECTIONS_MAX:
                    raise
                self._nodes[slot] = None
            except ReplyError as error:
                if attempt == REDIRECTIONS_MAX or error.code not in _REDIRECTIONS:
                    raise
                if error.code == "ASK":
                    redirected = _target(error, node)
                else:
                    self._nodes[slot] = _target(error, node) if error.code == "MOVED" else None
        raise AssertionError("the last attempt returns or raises")

    async def aclose(self) -> None:
        """See `Calls`."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        links, self._links = self._links, {}
        for link in links.values():
            await link.aclose()

    def _link(self, node: Node) -> Link:
        link = self._links.get(node)
        if link is None:

            async def address() -> Node:
                return node

            link = self._links[node] = Link(address, self._login, self._timeout_s)
        return link

    async def _node_of(self, slot: int, deadline_s: float) -> Node:
        """The node of a slot by a map that is read now. All calls that wait for it share the reading."""
        if self._reading is None:
            self._reading = self._loop.create_task(self._read_map(), name="redis-cluster-map")
            self._reading.add_done_callback(self._on_read)
        async with asyncio.timeout_at(deadline_s):
            await asyncio.shield(self._reading)
        node = self._nodes[slot]
        if node is None:
            raise ConnectionError("no node of the cluster has the slot")
        return node

    def _on_read(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # Retrieved here too, in case every call that waited for it has ended.

    async def _read_map(self) -> None:
        """Replaces the map by that of the node that replies first."""
        if any(self._nodes):
            # The cluster is changing, and gets some time for it.
            await asyncio.sleep(CHANGE_PAUSE_S)
        readings = [self._loop.create_task(self._map_of(node)) for node in {*self._links, *self._seeds}]
        error: Exception = ConnectionError("no node of the cluster is known")
        try:
            for reading in asyncio.as_completed(readings):
                try:
                    self._nodes = await reading
                except (OSError, ReplyError) as failed:
                    error = failed
                else:
                    break
            else:
                raise error
        finally:
            for each in readings:
                each.cancel()
            await asyncio.gather(*readings, return_exceptions=True)
        for node in self._links.keys() - {*self._nodes, *self._seeds}:
            await self._links.pop(node).aclose()

    async def _map_of(self, node: Node) -> list[Node | None]:
        """The node of each slot, as `node` knows it."""
        reply = await self._link(node).call(_CLUSTER_SLOTS, self._loop.time() + self._timeout_s)
        nodes: list[Node | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in reply:
            # A node that does not know its own name reports an empty one.
            owner = host.decode() if host else node[0], port
            nodes[first : last + 1] = [owner] * (last + 1 - first)
        return nodes


def _target(error: ReplyError, node: Node) -> Node:
    """The node that `MOVED 3999 host:port` or `ASK 3999 host:port` of `node` names."""
    host, _, port = error.detail.partition(" ")[2].rpartition(":")
    return host or node[0], int(port)
