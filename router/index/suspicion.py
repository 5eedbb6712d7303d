"""What a replica's misses have in common: one named suspicion, for a line in the log and for whoever asks.

There is a suspicion as soon as, and as long as, truth trust is lowered (R 5.2): the cause that most of the misses in
the window have. Single misses of all kinds are everyday life and accuse nobody. A cause may be corrected while the news
that tells it from others is still on its way, so a suspicion is formed anew with each miss and each correction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from router.index.causes import MEANINGS, Cause


@dataclass(slots=True, eq=False)
class Miss:
    """One judged request that was not exact. Changed by whoever finds its cause."""

    number: int  # how many of the replica's requests had been weighed, with this one
    predicted_blocks: int
    reported_blocks: int  # begun ones count
    missed: bool  # by more than a block, in a direction that counts
    told: bool  # what was predicted was told by events; a guess that errs accuses nobody
    cause: Cause = Cause.UNKNOWN

    @property
    def error_blocks(self) -> int:
        return self.reported_blocks - self.predicted_blocks


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Why a replica is not believed. `misses` of the last `judged` have this cause; 0 where the events alone told."""

    cause: Cause
    misses: int
    judged: int
    says: str


def suspected(misses: Sequence[Miss], judged: int) -> Suspicion:
    """What the misses (at least one) among the last `judged` requests speak for. Of equals, the one seen first."""
    cause, count = Counter(miss.cause for miss in misses).most_common(1)[0]
    shown = [miss for miss in misses if miss.cause is cause]
    predicted = _span([miss.predicted_blocks for miss in shown])
    reported = _span([miss.reported_blocks for miss in shown])
    says = f"{count} of the last {judged} judged predicted {predicted} blocks and hit {reported}; {MEANINGS[cause]}"
    return Suspicion(cause, count, judged, says)


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
