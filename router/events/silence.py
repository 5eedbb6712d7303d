"""A publisher that never speaks: connected, answering replays, and silent although blocks must have been stored.

Its story looks whole, for nothing is missing from it: without this the replica would be held to be EXACT and empty. An
engine that computes a full block and caches prefixes stores it, and tells by the end of that step, long before the
request ends. So requests that computed a block, with not one batch heard from before they were sent until they ended,
are a contradiction; `ENOUGH` of them and two looks in a row that found them are taken for proof, since the batch of the
last one may still be on its way. Those that were under way when a batch came prove nothing: when a burst ends, its
blocks were told of long before its last answers are.
"""

from __future__ import annotations

from router.fleet.replica import Seat

ENOUGH = 8  # finished requests


class Silence:
    """By seat: requests that came and went since the last batch. Accounts and streams count, probes look."""

    def __init__(self) -> None:
        self._heard: dict[Seat, int] = {}
        self._finished: dict[Seat, int] = {}
        self._seen: set[Seat] = set()  # suspicious at the last look
        self._silent: set[Seat] = set()

    def batches(self, seat: Seat) -> int:
        """How many were heard so far."""
        return self._heard.get(seat, 0)

    def finished(self, seat: Seat, batches_before: int) -> None:
        """A request computed at least one full block there, and has ended well; so many were heard when it was sent."""
        if batches_before != self.batches(seat):
            return
        self._finished[seat] = self._finished.get(seat, 0) + 1

    def heard(self, seat: Seat) -> None:
        """A batch of the seat came, or its story begins."""
        self._heard[seat] = self.batches(seat) + 1
        self._finished.pop(seat, None)
        self._seen.discard(seat)
        self._silent.discard(seat)

    def is_silent(self, seat: Seat) -> bool:
        """Whether a look found the seat's publisher silent, and nothing was heard since."""
        return seat in self._silent

    def look(self, seat: Seat) -> bool:
        """Whether the seat's publisher is silent. Ask at intervals longer than a batch takes to come."""
        if self._finished.get(seat, 0) < ENOUGH:
            self._seen.discard(seat)
            return False
        if seat in self._seen:
            self._silent.add(seat)
            return True
        self._seen.add(seat)
        return False
