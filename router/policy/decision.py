"""What was decided of a whole request, and why: where it goes, what that was expected to cost, what stood against it.

A decision is made on the hot path and explained off it: it keeps the columns it was made from, and turns them into
sentences only when a receipt is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from router.fleet.replica import FloatArray, ReplicaId, Seat
from router.index.base import Trust
from router.policy.candidate import Candidate, Candidates, Figures

# Price terms below this say nothing to a reader.
WORTH_TELLING_SECONDS = 0.00005

# The two structs, their scalars and the headers of their arrays, as sys.getsizeof over the parts tells.
FIXED_BYTES = 1_700


class Pricing(Protocol):
    """Whose prices decided: asked again, of the same columns, when a decision is explained."""

    @property
    def name(self) -> str: ...

    def price_terms(self, candidates: Candidates) -> Mapping[str, FloatArray]: ...


class Whole(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The whole request goes to one replica."""

    candidates: Candidates  # all who could have answered
    row: int  # of the chosen one
    here: Figures  # its numbers
    block_size_tokens: int | None  # of the replica; None: not known, so nothing was matched there
    pricing: Pricing
    rule: str  # which guards, filters and picker decided
    total_seconds: FloatArray

    @property
    def policy(self) -> str:
        return self.pricing.name

    @property
    def seat(self) -> Seat:
        return self.here.seat

    @property
    def replica(self) -> ReplicaId:
        return self.here.replica

    @property
    def trust(self) -> Trust:
        return Trust(self.candidates.trust.item(self.row))

    @property
    def predicted_cached_tokens(self) -> int:
        """The part told by events, or guessed: what the engine's report is judged against, whatever the trust."""
        return int(self.here.held_tokens)

    @property
    def expected_cached_tokens(self) -> int:
        """The same or more: with what our requests in flight will have put there (R 4.6)."""
        return int(self.here.expected_tokens)

    @property
    def uncached_tokens(self) -> int:
        """Prefill work to charge: all prompts of the body, less the cached tokens that trust lets us count on."""
        here = self.here
        return here.work_tokens - int(here.expected_tokens * here.belief)

    @property
    def queue_seconds(self) -> float:
        """Predicted, until our prefill starts."""
        return self.here.queued_tokens * self.here.seconds_per_token

    @property
    def prefill_seconds(self) -> float:
        """Predicted, for our own prefill."""
        return self.uncached_tokens * self.here.seconds_per_token

    @property
    def first_token_seconds(self) -> float:
        """Predicted, from now."""
        return self.queue_seconds + self.prefill_seconds

    @property
    def cost_seconds(self) -> float:
        """What the policy's terms added up to."""
        return self.total_seconds.item(self.row)

    @property
    def reason(self) -> str:
        """One sentence: the rule, the price here, and the best alternative."""
        candidates = self.candidates
        terms = self.pricing.price_terms(candidates)
        if not terms:
            return f"{self.rule}, of {int(candidates.allowed.sum())} replicas"
        here = f"{self.rule}: {_price(terms, self.row)} here"
        others = [row for row in candidates.allowed.nonzero()[0].tolist() if row != self.row]
        if not others:
            return f"{here}; no other replica may be chosen"
        best = min(others, key=self.total_seconds.item)
        relation = "next best" if self.total_seconds.item(best) >= self.cost_seconds else "cheaper but passed over:"
        return f"{here}; {relation} {candidates.ids[best]}: {_price(terms, best)}"

    @property
    def handover(self) -> None:
        """It is not split."""
        return None

    def explain(self) -> list[dict[str, object]]:
        """One entry per candidate, the chosen one first, then by cost; tokens, seconds and plain values only."""
        candidates = self.candidates
        terms = self.pricing.price_terms(candidates)
        order = sorted(range(len(candidates)), key=lambda row: (row != self.row, self.total_seconds.item(row)))
        return [self._entry(candidates.row(row), row, terms) for row in order]

    @property
    def byte_size(self) -> int:
        """Bytes this decision keeps alive, the ids left out, as all decisions share them."""
        columns = self.candidates
        rows = len(columns.ids)
        # Six columns of its own and the total at 8 bytes, one column at 1; those of the fleet are shared like the ids.
        # Two more where the policy reads open blocks; else one column of zeros is the fleet's, and stands for both.
        counted = 7 if columns.used_tokens is columns.shared_tokens else 9
        return FIXED_BYTES + rows * (8 * counted + 1)

    def _entry(self, one: Candidate, row: int, terms: Mapping[str, FloatArray]) -> dict[str, object]:
        return {
            "replica": one.replica,
            "chosen": row == self.row,
            "allowed": one.allowed,
            "trust": one.trust.name,
            "belief": one.belief,
            "held_tokens": one.held_tokens,
            "slower_tokens": one.slower_tokens,
            "expected_tokens": one.expected_tokens,
            "queued_tokens": one.queued_tokens,
            "open_requests": one.open_requests,
            "context_tokens": one.context_tokens,
            "tokens_per_second": one.tokens_per_second,
            "cost_seconds": self.total_seconds.item(row),
            "terms_seconds": {name: seconds.item(row) for name, seconds in terms.items()},
        }


def _price(terms: Mapping[str, FloatArray], row: int) -> str:
    parts = [
        f"{_told(seconds.item(row))} {name.replace('_', ' ')}"
        for name, seconds in terms.items()
        if seconds.item(row) >= WORTH_TELLING_SECONDS
    ]
    return " + ".join(parts) or "nothing to wait for"


def _told(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def chosen(
    candidates: Candidates, row: int, block_size: int | None, pricing: Pricing, rule: str, total_seconds: FloatArray
) -> Whole:
    """The decision for one row of columns."""
    return Whole(candidates, row, candidates.figures(row), block_size, pricing, rule, total_seconds)
