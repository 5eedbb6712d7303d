"""Requests that decode, as one: nothing is done for each of them in each step.

A rider takes one token a step and has room for the next ones, so all that happens to it can be foretold: at which step
its answer ends, or a block of it is full. `Riders` counts steps (ticks), and gives back those whose step has come.
Until then a rider's own counts are those of the tick it was last counted at.

A `Stride` is several equal steps taken as one, while nobody is due.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(slots=True, eq=False, kw_only=True)
class Rider:
    """What changes in a request with each step that decodes it."""

    known: int  # tokens of prompt and answer so far
    computed: int = 0  # of them with KV
    answered: int = 0
    order: int = 0  # of being let in
    counted: int = 0  # while riding: the tick up to which the counts above are
    due: int | None = None  # the tick at which to look at it again; None: it does not ride

    def count(self, tick: int) -> None:
        """Bring a rider's counts up to this tick."""
        passed = tick - self.counted
        self.computed += passed
        self.known += passed
        self.answered += passed
        self.counted = tick


R = TypeVar("R", bound=Rider)


class Riders(Generic[R]):
    """Those of one engine."""

    def __init__(self) -> None:
        self.count = 0
        self.context_tokens = 0  # computed, of all of them
        self.tick = 0  # steps so far in which there were any
        self._due: list[tuple[int, int, R]] = []  # a heap by tick and order; some in it no longer ride

    def mount(self, rider: R, steps: int) -> None:
        """It rides for so many steps, at least one."""
        rider.counted, rider.due = self.tick, self.tick + steps
        heapq.heappush(self._due, (rider.due, rider.order, rider))
        self.count += 1
        self.context_tokens += rider.computed

    def dismount(self, rider: R) -> None:
        """Its counts are right from now on. Nothing to one that does not ride."""
        if rider.due is not None:
            rider.count(self.tick)
            rider.due = None
            self.count -= 1
            self.context_tokens -= rider.computed

    def free_steps(self) -> int:
        """Steps until somebody is due; some must ride."""
        while self._due[0][2].due != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] - self.tick

    def advance(self, steps: int) -> list[R]:
        """So many steps are done, no more than are free: those who are due, dismounted, in order."""
        arrived: list[R] = []
        if not self.count:
            return arrived
        self.tick += steps
        self.context_tokens += self.count * steps
        while self.count and not self.free_steps():
            rider = heapq.heappop(self._due)[2]
            self.dismount(rider)
            arrived.append(rider)
        return arrived


@dataclass(frozen=True, slots=True)
class Stride:
    """Steps taken as one. Step k of them, counted from 0, lasts `first_seconds + k * longer_seconds`."""

    began: float
    steps: int
    first_seconds: float
    longer_seconds: float

    def seconds(self, steps: int) -> float:
        return steps * (self.first_seconds + 0.5 * (steps - 1) * self.longer_seconds)

    def steps_begun_by(self, now: float) -> int:
        """The number of steps once the one that runs at `now` has ended; a step that ends now has ended."""
        passed, flat, growing = now - self.began, self.first_seconds - 0.5 * self.longer_seconds, self.longer_seconds
        steps = passed / flat if growing == 0 else (math.sqrt(flat * flat + 2 * growing * passed) - flat) / growing
        return min(self.steps, max(1, math.ceil(steps - 1e-9)))
