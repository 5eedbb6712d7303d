"""How far each replica may be believed: the lesser of what its event stream and its answers say (R 5.2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from router.events.ingest import Ingest
from router.fleet.columns import grown
from router.fleet.replica import FloatArray, IntArray, Seat
from router.index.accuracy import Accuracy
from router.index.base import Trust


class EffectiveTrust:
    """Stream trust as a column, so that a decision reads all replicas at once; told again whenever a stream changes.

    `changed` is called with the seat and both values when the effective trust of a replica is another than last time.
    """

    def __init__(self, ingest: Ingest, accuracy: Accuracy, changed: Callable[[Seat, Trust, Trust], None]) -> None:
        self._ingest = ingest
        self._accuracy = accuracy
        self._changed = changed
        self._stream: IntArray = np.zeros(0, dtype=np.int64)
        self._last: dict[Seat, Trust] = {}

    def join(self, seat: Seat) -> None:
        self._stream = grown(self._stream, seat + 1)
        self.refresh(seat)

    def leave(self, seat: Seat) -> None:
        self._last.pop(seat, None)

    def refresh(self, seat: Seat) -> None:
        """Look at the seat's stream again."""
        self._stream[seat] = self._ingest.trust(seat)
        now = self.of(seat)
        before = self._last.get(seat)
        self._last[seat] = now
        if before is not None and before is not now:
            self._changed(seat, before, now)

    def of(self, seat: Seat) -> Trust:
        return Trust(int(self.effective(np.array([seat], dtype=np.int64))[0]))

    def effective(self, seats: IntArray) -> IntArray:
        """Effective trust of many seats, as Trust values."""
        lesser: IntArray = np.minimum(self._stream[seats], self._accuracy.trust(seats))
        return lesser

    def belief(self, seats: IntArray) -> FloatArray:
        """What a guess is worth on each seat: the share of predicted tokens its answers lately confirmed, 0 to 1."""
        return self._accuracy.belief(seats)
