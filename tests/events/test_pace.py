from __future__ import annotations

import asyncio

import pytest

from router.events.pace import Pace


async def test_with_the_time_spent_everybody_gets_a_turn_of_the_loop_in_order() -> None:
    pace = Pace(slice_seconds=0.0)
    order: list[str] = []

    async def work(name: str) -> None:
        for _ in range(3):
            await pace.breathe()
            order.append(name)

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(work(name))
    assert order == ["a", *"abcabc", *"bc"]  # the first found the turn untouched


async def test_within_the_slice_nobody_waits() -> None:
    pace = Pace(slice_seconds=60.0)
    await pace.breathe()
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    for _ in range(100):
        await pace.breathe()
    assert turns == []


async def test_who_comes_to_an_untouched_turn_begins_at_once() -> None:
    pace = Pace(slice_seconds=0.0)
    for _ in range(3):
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        await pace.breathe()
        assert turns == []
        await asyncio.sleep(0)  # the loop comes round


async def test_a_cancelled_waiter_does_not_keep_the_others_waiting() -> None:
    pace = Pace(slice_seconds=0.0)
    at_once, first, second = (asyncio.ensure_future(pace.breathe()) for _ in range(3))
    await asyncio.sleep(0)
    assert at_once.done()
    first.cancel()
    async with asyncio.timeout(5):
        await second
    with pytest.raises(asyncio.CancelledError):
        await first
