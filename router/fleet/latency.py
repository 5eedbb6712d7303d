"""The round trip to each replica, in seconds: the term of the price that distance adds.

Fed by the probes, whose answers cost the engine next to nothing, so that what is measured is the way and not the work.
"""

from __future__ import annotations

import numpy as np

from router.fleet.columns import grown
from router.fleet.replica import FloatArray, IntArray, Seat

# One millisecond: what a fresh replica is believed to cost. A zero would make it look free and draw the whole queue.
PRIOR_SECONDS = 0.001

# Weight of the newest sample: about the last ten count.
NEWEST_SHARE = 0.2

# A stalled loop or a retransmission makes a sample a thousand times too long; it may pull no harder than this.
LARGEST_STEP = 4.0


class Latency:
    """A moving average per seat. Only the probes feed it."""

    def __init__(self) -> None:
        self._seconds: FloatArray = np.zeros(0)

    def join(self, seat: Seat) -> None:
        self._seconds = grown(self._seconds, seat + 1, PRIOR_SECONDS)

    def observe(self, seat: Seat, round_trip_seconds: float) -> None:
        self.join(seat)
        old = float(self._seconds[seat])
        sample = min(round_trip_seconds, old * LARGEST_STEP)
        self._seconds[seat] = max(old + NEWEST_SHARE * (sample - old), PRIOR_SECONDS / 100)

    def forget(self, seat: Seat) -> None:
        """Another replica may take the seat."""
        self._seconds[seat] = PRIOR_SECONDS

    def seconds(self, seats: IntArray) -> FloatArray:
        """Round trips of the seats, each of which joined."""
        answer: FloatArray = self._seconds[seats]
        return answer
