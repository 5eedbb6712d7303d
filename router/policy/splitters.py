"""Splitters: each says whether a request is computed on one replica and answered by another, and on which two.

Ours, `joint`, prices every pair as the client would feel it, against the best replica alone:

    price(R)   = the policy's own price of R + what our prefill there would stall R's open requests
    pair(P, D) = the later of (price(P) + handing over from P to D what D lacks) and (the work queued at D, which goes
                 on meanwhile), + distance + the decode batch of D
    alone(D)   = price(D)

and splits only when that saves a share of the prefill that D is spared. There is no length from which on it splits: a
long prompt stays where most of it is cached, and a short one leaves a replica whose queue is long. Which price is lower
may change with every arrival, so a size of prompt that was not split must promise the whole margin before it is, and
one that was keeps being split while there is anything to gain (`Habit`).

The others are rules of rivals, for comparisons. To add one: a small frozen dataclass with `choose`, parameters
made by `param`, and a line in `SPLITTERS`.
"""
# One signature for every splitter, and none needs all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from router.fleet.pairs import PairBools, PairFloats
from router.fleet.replica import FloatArray
from router.policy import cost
from router.policy.candidate import Candidates
from router.policy.params import param
from router.policy.pickers import Turn
from router.policy.pools import Pools

NEAR_RATIO, NEAR_SECONDS = 0.05, 0.0002  # of prices that count as equal, as in `lowest_cost`


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The replicas of a model that has pools, at one moment."""

    candidates: Candidates
    price_seconds: FloatArray  # by row, as the policy prices whole requests
    pools: Pools
    usable: PairBools  # matched, open, and both sides may be sent to
    handover_seconds: PairFloats  # expected, of what each taker lacks

    @property
    def work_tokens(self) -> int:
        return self.candidates.prompt_tokens + self.candidates.other_tokens

    def uncached_tokens(self, row: int) -> float:
        return self.work_tokens - float(cost.believed_tokens(self.candidates).item(row))


class Pair(NamedTuple):
    """Chosen. Rows of the candidates, and the terms of its price beside the donor's own, in seconds."""

    donor: int
    taker: int
    handover_seconds: float
    distance_seconds: float
    decode_seconds: float
    queue_seconds: float  # at the taker, while its donor is at work
    rule: str

    def seconds(self, donor_seconds: float) -> float:
        """The whole price, at this price of the donor."""
        ready = max(donor_seconds + self.handover_seconds, self.queue_seconds)
        return ready + self.distance_seconds + self.decode_seconds


# A pair, or the reason why the request stays whole.
Splitting: TypeAlias = Pair | str


@dataclass(slots=True)
class Habit:
    """Whether prompts of a size were lately split, by octave of their uncached tokens. One per model, the decider's."""

    splits: dict[int, bool] = field(default_factory=dict)

    def of(self, tokens: float) -> bool:
        return self.splits.get(int(tokens).bit_length(), False)

    def remember(self, tokens: float, split: bool) -> None:
        self.splits[int(tokens).bit_length()] = split


class Splitter(Protocol):
    def choose(self, view: View, alone: int | None, habit: Habit, turn: Turn) -> Splitting:
        """`alone`: the row that a whole request would go to; None: nobody could answer it alone."""
        ...


@dataclass(frozen=True, slots=True)
class Joint:
    """The pair or the one replica with the least expected time to first token, stalls and distance included."""

    # Below this a hand-over costs more scheduling than the prefill it spares; blocks are 16 to 64 tokens.
    least_tokens: int = param(256, least=1)
    margin_ratio: float = param(0.1, least=0.0)  # of the prefill alone, that a split must save to begin
    margin_seconds: float = param(0.01, least=0.0)  # and at least
    # Of each open request's delay by our prefill, what we count as ours. Chunked prefill lets a batch of some dozens
    # run at a fraction of its speed meanwhile. In virtual time (loadtest.pools, seed 1) 0.1 gave 2p2d the first tokens
    # of 0.02 and whole answers up to a third sooner; at 0.2 first tokens came a tenth later.
    stall_ratio: float = param(0.1, least=0.0)
    decode_seconds_each: float = param(0.0005, least=0.0)  # as the scorer open_requests
    near_label: str = param("")  # the label in which near replicas agree; empty: distance is not priced
    far_seconds: float = param(0.0, least=0.0)  # the price of a pair that does not agree
    far_forbidden: bool = param(False)  # never such a pair

    def choose(self, view: View, alone: int | None, habit: Habit, turn: Turn) -> Splitting:
        uncached_tokens = 0.0
        if alone is not None:
            uncached_tokens = view.uncached_tokens(alone)
            if uncached_tokens < self.least_tokens:
                return "whole_little_to_compute"
        own_seconds = cost.prefill_seconds(view.candidates)
        price_seconds = view.price_seconds + own_seconds * view.candidates.open_requests * self.stall_ratio
        pair = self._best(view, price_seconds, turn)
        if alone is None or isinstance(pair, str):
            return pair
        prefill_seconds = float(own_seconds.item(alone))
        saved_seconds = price_seconds.item(alone) - pair.seconds(price_seconds.item(pair.donor))
        needed_seconds = max(self.margin_seconds, self.margin_ratio * prefill_seconds)
        splits = saved_seconds > (0.0 if habit.of(uncached_tokens) else needed_seconds)
        habit.remember(uncached_tokens, splits)
        return pair if splits else "whole_is_sooner"

    def _best(self, view: View, price_seconds: FloatArray, turn: Turn) -> Splitting:
        pools, usable = view.pools, view.usable
        distance = np.zeros(usable.shape)
        if self.near_label:
            far = ~pools.alike(self.near_label)
            distance[far] = self.far_seconds
            if self.far_forbidden:
                usable = usable & ~far
        decode = view.candidates.open_requests[pools.takers] * self.decode_seconds_each
        queued = cost.queue_seconds(view.candidates)[pools.takers]
        ready = price_seconds[pools.donors][:, None] + view.handover_seconds
        prices = np.maximum(ready, queued) + distance + decode
        at = _cheapest(view, prices, usable, turn)
        if at is None:
            return "whole_no_pair"
        donor, taker = at
        return Pair(
            int(pools.donors.item(donor)),
            int(pools.takers.item(taker)),
            view.handover_seconds.item(donor, taker),
            distance.item(donor, taker),
            decode.item(taker),
            queued.item(taker),
            "split_joint",
        )


@dataclass(frozen=True, slots=True)
class Always:
    """Every request, by the donor the policy prices lowest and the taker with the fewest open requests."""

    def choose(self, view: View, alone: int | None, habit: Habit, turn: Turn) -> Splitting:
        return _one_after_the_other(view, "split_always")


@dataclass(frozen=True, slots=True)
class Threshold:
    """Requests with so many uncached tokens where they would go whole; the pair as in `always`."""

    tokens: int = param(2048, least=1)

    def choose(self, view: View, alone: int | None, habit: Habit, turn: Turn) -> Splitting:
        if alone is not None and view.uncached_tokens(alone) < self.tokens:
            return "whole_below_threshold"
        return _one_after_the_other(view, "split_threshold")


@dataclass(frozen=True, slots=True)
class DynamoConditional:
    """Dynamo's conditional disaggregation (`conditional_disagg.rs`, 088ca50, its `isl_bounding`).

    The taker computes by itself what it lacks if that is below `tokens` and below `ratio` of the prompt.
    """

    tokens: int = param(2048, least=1)
    ratio: float = param(0.7, least=0.0, most=1.0)

    def choose(self, view: View, alone: int | None, habit: Habit, turn: Turn) -> Splitting:
        if alone is not None:
            uncached_tokens = view.uncached_tokens(alone)
            if uncached_tokens < self.tokens and uncached_tokens < self.ratio * view.work_tokens:
                return "whole_below_threshold"
        return _one_after_the_other(view, "split_conditional")


SPLITTERS: Mapping[str, type[Splitter]] = {
    "joint": Joint,
    "always": Always,
    "threshold": Threshold,
    "dynamo_conditional": DynamoConditional,
}


def _cheapest(view: View, prices: PairFloats, usable: PairBools, turn: Turn) -> tuple[int, int] | None:
    """Of the pairs that are as good as the best, the one with the least open on both sides; then any."""
    if not usable.any():
        return None
    prices = np.where(usable, prices, np.inf)
    limit = float(prices.min()) * (1.0 + NEAR_RATIO) + NEAR_SECONDS
    places = np.argwhere(prices <= limit)
    if len(places) > 1:
        open_requests, pools = view.candidates.open_requests, view.pools
        busy = open_requests[pools.donors[places[:, 0]]] + open_requests[pools.takers[places[:, 1]]]
        places = places[busy == busy.min()]
    donor, taker = places[turn.rng.randrange(len(places)) if len(places) > 1 else 0].tolist()
    return donor, taker


def _one_after_the_other(view: View, rule: str) -> Splitting:
    """The cheapest donor that has a taker, then the least busy taker it has."""
    pools, usable = view.pools, view.usable
    if not usable.any():
        return "whole_no_pair"
    prices = np.where(usable.any(axis=1), view.price_seconds[pools.donors], np.inf)
    donor = int(prices.argmin())
    busy = np.where(usable[donor], view.candidates.open_requests[pools.takers], np.inf)
    taker = int(busy.argmin())
    handover_seconds = view.handover_seconds.item(donor, taker)
    return Pair(int(pools.donors.item(donor)), int(pools.takers.item(taker)), handover_seconds, 0.0, 0.0, 0.0, rule)
