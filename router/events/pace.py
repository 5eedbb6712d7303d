"""Keeps the hearing of events from holding up the event loop: short slices, in turn, for all streams together.

Applying a batch is plain computing; a replay brings thousands. Whoever is about to do a small piece of such work calls
`breathe` first. All callers together get `slice_seconds` of one turn of the loop; then each waits for its own turn,
first come first served, so that a long replay of one replica does not starve the live events of another.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Pace:
    """Mutable; for the tasks of one event loop."""

    def __init__(self, slice_seconds: float = 0.002) -> None:
        self._slice_seconds = slice_seconds
        self._until_seconds = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def breathe(self) -> None:
        """Return at once while there is time left in this turn, else when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._until_seconds and not self._waiting:
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._next, loop)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._until_seconds = loop.time() + self._slice_seconds
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else its task was cancelled meanwhile
                turn.set_result(None)
                break
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            loop.call_soon(self._next, loop)
