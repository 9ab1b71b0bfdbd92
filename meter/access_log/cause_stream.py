"""The Redis stream through which the meters share the causes of broken-off answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import structlog

from gateway.stores.redis import Redis, guarded

log = structlog.get_logger()

# Each entry is one batch: its fields are request ids, and their values are 1 if the backend ended the answer, else 0.
KEY = "nz:disconnect_causes"
FIRST = "0-0"
BLOCK_S = 1.0
_READ_MAX = 20
# More than all meters write in the time in which one of them may be delayed. Redis removes whole nodes of a stream
# only, so it may retain about 100 more.
_BATCHES_MAX = 2000
_VALUES = {b"0": False, b"1": True}


class CauseStream:
    """A single key, so one node of a cluster has all of it.

    `redis` must be a separate client, made with `block_s=BLOCK_S`, because `read` occupies a connection of it.
    """

    def __init__(self, redis: Redis, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    async def append(self, causes: Mapping[str, bool]) -> None:
        """Appends one batch of at least one cause, by request id. Raises StoreUnavailable.

        A batch that is appended twice does no harm.
        """
        fields: dict[Any, Any] = {request_id: int(by_upstream) for request_id, by_upstream in causes.items()}
        async with guarded(self._timeout_s):
            await self._redis.xadd(KEY, fields, maxlen=_BATCHES_MAX, approximate=True)

    async def read(self, position: str) -> tuple[dict[str, bool], str]:
        """The causes after `position`, and the position after them. FIRST is the position before all causes.

        Waits at most BLOCK_S for the first. A malformed cause is logged and skipped. Raises StoreUnavailable.
        """
        async with guarded(self._timeout_s + BLOCK_S):
            reply: Any = await self._redis.xread({KEY: position}, count=_READ_MAX, block=int(BLOCK_S * 1000))
        if not reply:
            return {}, position
        batches = reply[0][1]
        return dict(_causes(batches)), batches[-1][0].decode()


def _causes(batches: list[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[tuple[str, bool]]:
    for batch_id, fields in batches:
        for name, value in fields.items():
            request_id = name.decode("utf-8", "replace")
            if value in _VALUES:
                yield request_id, _VALUES[value]
            else:
                log.error("cause_unreadable", request_id=request_id, batch=batch_id.decode())
