"""Who beats whom, and whether two worlds say the same of it.

Within a world, one policy beats another when the 95 % interval of their paired difference (router/lab/pairs.py) leaves
out 0; otherwise the two are tied. Two worlds disagree on a pair only when each is sure of the opposite: a tie beside a
win is a matter of how much was measured, and is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from statistics import fmean

from router.lab.pairs import Difference, Verdict, difference

# By policy its runs, each by request in order of arrival; less is better.
World = Mapping[str, Sequence[Mapping[str, float]]]


class Accord(StrEnum):
    SAME = "same"
    UNDECIDED = "undecided"  # a tie in one world only
    OPPOSITE = "opposite"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two policies, and what both worlds say of the first less the second."""

    first: str
    second: str
    virtual: Difference
    http: Difference

    @property
    def accord(self) -> Accord:
        if self.virtual.verdict is self.http.verdict:
            return Accord.SAME
        if Verdict.INCONCLUSIVE in (self.virtual.verdict, self.http.verdict):
            return Accord.UNDECIDED
        return Accord.OPPOSITE


def pairs(virtual: World, http: World) -> Iterator[Pair]:
    """Every two policies, both of which both worlds played. Raises ValueError where too few requests were answered."""
    for first, second in combinations(virtual, 2):
        yield Pair(
            first,
            second,
            difference(virtual[first], virtual[second]),
            difference(http[first], http[second]),
        )


def order(world: World) -> list[str]:
    """Policies from the best mean to the worst, ties or not."""
    return sorted(world, key=lambda policy: fmean(fmean(run.values()) for run in world[policy]))
