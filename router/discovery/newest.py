"""The way from a thread into the event loop for things of which only the newest matters.

It holds one: a newer one takes the place of one that was not fetched yet. So it is bounded, the thread never waits for
the loop, and nothing is lost, as long as each is whole by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """Made and read in the loop; `put` from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._there = asyncio.Event()
        self._held: list[T] = []

    def put(self, one: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody will ask
            self._loop.call_soon_threadsafe(self._take, one)

    async def get(self) -> T:
        await self._there.wait()
        self._there.clear()
        return self._held.pop()

    def _take(self, one: T) -> None:
        self._held[:] = [one]
        self._there.set()
