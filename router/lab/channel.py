"""What carries the messages between routers in virtual time: the packed bytes that would go through Redis, as late.

Each router speaks as often as a live one, none at the same moment as another, and hears itself as little.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count

from router.lab.brain import Brain
from router.sharing.message import unpack
from router.sharing.side import SWEEP_SECONDS, TELL_SECONDS, Side


class Channel:
    """Mutable. `messages` and `bytes_told` are of all routers together, each message counted once."""

    def __init__(self, brains: Sequence[Brain], delay_seconds: float) -> None:
        self.messages = 0
        self.bytes_told = 0
        self._delay_seconds = delay_seconds
        self._sides = [brain.side(f"router-{number}", "1") for number, brain in enumerate(brains)]
        self._order = count()
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        for number, side in enumerate(self._sides):
            self._speak(side, number * TELL_SECONDS / len(self._sides))
            self._sweep(side, number * SWEEP_SECONDS / len(self._sides))

    def advance(self, now_seconds: float) -> float:
        """All that is due by now. Returns when the next is."""
        while self._due[0][0] <= now_seconds:
            at, _, happen = heapq.heappop(self._due)
            happen(at)
        return self._due[0][0]

    def _speak(self, side: Side, at_seconds: float) -> None:
        def happen(now: float) -> None:
            message = side.tell(now)
            if message is not None:
                self.messages += 1
                self.bytes_told += len(message)
                self._at(now + self._delay_seconds, lambda later: self._come(message, later))
            self._speak(side, now + TELL_SECONDS)

        self._at(at_seconds, happen)

    def _come(self, message: bytes, now: float) -> None:
        for side in self._sides:
            side.take(unpack(message), now)

    def _sweep(self, side: Side, at_seconds: float) -> None:
        def happen(now: float) -> None:
            side.sweep(now)
            self._sweep(side, now + SWEEP_SECONDS)

        self._at(at_seconds, happen)

    def _at(self, at_seconds: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._due, (at_seconds, next(self._order), happen))
