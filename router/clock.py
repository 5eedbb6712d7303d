"""Where time comes from. Pure rooms take `now_seconds` as an argument; edges hold one of these."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds as floats. `now` never goes back and means nothing outside the process; `wall` is Unix time."""

    def now(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class ManualClock:
    """A clock that moves only when told to. For tests and virtual time."""

    def __init__(self, now_seconds: float = 0.0, wall_seconds: float = 1_700_000_000.0) -> None:
        self._now = now_seconds
        self._wall = wall_seconds

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._wall += seconds
