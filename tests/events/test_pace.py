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
    assert order == list("abc" * 3)


async def test_within_the_slice_nobody_waits() -> None:
    pace = Pace(slice_seconds=60.0)
    await pace.breathe()
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    for _ in range(100):
        await pace.breathe()
    assert turns == []


async def test_a_cancelled_waiter_does_not_keep_the_others_waiting() -> None:
    pace = Pace(slice_seconds=0.0)
    first = asyncio.ensure_future(pace.breathe())
    second = asyncio.ensure_future(pace.breathe())
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(5):
        await second
    with pytest.raises(asyncio.CancelledError):
        await first
