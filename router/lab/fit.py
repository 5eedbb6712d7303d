"""How fast the engines of a recording were, beside a published fit.

Each recorded first token is held against the time that the fit gives the same prompt alone, with the same tokens
cached. Waiting in a queue only makes a first token later, so the faster of the requests tell the engine's speed: the
ratio that SHARE of them do not exceed. Decoding is not looked at.
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


def speedup(became: Sequence[Became], timing: Timing) -> float | None:
    """How many times as fast as the fit they were; None where too few requests tell."""
    ratios = []
    for one in became:
        cached, milliseconds = one.cached_length, one.first_token
        if cached is not None and milliseconds and one.input_length - cached >= LEAST_UNCACHED_TOKENS:
            ratios.append(1e3 * alone_seconds(timing, one.input_length, cached) / milliseconds)
    return percentile(ratios, SHARE) if len(ratios) >= LEAST_REQUESTS else None


def alone_seconds(timing: Timing, prompt_tokens: int, cached_tokens: int) -> float:
    """To the first token of a prompt that has the engine to itself."""
    return sum(
        timing.step_seconds([(min(STEP_TOKENS, prompt_tokens - done), done)], 0, 0)
        for done in range(cached_tokens, prompt_tokens, STEP_TOKENS)
    )
