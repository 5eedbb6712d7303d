"""What a choice costs, in seconds: the formulas behind the scorers, whole columns at a time.

The cost of a replica is the time to first token to be expected there: the prefill work ahead of us, then our own, less
what its cache spares us, as far as that is believed. All of it is tokens over the replica's learned prefill rate.
Slower tiers are not priced, so a match that continues there is a lower bound.
"""

from __future__ import annotations

from router.fleet.replica import FloatArray
from router.policy.candidate import Candidates


def believed_tokens(candidates: Candidates) -> FloatArray:
    """Cached tokens that a price may count on, per candidate."""
    if candidates.all_believed:
        return candidates.expected_tokens
    believed: FloatArray = candidates.expected_tokens * candidates.belief
    return believed


def queue_seconds(candidates: Candidates) -> FloatArray:
    """Until the prefill work already there is done."""
    seconds: FloatArray = candidates.queued_tokens * candidates.seconds_per_token
    return seconds


def prefill_seconds(candidates: Candidates) -> FloatArray:
    """For our own prefill, once it starts."""
    work_tokens = candidates.prompt_tokens + candidates.other_tokens
    seconds: FloatArray = (work_tokens - believed_tokens(candidates)) * candidates.seconds_per_token
    return seconds
