"""The quota in Redis: builds keys and arguments, makes one call, decodes the reply. The scripts in `lua/` decide.

Exactly-once is bounded: a request id is remembered as settled for SETTLED_MS, and as long as Redis retains its data. A
settlement that is repeated after that appends its event a second time. The ledger still has one row, because (request
id, time) is unique there. The counters are too high until the drain finds that row and invalidates them.

When Redis loses its data, rate windows begin empty. The meters re-establish their holds and every process resubmits its
unconfirmed entries (`gateway.ledger.outbox`). Nothing is admitted for RESTORE_S, in which they do so.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from gateway.errors import Code, Denied, StoreUnavailable
from gateway.queue.port import Ticket, Timing
from gateway.queue.redis import codec as queue_codec
from gateway.queue.redis import keys as queue_keys
from gateway.queue.redis.queue import STEPS, queue_rules
from gateway.quota.port import (
    RELEASED_MS,
    RESTORE_S,
    SETTLED_MS,
    Admission,
    Backlog,
    Counters,
    Epoch,
    ExpiredHold,
    Hold,
    Parked,
    Progress,
    ReservationDenied,
    Reserved,
    UsageLoader,
    Watermark,
)
from gateway.quota.rebuild import REBUILD_S, WAIT_S, BegunRebuild, NotBegun, Rebuilder, Used
from gateway.quota.redis import codec, keys
from gateway.quota.redis.stream import RedisStream
from gateway.quota.redis.waiting import WaitingEvents
from gateway.record.entry import Entry
from gateway.settings import Settings
from gateway.stores.library import Library
from gateway.stores.redis import Redis, guarded
from gateway.stores.scripts import Clock, Scripts
from gateway.values import Outcome, UsageSource

_WITHOUT_MEMORY = frozenset(
    {
        "abort_rebuild",
        "acknowledge",
        "epoch",
        "expired",
        "invalidate_counters",
        "leave_waiting",
        "ready",
        "release",
        "settle",
        "watermark",
    }
)
PARTS = ("window", "shared", "holds", "calibration", "decision", "admission")
SCRIPTS = Library("gateway.quota.redis", PARTS, _WITHOUT_MEMORY)
# The steps of the queue, for scripts that end an admission, a hold and a slot at once.
_STEPS = tuple(f"../../../queue/redis/lua/{name}" for name in STEPS)
SCRIPTS_WITH_QUEUE = Library("gateway.quota.redis", (*_STEPS, *PARTS), _WITHOUT_MEMORY)
# At most this many holds are released in the background at once. The reaper settles the rest.
RELEASES_MAX = 100
# Fields of a hash that one call reads or writes, so that no call stops Redis for long.
FIELDS_SLICE = 500
REBUILD_MS = int(REBUILD_S * 1000)
# At most this many calls to different shards run at once, so that they do not use all connections of the client.
SHARD_CALLS_MAX = 32
# At most this many holds are renewed by one call, which takes Redis a few milliseconds.
RENEWALS_MAX = 200

T = TypeVar("T")


class RedisQuota:
    """See `gateway.quota.port.Quota`. `load` reads the ledger when a tenant has no valid counters.

    Only tests pass the keyword arguments: `clock` (ms since 1970) replaces Redis' own clock, the others replace
    RESTORE_S, WAIT_S and RELEASES_MAX.
    """

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        load: UsageLoader,
        *,
        clock: Clock | None = None,
        restore_s: float = RESTORE_S,
        rebuild_wait_s: float = WAIT_S,
        releases_max: int = RELEASES_MAX,
    ) -> None:
        self._redis = redis
        self._timeout_s = settings.redis_timeout_s
        self._shards = settings.redis_shards
        self._lease_ms = int(settings.hold_lease_s * 1000)
        self._backlog_max = settings.audit_buffer_size
        self._restore_ms = int(restore_s * 1000)
        self._rules = queue_rules(settings) if settings.has_queue else None
        self._bounds = codec.bounds(self._lease_ms, self._backlog_max, settings.max_concurrent_requests, self._rules)
        self._scripts = Scripts(redis, SCRIPTS_WITH_QUEUE if self._rules else SCRIPTS, clock)
        self._streams = tuple(
            RedisStream(redis, self._scripts, shard, settings.redis_timeout_s) for shard in range(self._shards)
        )
        self._waiting = tuple(WaitingEvents(redis, shard, settings.redis_timeout_s) for shard in range(self._shards))
        self._rebuilder = Rebuilder(self, load, rebuild_wait_s)
        self._shard_calls = asyncio.Semaphore(SHARD_CALLS_MAX)
        self._releases_max = releases_max
        self._releases: set[asyncio.Task[None]] = set()

    @property
    def streams(self) -> Sequence[RedisStream]:
        """See the port."""
        return self._streams

    async def admit(self, admission: Admission) -> Reserved | ReservationDenied:
        """See the port."""
        answer = await self._enter(admission, None, None)
        if isinstance(answer, Parked):
            raise TypeError("a request without a ticket was parked")
        return answer

    async def enter(
        self, admission: Admission, ticket: Ticket, parked: Parked | None = None
    ) -> Reserved | Parked | ReservationDenied:
        """See the port."""
        return await self._enter(admission, ticket, parked)

    async def _enter(
        self, admission: Admission, ticket: Ticket | None, parked: Parked | None
    ) -> Reserved | Parked | ReservationDenied:
        idempotency_token = parked.idempotency_token if parked else secrets.token_hex(8)
        if ticket and parked:
            ticket = replace(ticket, arrived_at_ms=parked.arrived_at_ms)
        try:
            status, *values = await self._admit(admission, ticket, idempotency_token)
            if status == b"rebuild":
                await self._rebuilder.rebuild(admission.tenant_id)
                status, *values = await self._admit(admission, ticket, idempotency_token)
        except (StoreUnavailable, asyncio.CancelledError):
            if parked is None:
                self._release_in_background(admission)
            raise
        if status == b"rebuild":
            raise StoreUnavailable("the counters became invalid again")
        if status == b"used":
            raise StoreUnavailable("this request id was used before")
        return codec.reservation(status, values, idempotency_token)

    async def _admit(self, admission: Admission, ticket: Ticket | None, idempotency_token: str) -> list[Any]:
        reply: list[Any] = await self._scripts.run(
            "admit",
            self._request_keys(admission.request_id, admission.tenant_id, admission.key_id, queued=ticket is not None),
            admission.request_id,
            idempotency_token,
            codec.caller(
                admission.tenant_id,
                admission.key_id,
                (admission.tenant_limits, admission.tenant_budgets),
                (admission.key_limits, admission.key_budgets),
                (ticket.weight, ticket.priority) if ticket else None,
            ),
            self._bounds,
            admission.model,
            admission.input_tokens,
            admission.requested_output_tokens,
            admission.grant_draft,
            int(admission.calibrates),
            *(self._place_arguments(ticket) if ticket and self._rules else ()),
        )
        return reply

    @staticmethod
    def _place_arguments(ticket: Ticket) -> tuple[str | int, ...]:
        """The arguments of `admit.lua` about the queue."""
        return (
            queue_codec.pool(ticket.model, ticket.candidates),
            queue_codec.slots(ticket.candidates),
            ticket.owner,
            ticket.body_bytes,
            ticket.arrived_at_ms or 0,
        )

    def _lease_arguments(self) -> tuple[int, ...]:
        """The last arguments of a script about a request, if there is a queue."""
        return (int(self._rules.ticket_lease_s * 1000), int(self._rules.restore_s * 1000)) if self._rules else ()

    async def poll(self, request_ids: Sequence[str]) -> list[bool]:
        """See the port. One call for each RENEWALS_MAX requests, and at least one, which frees expired slots."""
        found: list[bool] = []
        names = [*keys.of_shard(0), *queue_keys.of_queue()]
        for first in range(0, max(1, len(request_ids)), RENEWALS_MAX):
            batch = request_ids[first : first + RENEWALS_MAX]
            reply = await self._scripts.run("poll_waiting", names, self._lease_ms, *self._lease_arguments(), *batch)
            found += (place[0] != b"waiting" for place in reply)
        return found

    async def leave(self, request_ids: Sequence[str]) -> None:
        """See the port. One call for each RENEWALS_MAX requests."""
        names = [*keys.of_shard(0), *queue_keys.of_queue()]
        for first in range(0, len(request_ids), RENEWALS_MAX):
            batch = request_ids[first : first + RENEWALS_MAX]
            await self._scripts.run("leave_waiting", names, *self._lease_arguments(), *batch)

    async def renew_all(self, running: Sequence[tuple[Hold, Progress]]) -> list[bool | StoreUnavailable]:
        """See the port. One call for each RENEWALS_MAX holds of a shard."""
        by_shard: dict[int, list[int]] = {}
        for index, (hold, _) in enumerate(running):
            by_shard.setdefault(hold.tenant_id % self._shards, []).append(index)
        replies: list[bool | StoreUnavailable] = [False] * len(running)

        async def renew_shard(shard: int, indexes: list[int]) -> None:
            for first in range(0, len(indexes), RENEWALS_MAX):
                batch = indexes[first : first + RENEWALS_MAX]
                try:
                    async with self._shard_calls:
                        renewed = await self._renew(shard, [running[index] for index in batch])
                except StoreUnavailable as error:
                    # Without a reply to this call, the shard does not get the following ones.
                    for index in indexes[first:]:
                        replies[index] = error
                    return
                for index, reply in zip(batch, renewed, strict=True):
                    replies[index] = bool(reply)

        await asyncio.gather(*(renew_shard(shard, indexes) for shard, indexes in by_shard.items()))
        return replies

    async def _renew(self, shard: int, batch: Sequence[tuple[Hold, Progress]]) -> list[int]:
        names = keys.of_shard(shard)
        if self._rules:
            names += queue_keys.of_queue()
        arguments: list[str | int] = [self._lease_ms]
        for hold, progress in batch:
            names += keys.of_renewal(shard, hold.tenant_id, hold.request_id)
            arguments += (
                hold.request_id,
                progress.input_tokens,
                progress.output_tokens,
                progress.response_bytes,
                codec.lost_hold(hold),
            )
            if self._rules:
                arguments += _slot(hold, progress)
        if self._rules:
            arguments += (int(self._rules.slot_lease_s * 1000), *self._lease_arguments())
        renewed: list[int] = await self._scripts.run("renew_all", names, *arguments)
        return renewed

    async def settle(self, entry: Entry, *, only_if_expired: bool = False) -> bool:
        """See the port."""
        if entry.tenant_id is None or entry.key_id is None:
            raise ValueError("an admitted request has a tenant and a key")
        reply = await self._scripts.run(
            "settle",
            self._request_keys(entry.request_id, entry.tenant_id, entry.key_id, queued=True),
            entry.request_id,
            entry.tenant_id,
            entry.key_id,
            entry.input_tokens + entry.output_tokens,
            codec.day(entry.ts_ms),
            entry.to_json(),
            SETTLED_MS,
            int(only_if_expired),
            entry.input_tokens if entry.usage_source is UsageSource.EXACT else -1,
            *queue_codec.ending(_timing(entry)),
            *self._lease_arguments(),
        )
        return bool(reply)

    async def release(self, request_id: str, tenant_id: int, key_id: int) -> bool:
        """See the port."""
        request_keys = self._request_keys(request_id, tenant_id, key_id, queued=True)
        leave = self._lease_arguments()
        return bool(await self._scripts.run("release", request_keys, request_id, RELEASED_MS, *leave))

    async def record(self, entry: Entry, *, admission_unknown: bool = False) -> None:
        """See the port."""
        if admission_unknown and any(await self._over_shards(partial(self._report, entry))):
            return
        recorded = await self._scripts.run(
            "record",
            self._request_keys(entry.request_id, entry.tenant_id or 0, entry.key_id or 0, queued=True),
            entry.request_id,
            "" if entry.tenant_id is None else entry.tenant_id,
            entry.to_json(),
            2 * self._backlog_max,
            RELEASED_MS,
            *self._lease_arguments(),
        )
        if not recorded:
            raise Denied(Code.AUDIT_BACKLOG)

    async def _report(self, entry: Entry, shard: int) -> bool:
        names = keys.of_request(shard, 0, 0, entry.request_id)
        return bool(await self._scripts.run("report", names, entry.request_id, entry.to_json()))

    async def held(self, request_id: str) -> Hold | None:
        """See the port."""

        async def text(shard: int) -> Any:
            async with guarded(self._timeout_s):
                return await self._redis.hget(keys.of_shard(shard)[0], request_id)

        found = next(filter(None, await self._over_shards(text)), None)
        return codec.expired_hold(request_id.encode(), found).hold if found else None

    async def expired(self, limit: int) -> list[ExpiredHold]:
        """See the port. Oldest first within each shard."""
        found: list[ExpiredHold] = []
        for shard in range(self._shards):
            if len(found) < limit:
                reply = await self._scripts.run("expired", keys.of_shard(shard), limit - len(found))
                found += map(codec.expired_hold, reply[::2], reply[1::2])
        return found

    async def counters(self, tenant_id: int) -> Counters | None:
        """See the port. Reads slice by slice, so a change in between may be in some of the values only."""
        shard = tenant_id % self._shards
        used = await self._fields(keys.counters(shard, tenant_id))
        held = await self._fields(keys.held(shard, tenant_id))
        # Afterwards, so that counters that were lost meanwhile are not reported.
        now_ms = await self._scripts.run("ready", self._tenant_keys(tenant_id))
        return codec.counters(now_ms, used, held) if now_ms else None

    async def _fields(self, key: str) -> dict[bytes, bytes]:
        fields: dict[bytes, bytes] = {}
        cursor = 0
        while True:
            async with guarded(self._timeout_s):
                found: Any
                cursor, found = await self._redis.hscan(key, cursor, count=FIELDS_SLICE)
            fields |= found
            if cursor == 0:
                return fields

    async def invalidate_counters(self, tenant_id: int) -> None:
        """See the port."""
        await self._scripts.run("invalidate_counters", self._tenant_keys(tenant_id))

    async def epoch(self) -> Epoch:
        """See the port. With several shards, the names and the longest wait of all of them."""
        states = await self._over_shards(
            lambda shard: self._scripts.run("epoch", keys.of_shard(shard), self._restore_ms)
        )
        names, left_ms = zip(*states, strict=True)
        return Epoch(b" ".join(names).decode(), max(left_ms) / 1000)

    async def watermark(self) -> Watermark:
        """See the port."""
        states = await self._over_shards(lambda shard: self._scripts.run("watermark", keys.of_shard(shard)))
        names, oldest, youngest = zip(*states, strict=True)
        return Watermark(
            b" ".join(names).decode(),
            tuple(codec.event_id(each) if each else None for each in oldest),
            tuple(map(codec.event_id, youngest)),
        )

    async def backlog(self) -> Backlog:
        """See the port."""

        async def counts(shard: int) -> tuple[int, int]:
            async with guarded(self._timeout_s):
                return await self._redis.hlen(keys.of_shard(shard)[0]), await self._redis.xlen(keys.events(shard))

        holds, events = zip(*await self._over_shards(counts), strict=True)
        return Backlog(sum(holds), sum(events))

    async def aclose(self) -> None:
        """See the port."""
        await self._rebuilder.aclose()
        for waiting in self._waiting:
            waiting.forget()
        await asyncio.gather(*self._releases)

    async def begin_rebuild(self, tenant_id: int) -> BegunRebuild | NotBegun:
        """See `Rebuildable`."""
        token = secrets.token_hex(8)
        status, *begun = await self._scripts.run(
            "begin_rebuild", self._tenant_keys(tenant_id), token, REBUILD_MS, self._restore_ms
        )
        if status != b"begun":
            return NotBegun.READY if status == b"ready" else NotBegun.BUSY
        now_ms, epoch = begun
        return BegunRebuild(token, now_ms, epoch.decode())

    async def waiting_events(self, tenant_id: int, begun: BegunRebuild) -> Sequence[str]:
        """See `Rebuildable`."""
        return await self._waiting[tenant_id % self._shards].of(tenant_id, begun.epoch)

    async def commit_rebuild(self, tenant_id: int, begun: BegunRebuild, used: Used) -> bool:
        """See `Rebuildable`. The counters are staged slice by slice, and replace the earlier ones at once."""
        tenant_keys, fields = self._tenant_keys(tenant_id), codec.used_fields(used)
        last = max(0, len(fields) - 1) // (2 * FIELDS_SLICE) * 2 * FIELDS_SLICE
        for start in range(0, last, 2 * FIELDS_SLICE):
            part = fields[start : start + 2 * FIELDS_SLICE]
            if not await self._scripts.run("stage_rebuild", tenant_keys, begun.token, REBUILD_MS, *part):
                return False
        arguments = begun.token, codec.day(begun.now_ms), len(used), *fields[last:]
        return bool(await self._scripts.run("commit_rebuild", tenant_keys, *arguments))

    async def abort_rebuild(self, tenant_id: int, begun: BegunRebuild) -> None:
        """See `Rebuildable`."""
        await self._scripts.run("abort_rebuild", self._tenant_keys(tenant_id), begun.token)

    async def _over_shards(self, call: Callable[[int], Awaitable[T]]) -> list[T]:
        """The results of one call per shard, of which at most SHARD_CALLS_MAX run at the same time.

        Raises the first failure when all calls have ended; each has its own deadline.
        """

        async def one(shard: int) -> T:
            async with self._shard_calls:
                return await call(shard)

        results = await asyncio.gather(*map(one, range(self._shards)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if not isinstance(result, BaseException)]

    def _tenant_keys(self, tenant_id: int) -> list[str]:
        return keys.of_tenant(tenant_id % self._shards, tenant_id)

    def _request_keys(self, request_id: str, tenant_id: int, key_id: int, *, queued: bool) -> list[str]:
        """The keys of a script about a request; with a queue also those of the queue if `queued`."""
        names = keys.of_request(tenant_id % self._shards, tenant_id, key_id, request_id)
        if queued and self._rules:
            names += queue_keys.of_queue()
        return names

    def _release_in_background(self, admission: Admission) -> None:
        if len(self._releases) < self._releases_max:
            task = asyncio.create_task(self._release_quietly(admission))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _release_quietly(self, admission: Admission) -> None:
        try:
            await self.release(admission.request_id, admission.tenant_id, admission.key_id)
        except StoreUnavailable:
            # If there is a hold, it expires and the reaper settles it.
            return


def _slot(hold: Hold, progress: Progress) -> tuple[str | int, ...]:
    """The arguments of `renew_all.lua` about the slot. The input is an estimate until the backend has reported it."""
    tokens = (progress.input_tokens or hold.input_tokens) + progress.output_tokens
    times = queue_codec.times(progress.timing)
    return progress.replica, hold.tenant_id, hold.key_id, hold.weight, tokens, *times, int(progress.answers)


def _timing(entry: Entry) -> Timing:
    """When the answer grew. One without a token is an error, unless it is complete, as those of embeddings are."""
    has_grown = entry.output_tokens > 0 or entry.outcome is Outcome.COMPLETE
    ended_ms = entry.duration_ms or 0
    return Timing(entry.ttft_ms if has_grown else None, ended_ms, ended_ms)
