import asyncio

from ops.simulator.scheduling.slots import Slots


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class _Visitor:
    """A task that takes a slot and leaves it when `leave` is called."""

    def __init__(self, slots: Slots, admitted: list[int], number: int) -> None:
        self._done = asyncio.Event()
        self._slots = slots
        self.task = asyncio.create_task(self._visit(admitted, number))

    async def _visit(self, admitted: list[int], number: int) -> None:
        async with self._slots.take():
            admitted.append(number)
            await self._done.wait()

    def finish(self) -> None:
        self._done.set()

    async def leave(self) -> None:
        self.finish()
        await self.task


async def test_waiting_requests_are_admitted_in_order_of_arrival() -> None:
    slots, admitted = Slots(lambda: 2), list[int]()
    visitors = [_Visitor(slots, admitted, number) for number in range(5)]
    await _settle()
    assert (admitted, slots.taken, slots.waiting) == ([0, 1], 2, 3)
    for visitor in visitors:
        await visitor.leave()
        await _settle()
    assert admitted == [0, 1, 2, 3, 4]
    assert (slots.taken, slots.waiting) == (0, 0)


async def test_a_cancelled_request_leaves_the_line_or_its_slot() -> None:
    slots, admitted = Slots(lambda: 1), list[int]()
    visitors = [_Visitor(slots, admitted, number) for number in range(4)]
    await _settle()
    visitors[1].task.cancel()
    await _settle()
    assert slots.waiting == 2
    # The slot is handed to the third request, which is cancelled before it runs.
    visitors[0].task.cancel()
    await asyncio.sleep(0)
    visitors[2].task.cancel()
    await _settle()
    assert (admitted, slots.taken, slots.waiting) == ([0, 3], 1, 0)
    await visitors[3].leave()
    assert slots.taken == 0


async def test_a_request_that_is_cancelled_while_a_slot_becomes_free_is_passed_over() -> None:
    slots, admitted = Slots(lambda: 1), list[int]()
    visitors = [_Visitor(slots, admitted, number) for number in range(3)]
    await _settle()
    visitors[0].finish()
    visitors[1].task.cancel()
    await _settle()
    assert visitors[1].task.cancelled()
    assert (admitted, slots.taken, slots.waiting) == ([0, 2], 1, 0)
    await visitors[2].leave()


async def test_the_number_of_slots_changes_while_they_are_in_use() -> None:
    limit = 1
    slots, admitted = Slots(lambda: limit), list[int]()
    visitors = [_Visitor(slots, admitted, number) for number in range(3)]
    await _settle()
    assert admitted == [0]
    limit = 0
    slots.admit()
    await _settle()
    assert admitted == [0, 1, 2]
    for visitor in visitors:
        await visitor.leave()
