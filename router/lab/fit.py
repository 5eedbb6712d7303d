"""How fast the engines of a recording were, beside a published fit.

Each recorded first token is held against the time that the fit gives the same prompt alone, with the same tokens
cached. Those tell that waited for nobody (R 5.3), where there are enough of them, else all. Waiting that nobody knew of
only makes a first token later, so of those the faster are believed: the ratio that SHARE of them do not exceed.
Decoding is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.lab.capacity import STEP_TOKENS
from router.sim.recording import Became
from router.sim.report import percentile
from router.sim.timing import Timing

LEAST_UNCACHED_TOKENS = 512  # of fewer, network and rounding make up most of the time
LEAST_REQUESTS = 20
SHARE = 0.8
MOST_QUEUED = 0.1  # of the time to its first token, for a request that waited for nobody


def speedup(became: Sequence[Became], timing: Timing) -> float | None:
    """How many times as fast as the fit they were; None where too few requests tell."""
    ratios, alone = [], []
    for one in became:
        cached, milliseconds = one.cached_length, one.first_token
        if cached is not None and milliseconds and one.input_length - cached >= LEAST_UNCACHED_TOKENS:
            ratios.append(1e3 * alone_seconds(timing, one.input_length, cached) / milliseconds)
            if one.queued is not None and one.queued <= MOST_QUEUED * milliseconds:
                alone.append(ratios[-1])
    telling = alone if len(alone) >= LEAST_REQUESTS else ratios
    return percentile(telling, SHARE) if len(telling) >= LEAST_REQUESTS else None


def alone_seconds(timing: Timing, prompt_tokens: int, cached_tokens: int) -> float:
    """To the first token of a prompt that has the engine to itself."""
    return sum(
        timing.step_seconds([(min(STEP_TOKENS, prompt_tokens - done), done)], 0, 0)
        for done in range(cached_tokens, prompt_tokens, STEP_TOKENS)
    )
