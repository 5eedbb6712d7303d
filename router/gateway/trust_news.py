"""Says each change of a replica's trust; a fall with its cause, and so a moment later, when that is sure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from router.fleet.replica import Seat
from router.gateway.misses import SETTLE_SECONDS
from router.index.base import Trust
from router.index.suspicion import Suspicion

# After the causes of the misses that brought trust down are settled.
TELL_AFTER_SECONDS = SETTLE_SECONDS + 0.1


@dataclass(frozen=True, slots=True)
class _Fall:
    due_seconds: float
    seat: Seat
    line: str


class TrustNews:
    """`name` gives a replica's id, `say` prints a line. `beat` is to be called a few times a second."""

    def __init__(
        self, name: Callable[[Seat], str], suspicion: Callable[[Seat], Suspicion | None], say: Callable[[str], None]
    ) -> None:
        self._name = name
        self._suspicion = suspicion
        self._say = say
        self._falls: deque[_Fall] = deque()

    def changed(self, seat: Seat, before: Trust, now: Trust, now_seconds: float) -> None:
        if (before, now) == (Trust.GUESSED, Trust.LOAD_ONLY):
            return  # a story begins; the next change tells how it went
        line = f"{self._name(seat)}: trust {before.name} -> {now.name}"
        if now < before:
            self._falls.append(_Fall(now_seconds + TELL_AFTER_SECONDS, seat, line))
            return
        self.beat(float("inf"))  # in the order in which it happened
        self._say(line)

    def beat(self, now_seconds: float) -> None:
        """Tell the falls whose cause must be known by now."""
        while self._falls and self._falls[0].due_seconds <= now_seconds:
            fall = self._falls.popleft()
            found = self._suspicion(fall.seat)
            self._say(fall.line if found is None else f"{fall.line}: {found.cause.value}: {found.says}")
