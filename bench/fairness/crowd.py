"""Thousands of callers that wait at the same time, and many that disconnect while others wait."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bench import processes
from bench.fairness.arithmetic import gaps_s, most_at_once, summary
from bench.fairness.callers import Answer, Callers, open_callers
from bench.fairness.places import Places
from bench.fairness.plan import SLOTS, Plan
from bench.fairness.stack import Ollama, Stack, Stores, open_stores, spans, until

MODEL = "crowd"
WORDS = 10
# They occupy the slots until all callers wait, then they disconnect.
_BLOCKER_WORDS = 4000
_CPU_S = 5.0
Document = dict[str, Any]


def settings(plan: Plan) -> dict[str, str]:
    """The settings of the gateway: a tenant may have all its callers at once, and they wait longer than by default."""
    return {"QUEUE_MAX_WAIT_S": f"{plan.wait_max_s:.0f}", "DEFAULT_CONCURRENT": str(plan.per_tenant + 1)}


async def measure(plan: Plan, stack: Stack, backends: Mapping[str, Ollama]) -> Document:
    """Measures the callers that wait, then those that disconnect. Returns both documents."""
    async with open_stores(stack) as stores:
        crowd = _Crowd(plan, stack, stores, backends[MODEL])
        await crowd.prepare()
        # The memory is measured first, because Envoy retains what earlier requests needed.
        return {"settings": settings(plan), "waiting": await crowd.waiting(), "hang_ups": await crowd.hang_ups()}


class _Crowd:
    """The callers of one gateway."""

    def __init__(self, plan: Plan, stack: Stack, stores: Stores, backend: Ollama) -> None:
        self._plan = plan
        self._stack = stack
        self._stores = stores
        self._backend = backend
        self._keys: list[str] = []

    async def prepare(self) -> None:
        """Creates the tenants, and has each key verified by the workers, which hash it once."""
        callers_max = max(self._plan.waiting, self._plan.leaving + self._plan.staying)
        names = [f"tenant-{number}" for number in range(-(-callers_max // self._plan.per_tenant))]
        self._keys = list((await self._stores.create_tenants(MODEL, dict.fromkeys(names, 1))).values())
        async with open_callers(self._stack.url, "fairness-prepare") as callers:
            for key in self._keys * 2 * self._plan.workers:
                await callers.chat(key, MODEL, 1)

    async def hang_ups(self) -> Document:
        """Callers that disconnect at one moment, while others wait that are served afterwards."""
        name, plan = "fairness-hang-ups", self._plan
        async with self._blocked(name) as (callers, blockers):
            everyone = await self._arrive(callers, plan.leaving + plan.staying)
            leaving = set(random.Random(1).sample(everyone, plan.leaving))  # noqa: S311 (nothing secret)
            staying = [each for each in everyone if each not in leaving]
            freed = await self._leave(list(leaving), len(staying))
            await self._all_wait(staying)
            _cancel(blockers)
            answers = await asyncio.gather(*staying)
        rows, records = await self._ended(callers)
        gone = [row for row in rows if (row["status"], row["outcome"], row["output_tokens"]) == (499, "client_gone", 0)]
        return {
            "left": plan.leaving,
            "stayed": plan.staying,
            **freed,
            "gone_rows": len(gone),
            "reached_backend": len(records) - len(blockers),
            **self._ends(answers, callers.sent, rows, records),
            "slots_usable": await self._usable_slots(),
        }

    async def _leave(self, leaving: Sequence[asyncio.Task[Answer]], staying: int) -> Document:
        """Disconnects these callers at one moment. Returns how long it takes until their places are free.

        `freed_s` begins with the first disconnection, and `freed_in_gateway_s` with the first place that is free: the
        client and Envoy need the time in between. `closed_s` is how long the client needs to disconnect all.
        """
        places = Places(self._stack.settings.redis_url.get_secret_value())
        places.start()

        async def all_wait() -> bool:
            return places.fell_to(len(leaving) + staying) is not None

        async def all_free() -> bool:
            return places.fell_to(staying) is not None

        try:
            await until(all_wait, "the tickets are not readable")
            began = time.monotonic()
            _cancel(leaving)
            await asyncio.gather(*leaving, return_exceptions=True)
            closed = time.monotonic()
            await until(all_free, "a place stays taken")
        finally:
            places.stop()
        first, last = (places.fell_to(count) or began for count in (len(leaving) + staying - 1, staying))
        return {"closed_s": closed - began, "freed_s": last - began, "freed_in_gateway_s": last - first}

    async def waiting(self) -> Document:
        """Callers that all wait at the same time: memory, CPU time, and how fast a free slot is used."""
        name, plan = "fairness-waiting", self._plan
        before_mb = processes.pss_mb(self._stack.services())
        async with self._blocked(name) as (callers, blockers):
            began = time.monotonic()
            everyone = await self._arrive(callers, plan.waiting)
            arrived_s = time.monotonic() - began
            during_mb = processes.pss_mb(self._stack.services())
            cpu_us, began = processes.cpu_us(self._stack.services()), time.monotonic()
            await asyncio.sleep(min(_CPU_S, plan.wait_max_s / 20))
            after_us, waited_s = processes.cpu_us(self._stack.services()), time.monotonic() - began
            freed_at = time.time()
            _cancel(blockers)
            answers = await asyncio.gather(*everyone)
            took_s = time.time() - freed_at
        rows, records = await self._ended(callers)
        served = [each for each in records if each["finished"] == "complete"]
        return {
            "callers": plan.waiting,
            "tenants": len(self._keys),
            "arrived_s": arrived_s,
            "kib_per_caller": {
                service: (during_mb[service] - size) * 1e6 / 1024 / plan.waiting for service, size in before_mb.items()
            },
            "cpu_share": {service: (after_us[service] - spent) / 1e6 / waited_s for service, spent in cpu_us.items()},
            "gap_s": summary(gaps_s(spans(records), SLOTS)),
            "took_s": took_s,
            "served_per_s": len(served) / (max(each["ended_at"] for each in served) - freed_at),
            **self._ends(answers, callers.sent, rows, records),
            "slots_usable": await self._usable_slots(),
        }

    async def _ended(self, callers: Callers) -> tuple[list[Document], list[Document]]:
        """The rows and the backend's records of all requests of `callers`, once they have ended."""
        await self._stores.wait_until_idle()
        rows = await self._stores.rows(callers.name, callers.sent)
        return rows, self._backend.records({row["request_id"] for row in rows})

    def _ends(
        self, answers: Sequence[Answer], sent: int, rows: Sequence[Document], records: Sequence[Document]
    ) -> Document:
        """How the requests ended: what the callers got, and what the rows and the backend have of them."""
        codes = {row["request_id"]: row["code"] for row in rows}
        return {
            "statuses": _statuses(answers),
            "denied_without_retry_after": sum(not answer.has_retry_after for answer in answers if answer.status != 200),
            "rows": len(rows),
            "sent": sent,
            "rows_per_request_max": max(Counter(row["request_id"] for row in rows).values()),
            "rows_with_other_code": sum(codes.get(answer.request_id) != answer.code for answer in answers),
            "runs_per_request_max": max(Counter(each["headers"]["x-request-id"] for each in records).values()),
            "most_at_once": most_at_once(spans(records)),
            "slots": self._backend.slots,
        }

    @asynccontextmanager
    async def _blocked(self, name: str) -> AsyncIterator[tuple[Callers, list[asyncio.Task[Answer]]]]:
        """Callers of this name, and requests that occupy all slots."""
        async with open_callers(self._stack.url, name) as callers:
            blockers = [
                asyncio.create_task(callers.chat(self._keys[number % len(self._keys)], MODEL, words))
                for number, words in enumerate([_BLOCKER_WORDS] * SLOTS)
            ]

            async def are_blocked() -> bool:
                return self._backend.running() == SLOTS

            await until(are_blocked, "the slots do not fill")
            yield callers, blockers
            await asyncio.gather(*blockers, return_exceptions=True)

    async def _arrive(self, callers: Callers, count: int) -> list[asyncio.Task[Answer]]:
        """Sends requests evenly over all tenants, and waits until all of them wait."""
        arrived: list[asyncio.Task[Answer]] = []
        for number in range(count):
            key = self._keys[number % len(self._keys)]
            arrived.append(asyncio.create_task(callers.chat(key, MODEL, WORDS)))
            await asyncio.sleep(1 / self._plan.arrivals_per_s)
        await self._all_wait(arrived)
        return arrived

    async def _all_wait(self, work: Sequence[asyncio.Task[Answer]]) -> None:
        """Waits until exactly these requests wait, without those that were denied."""

        async def reached() -> bool:
            return len((await self._stores.queue()).tickets) == sum(not each.done() for each in work)

        await until(reached, f"never {len(work)} requests waited")

    async def _usable_slots(self) -> int:
        """The number of requests that run at the same time now."""
        async with open_callers(self._stack.url, "fairness-after") as callers:
            work = [asyncio.create_task(callers.chat(self._keys[0], MODEL, WORDS)) for _ in range(2 * SLOTS)]
            answers = await asyncio.gather(*work)
        return most_at_once(spans(self._backend.records({answer.request_id for answer in answers})))


def _cancel(tasks: Sequence[asyncio.Task[Answer]]) -> None:
    for each in tasks:
        each.cancel()


def _statuses(answers: Sequence[Answer]) -> dict[str, int]:
    return dict(Counter(f"{answer.status} {answer.code}" if answer.code else f"{answer.status}" for answer in answers))
