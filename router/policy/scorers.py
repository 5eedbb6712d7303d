"""Scorers: each prices one thing, in seconds, for every candidate at once. Costs add; the lowest wins.

To add one: a small frozen dataclass with `cost_seconds`, parameters made by `param`, and a line in `SCORERS`.
Every scorer may also be given a `weight` in a policy, which multiplies its seconds; the pipeline applies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from router.fleet.replica import FloatArray
from router.policy import cost
from router.policy.candidate import Candidates
from router.policy.params import param


class Scorer(Protocol):
    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        """Seconds per candidate, in row order; 0 or more. Must not change or keep any column."""
        ...


@dataclass(frozen=True, slots=True)
class QueueWait:
    """The prefill work ahead of us there, over the replica's rate."""

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        return cost.queue_seconds(candidates)


@dataclass(frozen=True, slots=True)
class Prefill:
    """Our own prefill there: the tokens its cache does not spare us, over the replica's rate."""

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        return cost.prefill_seconds(candidates)


@dataclass(frozen=True, slots=True)
class OpenRequests:
    """What a replica's open requests cost a newcomer.

    Half a millisecond each: about eight decode steps at 0.06 ms of added step time per running request, the slope
    of published decode fits. Small beside any prefill worth saving, so that it spreads requests over replicas that
    are otherwise equal, and moves none from a warm one.
    """

    seconds_each: float = param(0.0005, least=0.0)

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        seconds: FloatArray = candidates.open_requests * self.seconds_each
        return seconds


@dataclass(frozen=True, slots=True)
class CacheInUse:
    """What it costs to go where open requests already hold much of the cache.

    An engine whose cache is all in use lets nobody in, puts back whom it let in last, and keeps nothing for later.
    Long before that the share in use tells what a queue forgets as soon as it is empty: to how many beginnings the
    replica is home. So new ones are spread by it, and whoever has a warm home keeps it.
    """

    full_seconds: float = param(3.0, least=0.0)  # where all of the cache is in use; in proportion below

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        seconds: FloatArray = candidates.used_tokens * (self.full_seconds / candidates.cache_tokens)
        return seconds


@dataclass(frozen=True, slots=True)
class Waited:
    """What a request that is held back has waited, charged to replicas as far as they are full, while others are not.

    Whoever waits for its warm replica cannot know for how long. It has lost least in the worst case if it waits until
    that has cost as much as going elsewhere would have, and goes then: the rule of ski rental. Who has waited for long
    stands behind many who ask for the same, so where it goes a copy is made that they can follow: a beginning that one
    replica cannot serve alone spreads over as many as it takes. A copy once made counts as a match like any other, so
    nothing goes back and forth.

    Where the whole fleet is full there is nothing to gain elsewhere, and what is computed twice makes all wait longer.
    So the charge is in proportion to the room there is: all of what was waited while everybody else is idle, none when
    nobody has room.
    """

    ahead_tokens: int = param(8_192, least=1)  # with so much work queued a replica is full, as in `hold`

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        if not candidates.waited_seconds:
            return np.zeros(len(candidates))
        full: FloatArray = np.minimum(candidates.queued_tokens / self.ahead_tokens, 1.0)
        room_ratio = 1.0 - float(full[candidates.allowed].mean())
        return full * (candidates.waited_seconds * room_ratio)


SCORERS: Mapping[str, type[Scorer]] = {
    "queue_wait": QueueWait,
    "prefill": Prefill,
    "open_requests": OpenRequests,
    "cache_in_use": CacheInUse,
    "waited": Waited,
}
