"""How many more requests the replicas of a model can take: what the door asks before it lets one in (R 6.2)."""

from __future__ import annotations

import numpy as np

from router.clock import Clock
from router.errors import NoReplica, UnknownModel
from router.fleet.health import Health
from router.fleet.ledger import Ledger
from router.fleet.roster import Roster


class Room:
    """Free slots of a model's healthy replicas under a cap of open requests for each, which a reload may set. Changes
    nothing."""

    def __init__(self, roster: Roster, health: Health, ledger: Ledger, clock: Clock, most_per_replica: int) -> None:
        self._roster = roster
        self._health = health
        self._ledger = ledger
        self._clock = clock
        self.most_per_replica = most_per_replica

    def __call__(self, model_name: str) -> int | None:
        """None when nobody could serve the model now, or knows it: waiting would help nobody, deciding says why."""
        try:
            seats = self._roster.serving(model_name)
        except (UnknownModel, NoReplica):
            return None
        healthy = seats[self._health.allowed(seats, self._clock.now())]
        if not len(healthy):
            return None
        return int(np.maximum(self.most_per_replica - self._ledger.open_requests[healthy], 0).sum())
