"""Faults while requests wait for a slot after they failed over, and in the back-off of a busy server.

Each test brings requests into both states, and others into the queue, and causes one fault on the running stack.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from gateway.queue.port import QueueStatus
from tests.e2e.ledger_view import LedgerView, open_ledger_view
from tests.e2e.load import CallResult, client
from tests.e2e.queue_crowd import (
    BROKEN,
    REFUSED,
    SERVED,
    Crowd,
    QueueView,
    Record,
    check_rows,
    check_runs,
    end_of,
    ids_of,
    most_at_once,
    running_at,
    waiting_for,
)
from tests.e2e.stack import PATIENT, Simulator, Stack, simulator, up
from tests.polling import eventually_async
from tests.ports import free_port

# Requests for the first model fail at `broken` and wait for `spare`. The server of the second one is busy.
MOVES, BUSY = "moves", "busy"
SLOTS = {"broken": 1, "spare": 1, "busy": 2}
MODELS = {"broken": MOVES, "spare": MOVES, "busy": BUSY}
SPARE_CLUSTER, BUSY_CLUSTER = "backend:spare", "backend:busy"
PACE_TOKENS_PER_S = 50
WORDS = 5
# Until its caller leaves.
LONG_WORDS = 4000
MOVING, WAITING = 3, 2
SERVER_BUSY = {"kind": "status", "status": 503}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Fault:
    """A signal to some processes, or without one the loss of all data of Redis.

    `breaks`: a request that reached a backend may break off or get a 503. `denies`: one that waits for its first slot
    may get a 503. `keeps_count`: a request never runs without its turn. `restores`: the
    requests that run take their slots again, and those that wait their places.
    """

    name: str
    number: signal.Signals | None = None
    processes: tuple[str, ...] = ()
    breaks: bool = False
    denies: bool = True
    keeps_count: bool = True
    restores: bool = False


FAULTS = (
    Fault("authz killed", signal.SIGKILL, ("authz-0",)),
    Fault("meter killed", signal.SIGKILL, ("meter-0",), breaks=True, keeps_count=False),
    Fault("Redis restarts", signal.SIGTERM, ("redis",), restores=True),
    Fault("Redis loses its data", keeps_count=False, restores=True),
    Fault("workers stop", signal.SIGTERM, ("authz-0", "meter-0"), denies=False),
)


@dataclass(frozen=True)
class Bench:
    """The stack, its backends by name, what its queue and its ledger have, and a key."""

    stack: Stack
    backends: dict[str, Simulator]
    queue: QueueView
    ledger_view: LedgerView
    key: str

    async def cause(self, fault: Fault) -> set[int]:
        """Causes a fault. Returns the ids of the processes that end."""
        if fault.number is None:
            await self.ledger_view.redis.flushall()
            return set()
        ended = {pid for name in fault.processes for pid in self.stack.pids(name)}
        for pid in ended:
            os.kill(pid, fault.number)
        return ended

    def records(self, *names: str) -> list[Record]:
        """What these backends received."""
        return [record for name in names for record in self.backends[name].requests()]

    def refused(self) -> set[str]:
        """The ids of the requests that the busy server has refused."""
        return set(ids_of(record for record in self.records("busy") if record["status"] == 503))


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, Simulator]]:
    with ExitStack() as running:
        pace = ("--tokens-per-s", str(PACE_TOKENS_PER_S))
        yield {
            name: running.enter_context(simulator(*pace, "--num-parallel", str(slots), "--models", MODELS[name]))
            for name, slots in SLOTS.items()
        }


@pytest.fixture(scope="module")
def stack(backends: dict[str, Simulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    entries = [{"name": name, "base_url": each.url, "slots": SLOTS[name]} for name, each in backends.items()]
    with up(
        tmp_path_factory.mktemp("queue-faults") / "state",
        *("--listen", f"127.0.0.1:{free_port()}", "--workers", "2"),
        OLLAMA_BACKENDS=json.dumps(entries),
        # The slots of a killed meter's requests are usable after it.
        HOLD_LEASE_S="4",
        **PATIENT,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    return stack.new_key("waits")


@pytest_asyncio.fixture(loop_scope="module")
async def bench(stack: Stack, backends: dict[str, Simulator], key: str) -> AsyncIterator[Bench]:
    async with open_ledger_view(stack) as ledger_view:
        for backend in backends.values():
            backend.clear_records()
        backends["broken"].behave(faults=[{"kind": "reset"}])
        backends["busy"].behave(faults=[SERVER_BUSY])
        yield Bench(stack, backends, QueueView(ledger_view), ledger_view, key)
        for backend in backends.values():
            backend.behave()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_while_requests_wait_for_a_backend_loses_no_slot_and_no_request(
    bench: Bench, fault: Fault
) -> None:
    async with client(bench.stack.url, fault.name) as session:
        crowd = Crowd(session, [bench.key])
        long = crowd.send(LONG_WORDS, MOVES)
        at_busy = [crowd.send(WORDS, BUSY) for _ in range(SLOTS["busy"] + WAITING)]
        await bench.queue.wait_for(lambda status: running_at(status, SPARE_CLUSTER) == 1, "nothing failed over")
        moving = [crowd.send(WORDS, MOVES) for _ in range(MOVING)]
        await bench.queue.wait_for(
            lambda status: (waiting_for(status, SPARE_CLUSTER), waiting_for(status, BUSY_CLUSTER)) == (MOVING, WAITING),
            "the requests do not wait",
        )
        refused = await eventually_async(
            lambda: found if len(found := bench.refused()) == SLOTS["busy"] else None, failure="nothing is refused"
        )
        bench.backends["busy"].clear_records()
        ended = await bench.cause(fault)
        refused_again: set[str] = set()

        def all_refused() -> bool:
            """Whether all slots of the busy server are in use, if there are still requests for it."""
            refused_again.update(found := bench.refused())
            return len(found) >= min(SLOTS["busy"], sum(not each.done() for each in at_busy))

        def restored(status: QueueStatus) -> bool:
            """Whether those with a slot have it in the queue, and the others for the busy server still wait."""
            waiting = sum(not each.done() for each in at_busy) - SLOTS["busy"]
            return (running_at(status, BUSY_CLUSTER), waiting_for(status, BUSY_CLUSTER)) == (SLOTS["busy"], waiting)

        await eventually_async(all_refused, 40, failure="a slot of the busy server is not used")
        if fault.restores:
            bench.backends["busy"].clear_records()
            await bench.queue.wait_for(restored, "requests that run do not have their slots")
            await eventually_async(all_refused, failure="a slot of the busy server is not used")
        assert fault.breaks or refused_again == refused, "a slot was taken twice"
        bench.backends["busy"].behave()
        long.cancel()
        await crowd.wait()
    _check_ends(fault, crowd.results(moving), crowd.results(at_busy), refused)
    await bench.queue.wait_until_idle()
    await check_rows(bench.ledger_view, fault.name, list(crowd.requests.values()))
    at_spare, at_busy_server = bench.records("spare"), bench.records("busy")
    assert len(set(ids_of(at_spare))) == len(at_spare), "a request ran twice"
    check_runs(at_busy_server)
    assert most_at_once(_complete(at_busy_server)) <= SLOTS["busy"]
    assert not fault.keeps_count or most_at_once(_complete(at_spare)) <= SLOTS["spare"]
    await eventually_async(lambda: bench.stack.is_running() and not ended & set(bench.stack.pids("")))


async def test_each_slot_can_be_used_after_all_faults(bench: Bench) -> None:
    bench.backends["broken"].behave()
    bench.backends["busy"].behave()

    async def all_run() -> bool:
        for backend in bench.backends.values():
            backend.clear_records()
        async with client(bench.stack.url, "slots") as session:
            crowd = Crowd(session, [bench.key])
            for model in (MOVES, BUSY):
                for _ in range(4):
                    crowd.send(2 * WORDS, model)
            await crowd.wait()
        most = {name: most_at_once(backend.requests()) for name, backend in bench.backends.items()}
        assert all(most[name] <= slots for name, slots in SLOTS.items()), most
        return all(result.complete for result in crowd.requests.values()) and most == SLOTS

    await eventually_async(all_run, failure="a slot is lost")


def _complete(records: Sequence[Record]) -> list[Record]:
    """The requests with a complete answer. The backend notices only later that the caller of another one has left."""
    return [record for record in records if record["status"] == 200 and record["finished"] == "complete"]


def _check_ends(fault: Fault, moving: Sequence[CallResult], at_busy: Sequence[CallResult], refused: set[str]) -> None:
    """Checks how the requests that failed over, and those for the busy server, ended for their callers."""
    at_backends = {SERVED, REFUSED, BROKEN} if fault.breaks else {SERVED}
    assert {end_of(result) for result in moving} <= at_backends
    assert {end_of(result) for result in at_busy if result.request_id in refused} <= at_backends
    assert {end_of(result) for result in at_busy} <= at_backends | ({REFUSED} if fault.denies else set())
