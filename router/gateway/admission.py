"""The door (R 6.2): how many requests may be in flight, who waits, in which order, and who is sent away with 429.

Two bounds: `max_in_flight` places in all, and room on the replicas of the request's lane. A lane is whatever shares
replicas, in practice a model name; the room of a lane is told by a callable, so that the door knows no replica. What
was let in but is not yet on a replica's ledger (`Place.started`) counts against every lane's room: between being woken
and deciding, a request must not lose its slot to a newcomer.

Order is strict within a lane: nobody overtakes. Across lanes the longest waiting whose lane has room goes first, so a
model whose replicas are all busy does not stop the others. No wake-up is lost because of one invariant: *after every
call no waiting request could be let in*. Whatever makes room calls `_let_in`: a place left, a place started, a `nudge`
from whoever closed a ledger entry without leaving its place (a retry), or brought a replica back. So does whoever joins
the end of a line.

A waiting request's future is settled exactly once, by whoever comes first: let in, timed out, or cancelled because the
client hung up. One that was let in and cancelled in the same turn of the loop gives its place back.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from router.clock import Clock
from router.errors import Overloaded

# How long a completion counts towards the drain rate: long enough for slow models, short enough to follow a crash.
DRAIN_MEMORY_SECONDS = 30.0

# The longest wait we ask of a client: beyond a minute the rate we saw says nothing.
LONGEST_RETRY_AFTER_SECONDS = 60.0

FreeSlots = Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    max_in_flight: int = 4096
    queue_length: int = 1024  # requests waiting, all lanes together
    queue_wait_seconds: float = 30.0
    # While fewer than one replica may have are in flight in all, none can be full, and the room need not be counted.
    most_per_replica: int = 0


class DrainRate:
    """Completions per second, with a memory that fades exponentially. Pure."""

    def __init__(self, now_seconds: float, memory_seconds: float = DRAIN_MEMORY_SECONDS) -> None:
        self._memory_seconds = memory_seconds
        self._began_at_seconds = now_seconds
        self._as_of_seconds = now_seconds
        self._completions = 0.0  # faded

    def completed(self, now_seconds: float) -> None:
        self._completions = self._faded(now_seconds) + 1.0
        self._as_of_seconds = now_seconds

    def per_second(self, now_seconds: float) -> float:
        # Of a young rate only the part of its memory that has passed is divided by, or it would look slow for a minute.
        seen_seconds = self._memory_seconds * -math.expm1((self._began_at_seconds - now_seconds) / self._memory_seconds)
        return self._faded(now_seconds) / max(seen_seconds, 1.0)

    def _faded(self, now_seconds: float) -> float:
        return self._completions * math.exp((self._as_of_seconds - now_seconds) / self._memory_seconds)


def retry_after_seconds(ahead: int, completions_per_second: float) -> float:
    """Whole seconds until `ahead` requests and one more have drained; at least 1, at most a minute."""
    if completions_per_second * LONGEST_RETRY_AFTER_SECONDS <= ahead + 1:
        return LONGEST_RETRY_AFTER_SECONDS
    return float(max(1, math.ceil((ahead + 1) / completions_per_second)))


class Place:
    """One request let in. Leaving twice is leaving once. As a context manager it leaves at the end, however."""

    __slots__ = ("_door", "_left", "_started")

    def __init__(self, door: Admission) -> None:
        self._door = door
        self._started = False
        self._left = False

    def started(self) -> None:
        """The request is on a replica's ledger now, where its lane's room counts it. The first call counts."""
        if not self._started:
            self._started = True
            self._door._place_started()

    def leave(self) -> None:
        """Give the place back. Close the ledger entry first, so that its room is seen."""
        if not self._left:
            self._left = True
            self._door._place_left(was_started=self._started)
            self._started = True

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()


class Admission:
    """Places and the queue for them. Everything but the wait in `enter` is one synchronous stretch.

    `room(lane)`: free slots of the lane's replicas by the ledger, at this moment; None when nothing bounds the lane or
    nobody could serve it now (all down): then waiting helps nobody, and the decider refuses with the right error. It
    must not raise. `room.Room` is the one in use. `elsewhere()`: requests that other routers have open, which take room
    as ours do; `nudge` when there are fewer.
    """

    def __init__(
        self, limits: AdmissionLimits, clock: Clock, room: FreeSlots, elsewhere: Callable[[], int] = lambda: 0
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._room = room
        self._elsewhere = elsewhere
        self._drain = DrainRate(clock.now())
        self._in_flight = 0
        self._starting = 0  # let in, not yet on a ledger
        self._lanes: dict[str, OrderedDict[int, asyncio.Future[Place]]] = {}  # ticket -> who waits; no empty lanes
        self._waiting = 0
        self._next_ticket = 0

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def waiting(self) -> int:
        return self._waiting

    async def enter(self, lane: str) -> Place:
        """A place, at once or after waiting in line. O(1), but for one look at each other lane that waits.

        Raises Overloaded (with Retry-After) when the queue is full or the wait was too long.
        """
        if lane not in self._lanes and self._has_room(lane):
            return self._give_place()
        if self._waiting >= self._limits.queue_length or self._limits.queue_wait_seconds <= 0:
            raise self._overloaded("The queue is full" if self._limits.queue_length else "All places are taken")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Place] = loop.create_future()
        ticket = self._next_ticket
        self._next_ticket += 1
        self._lanes.setdefault(lane, OrderedDict())[ticket] = future
        self._waiting += 1
        timer = loop.call_later(self._limits.queue_wait_seconds, self._give_up, lane, ticket)
        self._let_in()
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._step_out(lane, ticket)
            elif future.exception() is None:
                future.result().leave()
            raise
        finally:
            timer.cancel()

    def heed(self, limits: AdmissionLimits) -> None:
        """Other limits from now on. Whoever is in stays in, whoever waits goes on waiting, as long as it was told."""
        self._limits = limits
        self._let_in()

    def nudge(self) -> None:
        """Room may have appeared without a place being left: a replica came back, a retry or another router freed
        one."""
        self._let_in()

    def _has_room(self, lane: str) -> bool:
        if self._in_flight >= self._limits.max_in_flight:
            return False
        if self._in_flight + self._elsewhere() < self._limits.most_per_replica:
            return True
        room = self._room(lane)
        return room is None or room > self._starting

    def _give_place(self) -> Place:
        self._in_flight += 1
        self._starting += 1
        return Place(self)

    def _let_in(self) -> None:
        """Let in, oldest first, every waiting request whose lane has room."""
        while self._waiting and self._in_flight < self._limits.max_in_flight:
            heads = ((next(iter(line)), lane) for lane, line in self._lanes.items() if self._has_room(lane))
            ticket, lane = min(heads, default=(-1, ""))
            if ticket < 0:
                return
            future = self._lanes[lane][ticket]
            self._step_out(lane, ticket)
            if not future.done():  # done: cancelled in this very turn of the loop, its task not yet resumed
                future.set_result(self._give_place())

    def _step_out(self, lane: str, ticket: int) -> None:
        line = self._lanes.get(lane)
        if line is not None and line.pop(ticket, None) is not None:
            self._waiting -= 1
            if not line:
                del self._lanes[lane]

    def _give_up(self, lane: str, ticket: int) -> None:
        line = self._lanes.get(lane)
        future = None if line is None else line.get(ticket)
        if future is not None and not future.done():
            self._step_out(lane, ticket)
            future.set_exception(self._overloaded(f"No place came free in {self._limits.queue_wait_seconds:g} s"))

    def _overloaded(self, why: str) -> Overloaded:
        wait = retry_after_seconds(self._waiting, self._drain.per_second(self._clock.now()))
        return Overloaded(
            f"{why}: {self._in_flight} requests in flight, {self._waiting} waiting. Retry in {wait:g} s.",
            retry_after_seconds=wait,
        )

    def _place_started(self) -> None:
        self._starting -= 1
        self._let_in()

    def _place_left(self, *, was_started: bool) -> None:
        self._in_flight -= 1
        if not was_started:
            self._starting -= 1
        self._drain.completed(self._clock.now())
        self._let_in()
