"""A second policy looks over the shoulder of the one that decides: where it would have sent the request, at what price.

It never acts. It is shown what the live policy saw, after that one chose, so its opinion costs the request nothing but
the time of one more choice. What it cannot show is what its own choices would have led to: caches and queues are always
those that the live policy made. So an opinion tells of one step; `homing simulate` plays whole traffic.

A difference is told in the price of the one that judges, and only where that price is seconds: the scores of rivals
have units of their own (rivals.py), and a policy without scorers has no price at all.
"""

from __future__ import annotations

from random import Random

import msgspec

from router.fleet.replica import ReplicaId, Seat
from router.policy.decision import Whole
from router.policy.pickers import Turn
from router.policy.pipeline import Policy
from router.policy.scorers import SCORERS


class Opinion(msgspec.Struct, frozen=True, gc=False):
    """What the shadow would have done with one request. Seconds are prices; None: that policy has none in seconds."""

    policy: str
    replica: ReplicaId
    rule: str  # what decided
    agrees: bool
    dearer_seconds: float | None  # its choice less the live one, as the live policy prices them; below 0: cheaper
    missed_seconds: float | None  # the live choice less its own, as the shadow prices them; below 0: it would pay more


class Shadow:
    """Holds only whose turn it is, per model, as the decider does for the live policy."""

    def __init__(self, policy: Policy, live: Policy, rng: Random) -> None:
        self.policy = policy
        self._rng = rng
        self._turns: dict[str, Turn] = {}  # bounded by the models ever served
        self._live_prices = prices_in_seconds(live)
        self._own_prices = prices_in_seconds(policy)

    def opinion(self, model: str, decision: Whole) -> Opinion:
        """Of a decision just made. Changes nothing that the live policy reads."""
        candidates = decision.candidates
        turn = self._turns.get(model)
        if turn is None:
            turn = self._turns[model] = Turn(self._rng)
        row, rule, own_seconds = self.policy.choose(candidates, candidates.whole_rows, turn)
        turn.last_seat = Seat(candidates.seats.item(row))
        live_row, live_seconds = decision.row, decision.total_seconds
        return Opinion(
            self.policy.name,
            candidates.ids[row],
            rule,
            row == live_row,
            live_seconds.item(row) - live_seconds.item(live_row) if self._live_prices else None,
            own_seconds.item(live_row) - own_seconds.item(row) if self._own_prices else None,
        )


def prices_in_seconds(policy: Policy) -> bool:
    """Whether every term is one of scorers.py, whose unit is the second."""
    own = tuple(SCORERS.values())
    return bool(policy.terms) and all(isinstance(term.scorer, own) for term in policy.terms)
