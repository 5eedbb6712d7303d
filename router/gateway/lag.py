"""How late the event loop runs: the one number that tells whether anything blocks it."""

from __future__ import annotations

import asyncio
from collections import deque

BEAT_SECONDS = 0.02
SHOWN_SECONDS = 15.0  # a usual scrape interval: no stall falls between two scrapes


class LoopLag:
    """`worst_seconds` is the longest delay of a timer in the last 15 s."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque()  # (when, how late), how late falling: the worst is in front

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            now = loop.time()
            self.note(now, max(0.0, now - due))

    def worst_seconds(self) -> float:
        return self._late[0][1] if self._late else 0.0

    def note(self, now: float, late_seconds: float) -> None:
        while self._late and self._late[-1][1] <= late_seconds:
            self._late.pop()
        self._late.append((now, late_seconds))
        while now - self._late[0][0] > SHOWN_SECONDS:
            self._late.popleft()
