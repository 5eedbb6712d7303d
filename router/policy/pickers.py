"""Pickers: each chooses one replica of those that are left, by cost, by turn, by chance or by key.

Time and chance are not theirs: a picker is a frozen value, and what changes from pick to pick is in the `Turn` that
the decider owns and passes in. To add one: a small frozen dataclass with `pick`, and a line in `PICKERS`.
"""
# One signature for every picker, and none needs all of it.
# ruff: noqa: ARG002

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from router.fleet.replica import FloatArray, IntArray, Seat
from router.policy.candidate import Candidates, KeyArray
from router.policy.params import param


@dataclass(slots=True)
class Turn:
    """What pickers may use beside the columns, per model. Only the decider changes it."""

    rng: Random
    last_seat: Seat = Seat(-1)  # where this model's last request went


class Picked(NamedTuple):
    row: int
    rule: str  # what decided, from a small fixed set


class Picker(Protocol):
    compares_costs: ClassVar[bool]  # without a scorer it would choose blindly

    def pick(self, candidates: Candidates, cost_seconds: FloatArray, rows: IntArray, turn: Turn) -> Picked:
        """One of `rows`, which are row numbers in ascending order and never empty. `cost_seconds` has every row."""
        ...


@dataclass(frozen=True, slots=True)
class LowestCost:
    """The cheapest replica; among those nearly as cheap the one with the fewest open requests, then a random one.

    Equal replicas never price equal: their learned rates differ by some percent, as medians of a few dozen noisy
    observations do. Without the tie rule a quiet fleet would send every new prompt to the one that seems fastest, and
    fill its cache while the others' stay empty. A match worth less than the tie is worth less than that spread.
    """

    compares_costs: ClassVar[bool] = True
    near_ratio: float = param(0.05, least=0.0)  # of the lowest cost
    near_seconds: float = param(0.0002, least=0.0)  # added to that, for costs near 0; below one open request's price

    def pick(self, candidates: Candidates, cost_seconds: FloatArray, rows: IntArray, turn: Turn) -> Picked:
        costs = cost_seconds if len(rows) == len(cost_seconds) else cost_seconds[rows]
        limit = costs.item(costs.argmin()) * (1.0 + self.near_ratio) + self.near_seconds
        places = (costs <= limit).nonzero()[0].tolist()
        if len(places) == 1:
            return Picked(rows.item(places[0]), "lowest_cost")
        # Of a few the interpreter finds the least sooner than numpy does.
        near = list(map(rows.item, places))
        open_requests = list(map(candidates.open_requests.item, near))
        fewest = min(open_requests)
        idlest = [row for row, open_there in zip(near, open_requests, strict=True) if open_there == fewest]
        return Picked(idlest[int(turn.rng.random() * len(idlest))], "near_tie")


@dataclass(frozen=True, slots=True)
class RandomPick:
    """Any, with equal chance."""

    compares_costs: ClassVar[bool] = False

    def pick(self, candidates: Candidates, cost_seconds: FloatArray, rows: IntArray, turn: Turn) -> Picked:
        return Picked(rows.item(int(turn.rng.random() * len(rows))), "random")


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """The next seat after the model's last one, so the order holds while replicas come, go and are skipped."""

    compares_costs: ClassVar[bool] = False

    def pick(self, candidates: Candidates, cost_seconds: FloatArray, rows: IntArray, turn: Turn) -> Picked:
        later = (candidates.seats[rows] > turn.last_seat).nonzero()[0]
        return Picked(rows.item(later.item(0) if len(later) else 0), "round_robin")


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    """The cheaper of two drawn at random; the first drawn where they cost the same.

    Close to the cheapest of all, and routers that share a fleet without talking do not all run to one idle replica.
    """

    compares_costs: ClassVar[bool] = True

    def pick(self, candidates: Candidates, cost_seconds: FloatArray, rows: IntArray, turn: Turn) -> Picked:
        if len(rows) == 1:
            return Picked(rows.item(0), "power_of_two")
        first = int(turn.rng.random() * len(rows))
        second = int(turn.rng.random() * (len(rows) - 1))
        second += second >= first
        one, other = rows.item(first), rows.item(second)
        return Picked(one if cost_seconds[one] <= cost_seconds[other] else other, "power_of_two")


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """The replica whose hash together with the prompt's beginning is highest.

    When a replica leaves, only the prompts it had move, each to its own next highest; so behind `bounded_load` the
    overflow of a full replica spreads over all others. Routers agree without talking.
    """

    compares_costs: ClassVar[bool] = False

    def pick(self, candidates: Candidates, cost_seconds: FloatArray, rows: IntArray, turn: Turn) -> Picked:
        return Picked(rows.item(mixed_keys(candidates.id_keys[rows], candidates.prefix_key).argmax()), "rendezvous")


def mixed_keys(id_keys: KeyArray, prefix_key: int) -> KeyArray:
    """The finalizer of splitmix64 over both keys: every bit of either changes each bit of the result evenly."""
    mixed: KeyArray = id_keys ^ np.uint64(prefix_key & 0xFFFF_FFFF_FFFF_FFFF)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return mixed ^ (mixed >> np.uint64(31))


PICKERS: Mapping[str, type[Picker]] = {
    "lowest_cost": LowestCost,
    "random": RandomPick,
    "round_robin": RoundRobin,
    "power_of_two": PowerOfTwo,
    "rendezvous": Rendezvous,
}
