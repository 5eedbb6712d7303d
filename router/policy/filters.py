"""Filters: each narrows the replicas a request may go to, before prices are compared.

A filter is a preference. If it would leave nobody, the pipeline goes on without it and says so in the rule; what must
never be overruled (health, caps, exclusions) is decided before any filter runs.

To add one: a small frozen dataclass with `keep`, parameters made by `param`, and a line in `FILTERS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from router.fleet.replica import IntArray
from router.policy import cost
from router.policy.candidate import Candidates
from router.policy.params import param


class Kept(NamedTuple):
    rows: IntArray  # those of the given rows that stay, in the same order
    rule: str  # what decided, from a small fixed set; "" when the filter had nothing to say


class Filter(Protocol):
    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        """Some of `rows`, which are row numbers in ascending order and never empty."""
        ...


@dataclass(frozen=True, slots=True)
class BoundedLoad:
    """Replicas that stay within `factor` times the mean of open requests, this request counted.

    Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): a replica is full at
    ceil(factor * (open + 1) / replicas). One at or below the mean always remains, so this filter never leaves nobody.
    """

    factor: float = param(1.25, least=1.0)

    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        open_requests = candidates.open_requests[rows]
        full = math.ceil(self.factor * (int(open_requests.sum()) + 1) / len(rows))
        within = rows[open_requests < full]
        return Kept(within, "bounded_load" if len(within) < len(rows) else "")


@dataclass(frozen=True, slots=True)
class NotOverloaded:
    """Replicas whose queue is at most so long."""

    max_queue_seconds: float = param(5.0, least=0.0)

    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        within = rows[cost.queue_seconds(candidates)[rows] <= self.max_queue_seconds]
        return Kept(within, "not_overloaded" if len(within) < len(rows) else "")


@dataclass(frozen=True, slots=True)
class LongestMatch:
    """The replicas with the longest cached prefix, while the fleet is in balance and the match is worth following.

    Out of balance (both bounds passed, in open requests) or with a short match everyone stays, and what comes after
    this filter decides by load.
    """

    min_match_ratio: float = param(0.3, least=0.0, most=1.0)  # of the prompt; a match must be longer than this
    imbalance_requests: int = param(64, least=0)  # busiest less idlest must exceed this, and
    imbalance_ratio: float = param(1.5, least=1.0)  # the busiest must exceed this many times the idlest
    trusting: bool = param(False)  # every match counts in full, as with gateways that keep no account of their errors

    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        open_requests = candidates.open_requests[rows]
        busiest, idlest = int(open_requests.max()), int(open_requests.min())
        if busiest - idlest > self.imbalance_requests and busiest > self.imbalance_ratio * idlest:
            return Kept(rows, "imbalance")
        matched = (candidates.expected_tokens if self.trusting else cost.believed_tokens(candidates))[rows]
        longest = float(matched.max())
        if longest <= self.min_match_ratio * candidates.prompt_tokens:
            return Kept(rows, "short_match")
        return Kept(rows[matched == longest], "longest_match")


@dataclass(frozen=True, slots=True)
class SessionHome:
    """The replica where the session's last request went, unless its queue is too long or it may not be chosen."""

    max_queue_seconds: float = param(5.0, least=0.0)

    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        if candidates.session_seat is None:
            return Kept(rows, "session_new")
        home = rows[candidates.seats[rows] == candidates.session_seat]
        if not len(home):
            return Kept(rows, "session_home_gone")
        row = home.item(0)
        if candidates.queued_tokens.item(row) / candidates.tokens_per_second.item(row) > self.max_queue_seconds:
            return Kept(rows, "session_home_overloaded")
        return Kept(home, "session_home")


FILTERS: Mapping[str, type[Filter]] = {
    "bounded_load": BoundedLoad,
    "not_overloaded": NotOverloaded,
    "longest_match": LongestMatch,
    "session_home": SessionHome,
}
