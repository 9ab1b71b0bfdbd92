"""One read of the queue for all requests of a second, and what happens to the others when it fails or one leaves."""

from __future__ import annotations

import asyncio
import gc

import pytest

from authz.catalog.queue_view import AGE_MAX_S, QueueView
from gateway.errors import StoreUnavailable
from gateway.queue.port import QueueStatus, TenantStatus


class Source:
    """A queue whose state names the number of the read. A read ends when `opened` is set, and fails with `failure`."""

    def __init__(self) -> None:
        self.reads = 0
        self.monotonic_s = 100.0
        self.opened = asyncio.Event()
        self.opened.set()
        self.failure: Exception | None = None

    async def read(self) -> QueueStatus:
        self.reads += 1
        number = self.reads
        await self.opened.wait()
        if self.failure is not None:
            raise self.failure
        return QueueStatus({}, {1: TenantStatus(number, 0, 0.0)}, ())

    def view(self, read_timeout_s: float = 60.0) -> QueueView:
        return QueueView(self.read, lambda: self.monotonic_s, read_timeout_s)


def number_of(status: QueueStatus) -> int:
    """The number of the read that returned this state."""
    return status.tenants[1].running


async def turn() -> None:
    """Lets every task run up to its next wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_requests_within_a_second_share_one_read_and_a_later_one_reads_again() -> None:
    source = Source()
    view = source.view()
    assert {number_of(each) for each in await asyncio.gather(*(view.current() for _ in range(100)))} == {1}
    source.monotonic_s += AGE_MAX_S / 2
    assert number_of(await view.current()) == 1
    source.monotonic_s += AGE_MAX_S / 2
    assert number_of(await view.current()) == 2
    assert source.reads == 2


async def test_a_read_that_takes_longer_than_a_second_is_not_joined_by_another() -> None:
    source = Source()
    source.opened.clear()
    view = source.view()
    first = asyncio.create_task(view.current())
    await turn()
    source.monotonic_s += 5 * AGE_MAX_S
    second = asyncio.create_task(view.current())
    await turn()
    assert source.reads == 1
    source.opened.set()
    assert [number_of(each) for each in await asyncio.gather(first, second)] == [1, 1]
    assert number_of(await view.current()) == 2


async def test_a_caller_that_leaves_ends_the_read_of_no_other() -> None:
    source = Source()
    source.opened.clear()
    view = source.view()
    leaves, stays = (asyncio.create_task(view.current()) for _ in range(2))
    await turn()
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    source.opened.set()
    assert number_of(await stays) == 1
    assert source.reads == 1


async def test_a_failure_reaches_every_caller_of_its_second_and_the_next_read_may_succeed() -> None:
    source = Source()
    source.failure = StoreUnavailable("Redis did not answer in time")
    view = source.view()
    ended = await asyncio.gather(*(view.current() for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in ended] == [StoreUnavailable] * 3
    source.failure = None
    with pytest.raises(StoreUnavailable):
        await view.current()
    source.monotonic_s += AGE_MAX_S
    assert number_of(await view.current()) == 2


async def test_a_read_without_an_end_is_unavailable_after_its_deadline() -> None:
    source = Source()
    source.opened.clear()
    with pytest.raises(StoreUnavailable, match="in time"):
        await source.view(read_timeout_s=0.01).current()


async def fail_after_every_caller_has_left() -> None:
    source = Source()
    source.opened.clear()
    source.failure = StoreUnavailable("Redis did not answer in time")
    leaves = asyncio.create_task(source.view().current())
    await turn()
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    source.opened.set()
    await turn()


async def test_a_failure_after_every_caller_has_left_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    await fail_after_every_caller_has_left()
    # asyncio logs a failure that nothing retrieved when its task is collected.
    gc.collect()
    assert caplog.records == []


async def test_closing_ends_a_read() -> None:
    source = Source()
    source.opened.clear()
    view = source.view()
    waits = asyncio.create_task(view.current())
    await turn()
    await view.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waits
