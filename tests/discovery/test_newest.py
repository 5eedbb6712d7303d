"""The way from a thread into the loop."""

from __future__ import annotations

import asyncio
import threading

from router.discovery.newest import Newest


async def test_of_what_a_thread_puts_faster_than_it_is_fetched_only_the_newest_is_told() -> None:
    box: Newest[int] = Newest()

    def put_all() -> None:
        for number in range(1000):
            box.put(number)

    thread = threading.Thread(target=put_all)
    thread.start()
    thread.join()
    await asyncio.sleep(0)  # the loop takes what was put, all at once
    assert await box.get() == 999
    box.put(1000)
    assert await box.get() == 1000


def test_what_is_put_after_the_loop_is_closed_is_nobodys_business() -> None:
    async def made() -> Newest[int]:
        return Newest()

    asyncio.run(made()).put(1)
