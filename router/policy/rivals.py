"""What other routers decide by, from their published rules, so that they can be tried on the same traffic.

Each rule is told where it stands in `policies/rivals/`, with its source and its defaults. Their scores have units of
their own: blocks, tokens times requests, shares of one. A scorer here returns that number as if it were seconds; only
its order means anything, and a policy adds it to nothing but what its own authors add. Rules that do speak of seconds
(Mooncake's) are composed of scorers.py.

Two habits they share. A match counts in full, however little it is trusted (`expected_tokens`); and the lowest score
wins exactly, equal ones by chance. Where a rule reads what a gateway would have to scrape, the nearest thing that our
own books tell stands in, and the docstring says so.

To add one: as for filters, scorers and pickers, with its line in the tables at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from router.fleet.replica import FloatArray, IntArray
from router.policy.candidate import Candidates
from router.policy.filters import Filter, Kept
from router.policy.holders import ExploitOrExplore, FirstHolder
from router.policy.params import param
from router.policy.pickers import Picked, Picker, Turn, mixed_keys
from router.policy.scorers import Scorer

# The second of two independent hashes: any odd constant other than zero will do.
SECOND_HASH = 0x9E37_79B9_7F4A_7C15


def uncached_tokens(candidates: Candidates) -> FloatArray:
    """What would be computed for this request, every match believed in full."""
    tokens: FloatArray = candidates.prompt_tokens + candidates.other_tokens - candidates.expected_tokens
    return tokens


@dataclass(frozen=True, slots=True)
class PrefixAffinity:
    """llm-d: the replicas that hold most of the prompt, unless waiting for the best of them costs too much.

    The time to a first token is taken to be the uncached tokens in flight over one fixed peak rate, for all replicas.
    """

    min_match_ratio: float = param(0.80, least=0.0, most=1.0)
    max_penalty_seconds: float = param(18.0, least=0.0)  # 0: stay, whatever it costs
    peak_tokens_per_second: float = param(15_928.0, least=1.0)

    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        if len(rows) == 1:
            return Kept(rows, "")
        warm = candidates.expected_tokens[rows] >= self.min_match_ratio * candidates.prompt_tokens
        if not warm.any():
            return Kept(rows, "no_match")
        if warm.all():
            return Kept(rows, "affinity")
        queued = candidates.queued_tokens[rows] / self.peak_tokens_per_second
        penalty_seconds = float(queued[warm].min() - queued[~warm].min())
        if 0.0 < self.max_penalty_seconds < penalty_seconds:
            return Kept(rows, "released")
        return Kept(rows[warm], "affinity")


@dataclass(frozen=True, slots=True)
class TwoHomes:
    """DualMap: of the two replicas that two hashes of the prompt's beginning name, the warmer while it is in time.

    In time is a predicted first token (queued tokens and our own, over the replica's rate) within the objective. When
    the warmer is late, the one with the earlier first token; equally warm, the one with less work queued.
    """

    objective_seconds: float = param(5.0, least=0.0)

    def keep(self, candidates: Candidates, rows: IntArray) -> Kept:
        keys = candidates.id_keys[rows]
        first = rows.item(mixed_keys(keys, candidates.prefix_key).argmax())
        second = rows.item(mixed_keys(keys, candidates.prefix_key ^ SECOND_HASH).argmax())
        pair = (first, second)
        ttft = (candidates.queued_tokens + uncached_tokens(candidates)) * candidates.seconds_per_token
        warm = max(pair, key=lambda row: (candidates.expected_tokens.item(row), -candidates.queued_tokens.item(row)))
        if ttft.item(warm) <= self.objective_seconds:
            return Kept(np.array([warm]), "warm_home")
        return Kept(np.array([min(pair, key=ttft.item)]), "early_home")


@dataclass(frozen=True, slots=True)
class DynamoBlocks:
    """Dynamo's cost in blocks: prefill work there with ours less the hit, and the blocks its requests and ours use.

    Prompt blocks that several open requests share count once, as in Dynamo's active sequences; the answers' do not
    count, as is its default. Whatever continues in slower tiers gets the credit of host memory.
    """

    overlap_credit: float = param(1.0, least=0.0)
    host_credit: float = param(0.75, least=0.0)
    prefill_load_scale: float = param(1.0, least=0.0)
    request_weight: float = param(0.0, least=0.0)  # blocks that an open request costs by itself
    block_tokens: int = param(16, least=1)  # matters only beside a request weight

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        own_tokens = candidates.prompt_tokens + candidates.other_tokens
        credit = self.overlap_credit * candidates.expected_tokens + self.host_credit * candidates.slower_tokens
        prefill = np.maximum(candidates.queued_tokens + own_tokens - credit, 0.0)
        decode = candidates.used_tokens + own_tokens - candidates.shared_tokens
        cost: FloatArray = (self.prefill_load_scale * prefill + decode) / self.block_tokens
        if self.request_weight:
            cost = cost + self.request_weight * candidates.open_requests
        return cost


@dataclass(frozen=True, slots=True)
class PrefixMiss:
    """llm-d's prefix score, upside down: the share of the prompt that is not cached there, 0 to 1."""

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        share: FloatArray = 1.0 - candidates.expected_tokens / max(candidates.prompt_tokens, 1)
        return share


@dataclass(frozen=True, slots=True)
class CacheUse:
    """llm-d's KV-utilisation score, upside down: the share of the cache that is in use, 0 to 1.

    It scrapes the engine's gauge. Here it is what our own open requests use, prompts only; 0 where the replica did not
    say how much its cache holds.
    """

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        share: FloatArray = np.minimum(candidates.used_tokens / candidates.cache_tokens, 1.0)
        return share


@dataclass(frozen=True, slots=True)
class QueueRank:
    """llm-d's queue score, upside down: 0 for the shortest queue, 1 for the longest, 0 for all when they are equal.

    It scrapes the number of waiting requests. An engine lets in what fits the token budget of a step, so here what
    waits is our prefill work there beyond one step.
    """

    step_tokens: int = param(8_192, least=0)  # vLLM's default budget on a large GPU

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        waiting = np.maximum(candidates.queued_tokens - self.step_tokens, 0.0)
        able = waiting[candidates.allowed]
        shortest, longest = float(able.min()), float(able.max())
        if longest == shortest:
            return np.zeros(len(candidates))
        rank: FloatArray = np.clip((waiting - shortest) / (longest - shortest), 0.0, 1.0)
        return rank


@dataclass(frozen=True, slots=True)
class TokenLoad:
    """llm-d's token load, upside down: uncached tokens in flight, this request's included, as a share of a threshold.

    From the threshold on all replicas are equally bad.
    """

    threshold_tokens: int = param(4_194_304, least=1)

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        load = candidates.queued_tokens + uncached_tokens(candidates)
        share: FloatArray = np.minimum(load / self.threshold_tokens, 1.0)
        return share


@dataclass(frozen=True, slots=True)
class PrefillTimesBatch:
    """LMetric: tokens to prefill before our first token, queued ones and ours, times the batch with us in it.

    With us, as in other implementations: without, all idle replicas would cost nothing, warm or not.
    """

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        tokens = candidates.queued_tokens + uncached_tokens(candidates)
        product: FloatArray = tokens * (candidates.open_requests + 1.0)
        return product


@dataclass(frozen=True, slots=True)
class ExactLowest:
    """The lowest cost, exactly; equal ones by chance. Rivals that know no near tie pick so."""

    compares_costs: ClassVar[bool] = True

    def pick(self, candidates: Candidates, cost_seconds: FloatArray, rows: IntArray, turn: Turn) -> Picked:  # noqa: ARG002
        costs = cost_seconds[rows]
        lowest = (costs == costs.min()).nonzero()[0]
        place = lowest.item(0) if len(lowest) == 1 else lowest.item(int(turn.rng.random() * len(lowest)))
        return Picked(rows.item(place), "exact_lowest")


RIVAL_FILTERS: Mapping[str, type[Filter]] = {
    "prefix_affinity": PrefixAffinity,
    "two_homes": TwoHomes,
    "exploit_or_explore": ExploitOrExplore,
    "first_holder": FirstHolder,
}
RIVAL_SCORERS: Mapping[str, type[Scorer]] = {
    "dynamo_blocks": DynamoBlocks,
    "prefix_miss": PrefixMiss,
    "cache_use": CacheUse,
    "queue_rank": QueueRank,
    "token_load": TokenLoad,
    "prefill_times_batch": PrefillTimesBatch,
}
RIVAL_PICKERS: Mapping[str, type[Picker]] = {"exact_lowest": ExactLowest}
