"""The queue in Redis: builds keys and arguments, makes one call, decodes the reply. The scripts in `lua/` decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.queue.port import (
    ENDED_MS,
    SLOT_LEASE_S,
    UNKNOWN,
    Ended,
    Place,
    QueueRules,
    QueueStatus,
    QueueTimeout,
    Running,
    Ticket,
    Timing,
    Turn,
    Waiting,
)
from gateway.queue.redis import codec, keys
from gateway.settings import Settings
from gateway.stores.library import Library
from gateway.stores.redis import Redis, guarded
from gateway.stores.scripts import Clock, Scripts

# The functions of the queue, in this order.
STEPS = ("queue", "capacity", "learning", "granting", "line", "steps", "arrivals", "turns")
SCRIPTS = Library("gateway.queue.redis", STEPS, frozenset({"finish"}))
# Requests that one call polls or renews, so that no call stops Redis for long.
REQUESTS_SLICE = 200


class RedisQueue:
    """See `gateway.queue.port.Queue`. `clock` (ms since 1970) replaces Redis' own in tests only."""

    def __init__(self, redis: Redis, timeout_s: float, rules: QueueRules, clock: Clock | None = None) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._rules = rules
        self._clock = clock
        self._scripts = Scripts(redis, SCRIPTS, clock)

    async def enter(self, ticket: Ticket) -> Place:
        """See the port."""
        reply = await self._run(
            "enter",
            [ticket.request_id],
            ticket.request_id,
            *codec.ticket(ticket),
            _ms(self._rules.wait_max_s),
            self._rules.tickets_max,
            self._rules.bytes_max,
            ENDED_MS,
        )
        return codec.place(reply)

    async def move(self, request_id: str, replica: str, attempt: int) -> Turn | Waiting | QueueTimeout | Ended:
        """See the port."""
        bounds = _ms(self._rules.slot_lease_s), _ms(self._rules.wait_max_s)
        return codec.moved_place(await self._run("move", [request_id], request_id, replica, attempt, *bounds))

    async def poll(self, request_ids: Sequence[str]) -> list[Turn | Waiting | None]:
        """See the port. One call for each REQUESTS_SLICE requests."""
        places: list[Turn | Waiting | None] = []
        for first in range(0, len(request_ids), REQUESTS_SLICE):
            reply = await self._run("poll", [], *request_ids[first : first + REQUESTS_SLICE])
            places += map(codec.known_place, reply)
        return places

    async def finish(self, request_id: str, tokens: int = 0, timing: Timing = UNKNOWN) -> bool:
        """See the port."""
        times = codec.ending(timing)
        return bool(await self._run("finish", [request_id], request_id, tokens, *times, ENDED_MS))

    async def renew(self, running: Sequence[Running]) -> list[bool]:
        """See the port. One call for each REQUESTS_SLICE requests."""
        renewed: list[bool] = []
        for first in range(0, len(running), REQUESTS_SLICE):
            batch = running[first : first + REQUESTS_SLICE]
            arguments: list[str | int] = [_ms(self._rules.slot_lease_s)]
            for each in batch:
                arguments += each.request_id, each.replica, each.tenant_id, each.key_id, each.weight, each.tokens
                arguments += *codec.times(each.timing), int(each.answers)
            renewed += map(bool, await self._run("renew", [each.request_id for each in batch], *arguments))
        return renewed

    async def set_slots(self, slots: dict[str, int]) -> None:
        """See the port."""
        if slots:
            await self._run("set_slots", [], *(each for pair in slots.items() for each in pair))

    async def suspend(self, replicas: Sequence[str], duration_s: float) -> None:
        """See the port."""
        if replicas:
            await self._run("suspend", [], _ms(duration_s), *replicas)

    async def status(self) -> QueueStatus:
        """See the port. Reads key by key, so a change in between may be in some of the values only."""
        hashes: dict[str, Any] = {}
        for name, key in zip(keys.NAMES, keys.of_queue(), strict=True):
            if name in ("state", "slots", "tickets", "virtual"):
                async with guarded(self._timeout_s):
                    hashes[name] = await self._redis.hgetall(key)
        return codec.status(hashes, await self._now_ms())

    async def _now_ms(self) -> int:
        if self._clock is not None:
            return self._clock()
        async with guarded(self._timeout_s):
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def _run(self, name: str, request_ids: Sequence[str], *arguments: str | int) -> Any:
        names = [*keys.of_queue(), *map(keys.ended, request_ids)]
        leases = _ms(self._rules.ticket_lease_s), _ms(self._rules.restore_s)
        return await self._scripts.run(name, names, *leases, *arguments)


def queue_rules(settings: Settings) -> QueueRules:
    """The bounds of the settings."""
    return QueueRules(
        wait_max_s=settings.queue_max_wait_s,
        # A meter renews a slot whose request makes no progress as rarely as its hold.
        slot_lease_s=max(SLOT_LEASE_S, settings.hold_lease_s),
        tickets_max=settings.queue_max_per_tenant,
        bytes_max=settings.queue_max_bytes_per_tenant,
    )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
