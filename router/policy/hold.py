"""Holding a request back until the replica it would go to can begin with it, and in whose turn.

An engine takes prompts in the order they come, and a long prefill makes everybody behind it wait. So no more is sent
to a replica than keeps it busy: while it has `ahead_tokens` of prefill work, a request that would go there waits here.
When room appears, whoever's turn is next is decided anew, with what the caches and queues have become meanwhile.

Turns are not taken by age alone. A request whose turn is

    its arrival + patience * the seconds its own prefill would take where that is shortest

lets pass whoever needs less and comes soon enough, and nobody who comes later than that: what x seconds of work wait
for others is at most patience * x. At 0 the order is that of arrival. Prompts with a warm cache need less, so they
pass too. Under heavy-tailed prompts this is what keeps most first tokens early when a fleet is nearly full: the work
is the same, but it no longer makes others wait who need a hundredth of it.

Nobody waits longer than `most_seconds`: then the request goes wherever the policy says, room or not. Without `hold`
in a policy every request is sent at once.

Pure: whoever drives it tells the time and calls `advance` when a replica's work has changed.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from router.policy import cost
from router.policy.params import param
from router.policy.split import Decision, Split

T = TypeVar("T")

# Whoever is next may want a replica that is still full while one further back wants the one with room. Each try costs
# a decision, so only so many are refused before the others wait for the next change.
MOST_REFUSALS = 8


@dataclass(frozen=True, slots=True)
class HoldRule:
    ahead_tokens: int = param(8192, least=1)  # vLLM's default step on a large GPU: the next one is there when it ends
    patience: float = param(10.0, least=0.0)
    most_seconds: float = param(60.0, least=0.0)

    def has_room(self, decision: Decision) -> bool:
        """Whether the chosen replica can take the request now; of a split one the donor, whose prefill work is all that
        the prompt waits for: its taker computes nothing."""
        computes = decision.prefill if isinstance(decision, Split) else decision
        return computes.here.queued_tokens < self.ahead_tokens

    def turn_seconds(self, decision: Decision, now_seconds: float) -> float:
        """When its turn is, on the clock of `now_seconds`: later for more work."""
        candidates = decision.candidates
        shortest = float(cost.prefill_seconds(candidates)[candidates.allowed].min())
        return now_seconds + self.patience * shortest


@dataclass(slots=True, eq=False)
class Ticket(Generic[T]):
    """One place in a line. Only the line changes it."""

    item: T | None  # None: it left
    until_seconds: float


class Line(Generic[T]):
    """Those who wait for the replicas of one model. Mutable; not shared between models."""

    def __init__(self) -> None:
        self._by_turn: list[tuple[float, int, Ticket[T]]] = []  # those who left among them, until they come up
        self._by_age: deque[Ticket[T]] = deque()
        self._number = 0
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def join(self, item: T, turn_seconds: float, until_seconds: float) -> Ticket[T]:
        """`until_seconds` is when it goes whatever there is; it must not be before anyone's who joined earlier."""
        ticket = Ticket(item, until_seconds)
        self._number += 1
        self._waiting += 1
        heapq.heappush(self._by_turn, (turn_seconds, self._number, ticket))
        self._by_age.append(ticket)
        return ticket

    def until_at_most(self, until_seconds: float) -> None:
        """Nobody who waits now waits longer than that: whoever joins next may be let go no earlier."""
        for ticket in self._by_age:
            ticket.until_seconds = min(ticket.until_seconds, until_seconds)

    def leave(self, ticket: Ticket[T]) -> None:
        """It no longer waits. Again: nothing."""
        if ticket.item is not None:
            ticket.item = None
            self._waiting -= 1
            if not self._waiting:
                self._by_turn.clear()
                self._by_age.clear()

    def advance(self, now_seconds: float, goes: Callable[[T, bool], bool]) -> None:
        """Let go who can, in turn. `goes(item, forced)` sends it and says so, or refuses; forced it may not refuse."""
        while self._by_age and (self._by_age[0].item is None or self._by_age[0].until_seconds <= now_seconds):
            ticket = self._by_age.popleft()
            if ticket.item is not None:
                item = ticket.item
                self.leave(ticket)
                goes(item, True)
        refused: list[tuple[float, int, Ticket[T]]] = []
        while self._by_turn and len(refused) < MOST_REFUSALS:
            place = heapq.heappop(self._by_turn)
            ticket = place[2]
            if ticket.item is None:
                continue
            if goes(ticket.item, False):
                self.leave(ticket)
            else:
                refused.append(place)
        for place in refused:
            heapq.heappush(self._by_turn, place)
