"""Keeps the hearing of events from holding up the event loop: short slices, in turn, for all streams together.

Applying a batch is plain computing; a replay brings thousands. Whoever is about to do a small piece of such work calls
`breathe` first. All callers together get `slice_seconds` of one turn of the loop; then each waits for its own turn,
first come first served, so that a long replay of one replica does not starve the live events of another.

Who finds the turn untouched begins at once; a slice begins when its owner runs, and is measured in the thread's own CPU
time. A live event that waited for the loop to come round would lose to the request that arrived with it: on a machine
short of CPU, where a turn takes a tenth of a second, a replica was thus seen as it had been a second before.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque


class Pace:
    """Mutable; for the tasks of one event loop."""

    def __init__(self, slice_seconds: float = 0.002) -> None:
        self._slice_seconds = slice_seconds
        self._until_seconds = 0.0
        self._untouched = True  # this turn of the loop: nobody has had a slice of it yet
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def breathe(self) -> None:
        """Return at once while there is time left in this turn, else when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            if time.thread_time() < self._until_seconds:
                return
            if self._untouched:
                self._begin(loop)
                return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next, loop)
        await turn
        self._begin(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._until_seconds = time.thread_time() + self._slice_seconds
        self._untouched = False
        loop.call_soon(self._turned)

    def _turned(self) -> None:
        self._untouched = True

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else its task was cancelled meanwhile
                turn.set_result(None)
                break
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            loop.call_soon(self._next, loop)
