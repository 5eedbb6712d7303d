"""Scorers: each prices one thing, in seconds, for every candidate at once. Costs add; the lowest wins.

To add one: a small frozen dataclass with `cost_seconds`, parameters made by `param`, and a line in `SCORERS`.
Every scorer may also be given a `weight` in a policy, which multiplies its seconds; the pipeline applies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

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


SCORERS: Mapping[str, type[Scorer]] = {
    "queue_wait": QueueWait,
    "prefill": Prefill,
    "open_requests": OpenRequests,
    "cache_in_use": CacheInUse,
}
