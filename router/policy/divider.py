"""Asks a policy's splitter about one request: gathers the pairs there are, and makes a decision of its answer."""

from __future__ import annotations

import numpy as np

from router.fleet.pairs import Pairs
from router.fleet.replica import BoolArray, FloatArray
from router.policy import cost
from router.policy.candidate import Ask, Candidates
from router.policy.decision import Whole, chosen
from router.policy.pickers import Turn
from router.policy.pipeline import Choice, Policy
from router.policy.pools import Pools
from router.policy.split import Split
from router.policy.splitters import Habit, Splitter, View


class Divider:
    """For all models of one fleet under one policy. Holds only what was lately split."""

    def __init__(self, policy: Policy, splitter: Splitter, pairs: Pairs) -> None:
        self._policy = policy
        self._splitter = splitter
        self._pairs = pairs
        self._habits: dict[str, Habit] = {}  # bounded by the models ever served

    def divide(
        self,
        ask: Ask,
        pools: Pools,
        candidates: Candidates,
        allowed: BoolArray,
        price_seconds: FloatArray,
        alone: Choice | None,
        block_sizes: tuple[int | None, ...],
        turn: Turn,
    ) -> Split | str:
        """A Split, or why not. `allowed` are the rows that may be sent to; `alone` what a whole request would do."""
        if not ask.handshakes:
            return "whole_cannot_split"
        if not len(pools.donors) or not len(pools.takers):
            return "whole_no_pair"
        seats = candidates.seats
        donors, takers = seats[pools.donors], seats[pools.takers]
        usable = pools.matched & self._pairs.open_between(donors, takers)
        usable &= allowed[pools.donors][:, None] & allowed[pools.takers]
        if not pools.handshakes <= ask.handshakes:
            usable &= np.array([pools.speech[row] in ask.handshakes for row in pools.donors.tolist()])[:, None]
        lacking = candidates.prompt_tokens - cost.believed_tokens(candidates)[pools.takers]
        handover = self._pairs.seconds_between(donors, takers, lacking)
        answering = self._policy.answering_seconds(candidates)
        view = View(candidates, price_seconds, answering, pools, usable, handover)
        habit = self._habits.get(ask.model)
        if habit is None:
            habit = self._habits[ask.model] = Habit()
        pair = self._splitter.choose(view, None if alone is None else alone.row, habit, turn)
        if isinstance(pair, str):
            return pair

        def leg(row: int, rule: str) -> Whole:
            return chosen(candidates, row, block_sizes[row], self._policy, rule, price_seconds)

        stays = None if alone is None else leg(alone.row, alone.rule)
        return Split(leg(pair.donor, "prefill_leg"), leg(pair.taker, "decode_leg"), pair, stays, pair.rule)
