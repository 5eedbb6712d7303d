"""What was decided and why: where the whole request goes, what that was expected to cost, and what stood against it.

A decision is made on the hot path and explained off it: it keeps the columns it was made from, and turns them into
sentences only when a receipt is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from router.fleet.replica import FloatArray, ReplicaId, Seat
from router.index.base import Trust
from router.policy.candidate import Candidates

# Price terms below this say nothing to a reader.
WORTH_TELLING_SECONDS = 0.00005

# The two dataclasses, their scalars and the headers of their arrays, as sys.getsizeof over the parts tells.
FIXED_BYTES = 2_300


# Not frozen, for the reason given at Candidates.
@dataclass(slots=True, eq=False)
class Whole:
    """The whole request goes to one replica. Nobody changes it."""

    candidates: Candidates = field(repr=False)
    row: int  # of the chosen one
    block_size_tokens: int | None  # of the replica; None: not known, so nothing was matched there
    policy: str
    rule: str  # which guards, filters and picker decided
    term_names: tuple[str, ...] = field(repr=False)
    terms: tuple[FloatArray, ...] = field(repr=False)  # seconds per candidate, as weighted, in the order of term_names
    total_seconds: FloatArray = field(repr=False)

    @property
    def seat(self) -> Seat:
        return Seat(self.candidates.seats.item(self.row))

    @property
    def replica(self) -> ReplicaId:
        return self.candidates.ids[self.row]

    @property
    def trust(self) -> Trust:
        return Trust(self.candidates.trust.item(self.row))

    @property
    def predicted_cached_tokens(self) -> int:
        """The part told by events, or guessed: what the engine's report is judged against, whatever the trust."""
        return self.candidates.held_tokens.item(self.row)

    @property
    def expected_cached_tokens(self) -> int:
        """The same or more: with what our requests in flight will have put there (R 4.6)."""
        return self.candidates.expected_tokens.item(self.row)

    @property
    def uncached_tokens(self) -> int:
        """Prefill work to charge: all prompts of the body, less the cached tokens that trust lets us count on."""
        columns = self.candidates
        believed_tokens = int(self.expected_cached_tokens * columns.belief.item(self.row))
        return columns.prompt_tokens + columns.other_tokens - believed_tokens

    @property
    def queue_seconds(self) -> float:
        """Predicted, until our prefill starts."""
        return self.candidates.queued_tokens.item(self.row) / self.candidates.tokens_per_second.item(self.row)

    @property
    def prefill_seconds(self) -> float:
        """Predicted, for our own prefill."""
        return self.uncached_tokens / self.candidates.tokens_per_second.item(self.row)

    @property
    def cost_seconds(self) -> float:
        """What the policy's terms added up to."""
        return self.total_seconds.item(self.row)

    @property
    def reason(self) -> str:
        """One sentence: the rule, the price here, and the best alternative."""
        if not self.terms:
            return f"{self.rule}, of {int(self.candidates.allowed.sum())} replicas"
        here = f"{self.rule}: {self._price(self.row)} here"
        others = [row for row in self.candidates.allowed.nonzero()[0].tolist() if row != self.row]
        if not others:
            return f"{here}; no other replica may be chosen"
        best = min(others, key=self.total_seconds.item)
        relation = "next best" if self.total_seconds.item(best) >= self.cost_seconds else "cheaper but passed over:"
        return f"{here}; {relation} {self.candidates.ids[best]}: {self._price(best)}"

    def explain(self) -> list[dict[str, object]]:
        """One entry per candidate, the chosen one first, then by cost; tokens, seconds and plain values only."""
        order = sorted(range(len(self.candidates)), key=lambda row: (row != self.row, self.total_seconds.item(row)))
        return [self._entry(row) for row in order]

    @property
    def byte_size(self) -> int:
        """Bytes this decision keeps alive, the ids left out, as all decisions share them."""
        columns = self.candidates
        rows = len(columns)
        # Nine columns of its own and the total at 8 bytes, one column at 1; seats and id keys are shared like the ids.
        return FIXED_BYTES + rows * (8 * (10 + len(self.terms)) + 1)

    def _entry(self, row: int) -> dict[str, object]:
        one = self.candidates.row(row)
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
            "terms_seconds": {name: term.item(row) for name, term in zip(self.term_names, self.terms, strict=True)},
        }

    def _price(self, row: int) -> str:
        parts = [
            f"{_told(term.item(row))} {name.replace('_', ' ')}"
            for name, term in zip(self.term_names, self.terms, strict=True)
            if term.item(row) >= WORTH_TELLING_SECONDS
        ]
        return " + ".join(parts) or "nothing to wait for"


# A request split over a prefill and a decode replica will be the other kind of decision.
Decision: TypeAlias = Whole


def _told(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
