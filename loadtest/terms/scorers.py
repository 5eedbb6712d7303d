"""Prices that were thought of for the default policy, as scorers that only the lab knows.

Each is the smallest honest form of an idea from the literature on routers. None ships: results/terms.md says what each
is worth, and one that begins to earn something moves to router/policy. Pure, as those are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from router.fleet.replica import FloatArray
from router.policy import cost
from router.policy.candidate import Candidates
from router.policy.params import param
from router.policy.pickers import mixed_keys
from router.policy.scorers import Scorer
from router.sim.timing import TIMINGS

STEP_TOKENS = 8_192.0  # of prefill in one engine step


def uncached_tokens(candidates: Candidates) -> FloatArray:
    """Prefill that this request would need there."""
    tokens: FloatArray = candidates.prompt_tokens + candidates.other_tokens - cost.believed_tokens(candidates)
    return tokens


@dataclass(frozen=True, slots=True)
class Placebo:
    """Nothing but another chance: a nanosecond at most, by prompt and replica. What it is worth is the lab's noise."""

    seconds: float = param(1e-9, least=0.0)

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        mixed = mixed_keys(candidates.id_keys, candidates.prefix_key)
        share: FloatArray = mixed.astype(np.float64) / 2.0**64
        return share * self.seconds


@dataclass(frozen=True, slots=True)
class TruePrefill:
    """Our own prefill as the engine's timing has it: its true speed, and what attention to the cached depth costs.

    No estimator can know more. So what this is worth bounds what learning the four coefficients of

        c0 + c1 * new + c2 * context + c3 * new * context

    by recursive least squares could be worth, beside the one rate that is learned (fleet/rates.py).
    """

    timing: str = param("qwen3_32b_h100")
    first_slower: float = param(1.0, least=1.0)  # so many times as slow is the first replica

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        timing = TIMINGS[self.timing]
        new = uncached_tokens(candidates)
        held = cost.believed_tokens(candidates)
        steps = np.ceil(new / STEP_TOKENS)
        seconds: FloatArray = steps * (timing.fixed_seconds + timing.per_context_token_seconds * (held + new / 2))
        seconds += timing.per_new_token_seconds * new
        seconds += timing.per_new_and_context_token_seconds * new * (held + new / 2)
        return np.where(candidates.seats == 0, seconds * self.first_slower, seconds)


@dataclass(frozen=True, slots=True)
class TrueQueue:
    """The work queued there at the engine's true speed: as above, but for the depths of what is queued, which a router
    does not keep."""

    timing: str = param("qwen3_32b_h100")
    first_slower: float = param(1.0, least=1.0)

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        seconds: FloatArray = candidates.queued_tokens / TIMINGS[self.timing].prefill_tokens_per_second()
        return np.where(candidates.seats == 0, seconds * self.first_slower, seconds)


@dataclass(frozen=True, slots=True)
class ShadowPrice:
    """Our own prefill, priced higher the busier the fleet is: work done twice is cheap while others have none to do.

    Utilisation is read off the queues: their mean, as a share of `full_seconds`, 1 at most.
    """

    idle_weight: float = param(2.0, least=0.0)
    full_weight: float = param(6.0, least=0.0)
    full_seconds: float = param(1.0, least=1e-6)

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        mean_seconds = float(cost.queue_seconds(candidates).mean())
        share = min(1.0, mean_seconds / self.full_seconds)
        return cost.prefill_seconds(candidates) * (self.idle_weight + (self.full_weight - self.idle_weight) * share)


@dataclass(frozen=True, slots=True)
class EvictedValue:
    """What a placement pushes out that somebody would have come back for.

    `used_tokens` is here what the last requests used, ended or not (lingering.py). While that and our own work fit in
    the cache, what goes was not wanted any more. Beyond it, each token of ours costs one of theirs; until the cache is
    so crowded that its oldest would have gone anyway before anybody asked again.
    """

    fits_ratio: float = param(0.9, least=0.0)  # of the cache
    crowded_ratio: float = param(1.5, least=0.0)

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        new = uncached_tokens(candidates)
        full = (candidates.used_tokens + new) / candidates.cache_tokens
        left = 1.0 - (full - self.fits_ratio) / max(self.crowded_ratio - self.fits_ratio, 1e-9)
        wanted = np.where(full < self.fits_ratio, 0.0, np.clip(left, 0.0, 1.0))
        seconds: FloatArray = new * candidates.seconds_per_token * wanted
        return seconds


@dataclass(frozen=True, slots=True)
class DecodePenalty:
    """Slower steps in a replica that decodes much: for us, and by us for those who decode there."""

    full_seconds: float = param(1.0, least=0.0)  # where the contexts of decoding requests fill the cache

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        seconds: FloatArray = candidates.context_tokens * (self.full_seconds / candidates.cache_tokens)
        return seconds


@dataclass(frozen=True, slots=True)
class SessionPrice:
    """Leaving the replica where the session's last request went: its later turns will want to come back."""

    seconds: float = param(0.5, least=0.0)

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        if candidates.session_seat is None:
            return np.zeros(len(candidates))
        return np.where(candidates.seats == candidates.session_seat, 0.0, self.seconds)


@dataclass(frozen=True, slots=True)
class Replicate:
    """Our own prefill, but cheaper while everybody who holds most of what is held of the prompt has a queue: then one
    more copy is an investment. Once made it is a holder without a queue, which is the hysteresis."""

    weight: float = param(6.0, least=0.0)
    copy_weight: float = param(1.0, least=0.0)
    queue_seconds: float = param(0.5, least=0.0)

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        held = cost.believed_tokens(candidates)
        holds = held >= max(1.0, 0.5 * float(held.max()))
        queues = cost.queue_seconds(candidates)[holds]
        hot = len(queues) > 0 and float(queues.min()) > self.queue_seconds
        return cost.prefill_seconds(candidates) * (self.copy_weight if hot else self.weight)


@dataclass(frozen=True, slots=True)
class BelievingPrefill:
    """Our own prefill, every match taken in full whatever its trust: what belief is worth, upside down."""

    def cost_seconds(self, candidates: Candidates) -> FloatArray:
        work = candidates.prompt_tokens + candidates.other_tokens - candidates.expected_tokens
        seconds: FloatArray = work * candidates.seconds_per_token
        return seconds


LAB_SCORERS: Mapping[str, type[Scorer]] = {
    "placebo": Placebo,
    "true_prefill": TruePrefill,
    "true_queue": TrueQueue,
    "shadow_price": ShadowPrice,
    "evicted_value": EvictedValue,
    "decode_penalty": DecodePenalty,
    "session_price": SessionPrice,
    "replicate": Replicate,
    "believing_prefill": BelievingPrefill,
}
