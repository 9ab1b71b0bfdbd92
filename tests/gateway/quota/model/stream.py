"""An event stream in memory, with the semantics of one Redis stream and one consumer group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.quota.port import Event, EventId


@dataclass(slots=True)
class _Waiting:
    text: str
    tenant_id: int | None
    delivered_at_ms: int | None = None


class MemoryStream:
    """Retains events in order until they are acknowledged. `now_ms` is the clock that measures idle times."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._events: dict[str, _Waiting] = {}
        self._arrived = asyncio.Event()
        self._last = self._lost_until = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def oldest(self) -> EventId | None:
        """The id of the oldest event that is not acknowledged."""
        return next(((0, int(each.removeprefix("0-"))) for each in self._events), None)

    @property
    def youngest(self) -> EventId:
        """The id of the youngest event that was ever appended."""
        return 0, self._last

    def append(self, text: str, tenant_id: int | None) -> None:
        """Appends an event."""
        self._last += 1
        self._events[f"0-{self._last}"] = _Waiting(text, tenant_id)
        self._arrived.set()

    def texts(self, tenant_id: int) -> list[str]:
        """The tenant's events that are not acknowledged, delivered to a consumer or not."""
        return [event.text for event in self._events.values() if event.tenant_id == tenant_id]

    def clear(self) -> None:
        """Loses everything."""
        self._events.clear()
        self._lost_until = self._last

    async def read(self, consumer: str, count: int, block_ms: int) -> list[Event]:  # noqa: ARG002 (the port's)
        """See `EventStream.read`."""
        if not (events := self._deliver(count, lambda event: event.delivered_at_ms is None)):
            if not block_ms:
                return []
            self._arrived.clear()
            try:
                async with asyncio.timeout(block_ms / 1000):
                    await self._arrived.wait()
            except TimeoutError:
                return []
            events = self._deliver(count, lambda event: event.delivered_at_ms is None)
        return events

    async def claim(self, consumer: str, count: int, idle_ms: int) -> list[Event]:  # noqa: ARG002 (the port's)
        """See `EventStream.claim`."""
        now_ms = self._now_ms()
        return self._deliver(
            count, lambda event: event.delivered_at_ms is not None and max(0, now_ms - event.delivered_at_ms) >= idle_ms
        )

    async def acknowledge(self, ids: Sequence[str]) -> int:
        """See `EventStream.acknowledge`."""
        for each in ids:
            self._events.pop(each, None)
        return sum(int(each.removeprefix("0-")) <= self._lost_until for each in ids)

    def _deliver(self, count: int, wanted: Callable[[_Waiting], bool]) -> list[Event]:
        ids = [each for each, event in self._events.items() if wanted(event)][:count]
        for each in ids:
            self._events[each].delivered_at_ms = self._now_ms()
        return [Event(each, self._events[each].text) for each in ids]
