"""How far each replica may be believed: the lesser of what its event stream and its answers say (R 5.2).

A third voice are caps: what is known of a replica beside both, such as that its tokens are not proven to be ours. Each
cap has a cause, by which it is shown and taken away again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from router.events.ingest import Ingest
from router.fleet.columns import grown
from router.fleet.replica import FloatArray, IntArray, Seat
from router.index.accuracy import Accuracy
from router.index.base import GUESSED, Trust
from router.policy.belief import BELIEF_BY_TRUST


class EffectiveTrust:
    """Both as columns, so that a decision reads all replicas at once; a seat is refreshed whenever either side changed.

    `changed` is called with the seat and both values when the effective trust of a replica is another than last time.
    """

    def __init__(self, ingest: Ingest, accuracy: Accuracy, changed: Callable[[Seat, Trust, Trust], None]) -> None:
        self._ingest = ingest
        self._accuracy = accuracy
        self._changed = changed
        self._effective: IntArray = np.zeros(0, dtype=np.int64)
        self._belief: FloatArray = np.zeros(0)
        self._last: list[Trust | None] = []
        self._caps: list[dict[str, Trust]] = []
        self._most: list[Trust] = []  # the lowest cap
        self.version = 0  # grows with every change of either column

    def join(self, seat: Seat) -> None:
        self._effective = grown(self._effective, seat + 1)
        self._belief = grown(self._belief, seat + 1)
        while len(self._last) <= seat:
            self._last.append(None)
            self._caps.append({})
            self._most.append(Trust.EXACT)
        self.refresh(seat)

    def refresh(self, seat: Seat) -> None:
        """Look again: at the seat's stream, and at what its answers showed."""
        now = min(self._ingest.trust(seat), self._accuracy.truth(seat), self._most[seat])
        before = self._last[seat]
        if now is not before:
            self._last[seat] = now
            self._effective[seat] = now
            self._belief[seat] = BELIEF_BY_TRUST[now]
            self.version += 1
            if before is not None:
                self._changed(seat, before, now)
        if now is GUESSED:
            confirmed = self._accuracy.confirmed(seat)
            if confirmed != self._belief[seat]:
                self._belief[seat] = confirmed
                self.version += 1

    def cap(self, seat: Seat, cause: str, most: Trust | None) -> None:
        """For this cause the seat is trusted at most so far; None: the cause is gone."""
        caps = self._caps[seat]
        if most is None:
            caps.pop(cause, None)
        else:
            caps[cause] = most
        self._most[seat] = min(caps.values(), default=Trust.EXACT)
        self.refresh(seat)

    def causes(self, seat: Seat) -> tuple[str, ...]:
        """Of the caps that hold."""
        return tuple(self._caps[seat])

    def leave(self, seat: Seat) -> None:
        """The replica is gone: whoever takes the seat again begins without a past."""
        self._caps[seat].clear()
        self._most[seat] = Trust.EXACT
        self._last[seat] = None

    def of(self, seat: Seat) -> Trust:
        return self._last[seat] or Trust.LOAD_ONLY

    def effective(self, seats: IntArray) -> IntArray:
        """Effective trust of many seats, as Trust values."""
        trust: IntArray = self._effective[seats]
        return trust

    def belief(self, seats: IntArray) -> FloatArray:
        """How far a match on each seat counts, 0 to 1: a guess for the share that answers lately confirmed."""
        belief: FloatArray = self._belief[seats]
        return belief
