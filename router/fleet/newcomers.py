"""Slow start: how much a replica that has just come may be given, while there are others who have been here longer.

A newcomer's queue is empty and its cache is cold. By load alone it would get every request until it is as busy as the
rest, at the very moment when its engine is slowest (kernels compile at the first batches of each size), and its price
is the least known (it has the model's rate, not its own). And each prompt that is drawn away from where it is warm
leaves a second copy of its prefix: the newcomer floods, and the fleet's cache scatters. So over `ramp_seconds` its
share grows from nothing to that of the others:

    open requests there < max(1, share * (mean of the settled + 1))         share = time since it came / ramp_seconds

One request at a time it always gets: something must warm it. The bound holds for prompts that others could serve as
warmly; a prompt that is warmest at the newcomer goes there, or what it learns would be lost again.

It is a preference: where nobody is settled (the start of a router, a fleet of one) or nobody else is left to take the
request, it says nothing. A replica that restarts is a newcomer again, since its cache is empty.
"""

from __future__ import annotations

import math

import numpy as np

from router.fleet.columns import grown
from router.fleet.replica import BoolArray, FloatArray, IntArray, Seat

RAMP_SECONDS = 30.0


class Newcomers:
    """When each seat's replica came. Told by whoever learns what replicas are; read by the decider."""

    def __init__(self, ramp_seconds: float = RAMP_SECONDS) -> None:
        """0 seconds: nobody is a newcomer."""
        self._ramp_seconds = ramp_seconds
        self._came_at: FloatArray = np.zeros(0)
        self.settled_at_seconds = -math.inf  # from then on nobody is new, until another comes: one comparison

    def heed(self, ramp_seconds: float) -> None:
        """Another ramp from now on, also for who has come already. After one of 0 nobody is known to be new."""
        self._ramp_seconds = ramp_seconds
        latest = float(self._came_at.max()) if len(self._came_at) and ramp_seconds > 0.0 else -math.inf
        self.settled_at_seconds = latest + ramp_seconds

    def came(self, seat: Seat, now_seconds: float) -> None:
        """The replica is there and has an empty cache."""
        if self._ramp_seconds <= 0.0:
            return
        self._came_at = grown(self._came_at, seat + 1, -math.inf)
        self._came_at[seat] = now_seconds
        self.settled_at_seconds = max(self.settled_at_seconds, now_seconds + self._ramp_seconds)

    def eased(
        self,
        seats: IntArray,
        allowed: BoolArray,
        open_requests: FloatArray,
        warm_tokens: FloatArray,
        now_seconds: float,
    ) -> BoolArray:
        """Which of those that are allowed should be given one more request. All columns are by the order of `seats`."""
        self._came_at = grown(self._came_at, int(seats.max()) + 1, -math.inf)
        share = (now_seconds - self._came_at[seats]) / self._ramp_seconds
        settled = allowed & (share >= 1.0)
        if not settled.any():
            return allowed
        most = np.maximum(1.0, share * (open_requests[settled].mean() + 1.0))
        is_warmest = warm_tokens > warm_tokens[settled].max()
        eased: BoolArray = settled | (allowed & ((open_requests < most) | is_warmest))
        return eased
