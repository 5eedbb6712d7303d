"""Is one policy better than another? The paired difference of two policies that answered the same requests.

Requests are paired by id and seed, and a request's difference is averaged over the seeds. Requests that arrive one
after another share queues and caches, so they are no independent samples: the interval is by batch means. The
differences, in the order of arrival, are cut into BATCHES stretches of equal length; the means of the stretches, each
long against what a queue remembers at a load that can be sustained, are taken as independent, and their mean has
Student's t interval.
(A bootstrap over requests would call noise a win; over so few stretches it says what t says.) Above what can be
sustained queues grow from first to last, stretches do depend on each other, and the interval is a rough one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import fmean, stdev

BATCHES = 20
STUDENT_T_95 = 2.093  # of BATCHES - 1 degrees of freedom, two-sided


class Verdict(StrEnum):
    BETTER = "better"
    WORSE = "worse"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Difference:
    """Ours less theirs, with its 95 % interval, in the unit of what was compared; less is better."""

    mean: float
    low: float
    high: float
    requests: int

    @property
    def verdict(self) -> Verdict:
        if self.high < 0:
            return Verdict.BETTER
        return Verdict.WORSE if self.low > 0 else Verdict.INCONCLUSIVE


def difference(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> Difference:
    """One mapping a seed: request ids, in the order of arrival, to what is compared. Raises ValueError for too few."""
    by_request: dict[str, list[float]] = {}
    for one, other in zip(ours, theirs, strict=True):
        for request, value in one.items():
            if request in other:
                by_request.setdefault(request, []).append(value - other[request])
    differences = [fmean(seeds) for seeds in by_request.values()]
    if len(differences) < 2 * BATCHES:
        raise ValueError(f"{len(differences)} requests in common are too few for {BATCHES} batches")
    cuts = [len(differences) * number // BATCHES for number in range(BATCHES + 1)]
    batches = [fmean(differences[begin:end]) for begin, end in pairwise(cuts)]
    mean = fmean(differences)
    half = STUDENT_T_95 * stdev(batches) / BATCHES**0.5
    return Difference(mean, mean - half, mean + half, len(differences))
