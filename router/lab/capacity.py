"""The load a policy can sustain: the highest at which first tokens still come soon enough.

Soon enough is a TTFT p90 of at most MOST_SECONDS, or of MOST_TIMES what it is at a fifth of full load, whichever is
more. Full load is what keeps all replicas busy if every prompt is computed anew: it depends on workload and fleet
alone. All policies are held to one bound, from whichever is best at that fifth: one that is slow even there would
otherwise be allowed more. A load is a rate, or sessions at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from router.sim.timing import Timing

MOST_SECONDS, MOST_TIMES, LOW_LOAD = 1.0, 3.0, 0.2
STEP_TOKENS = 8192
WIDEN = 1.5
NEAR = 1.2  # how far off a guess is taken to be
WIDEST = 8  # steps in search of a bracket


@dataclass(frozen=True, slots=True)
class Sustained:
    """The answer lies between `below`, which was sustained, and `above`, which was not; `load` is the best guess.

    That is where the line between their p90s crosses the bound, both axes logarithmic."""

    load: float
    below: float
    above: float
    bound_seconds: float


def full_load(prompts: Iterable[tuple[int, int]], timing: Timing, replicas: int) -> float:
    """Requests a second that keep `replicas` busy without any cache. `prompts` are (prompt, answer) tokens.

    Answers are priced as their share of a batch: what a sequence adds to a step, not the step.
    """
    count, seconds = 0, 0.0
    for prompt_tokens, answer_tokens in prompts:
        count += 1
        for done in range(0, prompt_tokens, STEP_TOKENS):
            seconds += timing.step_seconds([(min(STEP_TOKENS, prompt_tokens - done), done)], 0, 0)
        per_token = timing.step_seconds((), 1, prompt_tokens) - timing.step_seconds((), 0, 0)
        seconds += answer_tokens * per_token
    return replicas * count / seconds


def bound(p90s_at_low_load: Iterable[float]) -> float:
    """Seconds that a TTFT p90 may be, from those of all policies at LOW_LOAD."""
    return max(MOST_SECONDS, MOST_TIMES * min(p90s_at_low_load))


def sustained(
    p90_at: Callable[[float], float],
    full: float,
    bound_seconds: float,
    within: float = 0.05,
    near: float | None = None,
) -> Sustained:
    """Bisection to a bracket whose ends differ by `within`. `p90_at` plays the workload at a load: seconds.

    The search begins around `near` where a guess is given, and goes as far from it as it must."""
    low, high = (near / NEAR, near * NEAR) if near else (LOW_LOAD * full, full)
    at_low = p90_at(low)
    at_high = p90_at(high) if at_low <= bound_seconds else at_low
    for _ in range(WIDEST):
        if at_low <= bound_seconds:
            break
        low, high, at_high = low / WIDEN, low, at_low
        at_low = p90_at(low)
    for _ in range(WIDEST):
        if at_high > bound_seconds:
            break
        low, high, at_low = high, high * WIDEN, at_high
        at_high = p90_at(high)
    while high / low > 1 + within:
        middle = (low * high) ** 0.5
        at_middle = p90_at(middle)
        if at_middle <= bound_seconds:
            low, at_low = middle, at_middle
        else:
            high, at_high = middle, at_middle
    return Sustained(_crossing((low, at_low), (high, at_high), bound_seconds), low, high, bound_seconds)


def _crossing(low: tuple[float, float], high: tuple[float, float], bound_seconds: float) -> float:
    """Between two loads with their p90s, one to each side of the bound; the low load where they are not."""
    if not 0.0 < low[1] <= bound_seconds < high[1]:
        return low[0]
    share = math.log(bound_seconds / low[1]) / math.log(high[1] / low[1])
    return low[0] * math.pow(high[0] / low[0], share)
