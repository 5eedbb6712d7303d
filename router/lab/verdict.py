"""What a paired difference means, in a sentence for someone who has to decide."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from router.lab.outcome import Outcome
from router.lab.pairs import Difference, Verdict
from router.sim.recording import Truth

WORTH_TELLING_RATIO = 0.005  # of hit ratios


def verdict(
    policy: str,
    present: str,
    rate_per_second: float,
    found: Difference | None,
    ours: Sequence[Outcome],
    theirs: Sequence[Outcome],
) -> str:
    """Sentences on one rate. `found` is ours less theirs, in seconds to the first token; None: too few requests."""
    at = f"At {rate_per_second:.3g} requests a second"
    if found is None:
        return f"{at}: too few requests were answered to tell {policy} from {present}. Record for longer."
    by = f"{found.requests:,} requests in common, 95 % interval {_told(found.low)} to {_told(found.high)}"
    if found.verdict is Verdict.INCONCLUSIVE:
        first = f"{at} no difference in the time to first token can be told between {policy} and {present} ({by})."
    else:
        than = "sooner" if found.verdict is Verdict.BETTER else "later"
        share = abs(found.mean) / max(1e-9, _mean(theirs, "ttft_mean_seconds"))
        first = (
            f"{at} first tokens come {abs(found.mean):.3f} s {than} with {policy} than with {present} on average, "
            f"{share:.0%} of its time ({by})."
        )
    return " ".join((first, _hits(policy, ours, theirs)))


def held_against(really: Truth, simulated: Sequence[Outcome]) -> str:
    """How well the simulation of the present policy tells what really happened; "" where nothing is known of that."""
    told = []
    if really.hit_ratio is not None:
        told.append(f"{really.hit_ratio:.1%} of prompt tokens cached, {_mean(simulated, 'hit_ratio'):.1%} simulated")
    if really.ttft_mean_seconds is not None:
        seconds = _mean(simulated, "ttft_mean_seconds")
        told.append(f"first tokens after {really.ttft_mean_seconds:.3f} s, {seconds:.3f} s simulated")
    if not told:
        return ""
    remedy = "Where the seconds differ much, try another --speedup."
    return f"What {simulated[0].policy} really did: {'; '.join(told)}. {remedy}"


def _mean(outcomes: Sequence[Outcome], figure: str) -> float:
    return fmean(getattr(one, figure) for one in outcomes)


def _told(seconds: float) -> str:
    return f"{abs(seconds):.3f} s {'sooner' if seconds < 0 else 'later'}"


def _hits(policy: str, ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> str:
    own, other = _mean(ours, "hit_ratio"), _mean(theirs, "hit_ratio")
    if abs(own - other) < WORTH_TELLING_RATIO:
        return f"Both find {own:.1%} of prompt tokens cached."
    return f"{policy} finds {own:.1%} of prompt tokens cached, {'up' if own > other else 'down'} from {other:.1%}."
