"""Splitters: each says whether a request is computed on one replica and answered by another, and on which two.

Ours, `joint`, prices every pair as the client would feel it, against the best replica alone:

    price(R)   = the policy's own price of R + what our prefill there would stall R's open requests
    pair(P, D) = the later of (price(P) + handing over from P to D what D lacks) and (the work queued at D, which goes
                 on meanwhile), + distance + what answering at D costs there: its batch, its cache
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
    answering_seconds: FloatArray  # by row, the part of it that a taker costs too, which computes nothing
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
    decode_seconds: float  # of answering at the taker, as the policy prices it
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
    # Of the delay our prefill brings every open request there, what we count as ours: this share, and less of what is
    # hardly noticed: the square of the pause, over all that pause, against one answer's pause of `stall_knee_seconds`.
    stall_ratio: float = param(0.15, least=0.0)
    stall_knee_seconds: float = param(1.4, least=0.001)
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
        price_seconds = view.price_seconds + self._stall_seconds(own_seconds, view.candidates.open_requests)
        priced = self._priced(view, price_seconds)
        least_seconds = float(priced.seconds.min(initial=np.inf))
        if least_seconds == np.inf:
            return "whole_no_pair"
        if alone is not None:
            prefill_seconds = float(own_seconds.item(alone))
            needed_seconds = max(self.margin_seconds, self.margin_ratio * prefill_seconds)
            saved_seconds = price_seconds.item(alone) - least_seconds
            splits = saved_seconds > (0.0 if habit.of(uncached_tokens) else needed_seconds)
            habit.remember(uncached_tokens, splits)
            if not splits:
                return "whole_is_sooner"
        return priced.pair(view, turn)

    def _stall_seconds(self, own_seconds: FloatArray, open_requests: FloatArray) -> FloatArray:
        """What a prefill of ours costs the answers that run beside it."""
        pauses = own_seconds / self.stall_knee_seconds
        shares = self.stall_ratio * np.minimum(1.0, open_requests * pauses * pauses)
        return shares * open_requests * own_seconds

    def _priced(self, view: View, price_seconds: FloatArray) -> _Priced:
        pools, usable = view.pools, view.usable
        distance = np.zeros(usable.shape)
        if self.near_label:
            far = ~pools.alike(self.near_label)
            distance[far] = self.far_seconds
            if self.far_forbidden:
                usable = usable & ~far
        decode = view.answering_seconds[pools.takers]
        queued = cost.queue_seconds(view.candidates)[pools.takers]
        ready = price_seconds[pools.donors][:, None] + view.handover_seconds
        seconds = np.where(usable, np.maximum(ready, queued) + distance + decode, np.inf)
        return _Priced(seconds, distance, decode, queued)


@dataclass(frozen=True, slots=True, eq=False)
class _Priced:
    """Every pair and the terms of its price, in seconds."""

    seconds: PairFloats  # the whole price; infinite for a pair that cannot be used
    distance: PairFloats
    decode: FloatArray  # by taker
    queued: FloatArray  # by taker

    def pair(self, view: View, turn: Turn) -> Pair:
        """Of the pairs that are as good as the best, one with the least open on both sides; of those any.

        Chance is drawn here alone: a request that stays whole leaves the policy's own draws as they were.
        """
        pools = view.pools
        limit = float(self.seconds.min()) * (1.0 + NEAR_RATIO) + NEAR_SECONDS
        places = np.argwhere(self.seconds <= limit)
        if len(places) > 1:
            open_requests = view.candidates.open_requests
            busy = open_requests[pools.donors[places[:, 0]]] + open_requests[pools.takers[places[:, 1]]]
            places = places[busy == busy.min()]
        donor, taker = places[turn.rng.randrange(len(places)) if len(places) > 1 else 0].tolist()
        return Pair(
            int(pools.donors.item(donor)),
            int(pools.takers.item(taker)),
            view.handover_seconds.item(donor, taker),
            self.distance.item(donor, taker),
            self.decode.item(taker),
            self.queued.item(taker),
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
