"""A request split over two replicas, as a decision: who computes the prompt, who answers, and what stood against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from router.fleet.replica import ReplicaId, Seat
from router.index.base import Trust
from router.policy.candidate import Candidates
from router.policy.decision import Whole
from router.policy.splitters import Pair

SPLIT_BYTES = 400  # beside what its prefill leg holds


class Split(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The prompt is computed by a donor, and answered by a taker that gets its KV.

    `prefill` and `decode` are the legs, each as if it were the whole request there, over the same candidates. What is
    predicted to be cached is the donor's part, for the taker computes nothing.
    """

    prefill: Whole
    decode: Whole
    pair: Pair
    alone: Whole | None  # what the policy would have done with it whole; None: nobody could answer it alone
    rule: str

    @property
    def policy(self) -> str:
        return self.prefill.policy

    @property
    def candidates(self) -> Candidates:
        return self.prefill.candidates

    @property
    def seat(self) -> Seat:
        """Of the replica that answers."""
        return self.decode.seat

    @property
    def replica(self) -> ReplicaId:
        return self.decode.replica

    @property
    def trust(self) -> Trust:
        return self.prefill.trust

    @property
    def block_size_tokens(self) -> int | None:
        return self.decode.block_size_tokens

    @property
    def predicted_cached_tokens(self) -> int:
        return self.prefill.predicted_cached_tokens

    @property
    def expected_cached_tokens(self) -> int:
        return self.prefill.expected_cached_tokens

    @property
    def uncached_tokens(self) -> int:
        return self.prefill.uncached_tokens

    @property
    def moved_tokens(self) -> int:
        """What the taker lacks of the prompt, as far as is known."""
        return max(1, self.decode.uncached_tokens)

    @property
    def queue_seconds(self) -> float:
        return self.prefill.queue_seconds

    @property
    def prefill_seconds(self) -> float:
        return self.prefill.prefill_seconds

    @property
    def first_token_seconds(self) -> float:
        """Predicted, from now."""
        return self.queue_seconds + self.prefill_seconds + self.pair.handover_seconds

    @property
    def cost_seconds(self) -> float:
        return self.pair.seconds(self.prefill.cost_seconds)

    @property
    def reason(self) -> str:
        """One sentence: the price of both legs, and of the best replica alone."""
        pair = self.pair
        parts = f"{self.prefill.cost_seconds:.3f} s on {self.prefill.replica}"
        parts += f" + {pair.handover_seconds:.3f} s to hand over to {self.replica}"
        if pair.queue_seconds > self.prefill.cost_seconds + pair.handover_seconds:
            parts += f", while {pair.queue_seconds:.3f} s are queued there"
        if pair.distance_seconds:
            parts += f" + {pair.distance_seconds:.3f} s distance"
        if self.alone is None:
            return f"{self.rule}: {parts}; nobody could answer it alone"
        return f"{self.rule}: {parts}; {self.alone.cost_seconds:.3f} s on {self.alone.replica} alone"

    def explain(self) -> list[dict[str, object]]:
        """One entry per candidate, the taker first, then the donor, then by cost."""
        taker, donor = self.replica, self.prefill.replica
        entries = self.decode.explain()
        for entry in entries:
            entry["leg"] = "decode" if entry["replica"] == taker else "prefill" if entry["replica"] == donor else None
            entry["chosen"] = entry["leg"] is not None
        return sorted(entries, key=lambda entry: (entry["leg"] is None, entry["leg"] == "prefill"))

    @property
    def handover(self) -> Mapping[str, object]:
        """The terms of the pair, for receipts."""
        pair = self.pair
        return {
            "prefill_replica": self.prefill.replica,
            "decode_replica": self.replica,
            "moved_tokens": self.moved_tokens,
            "prefill_cost_seconds": self.prefill.cost_seconds,
            "handover_seconds": pair.handover_seconds,
            "distance_seconds": pair.distance_seconds,
            "decode_seconds": pair.decode_seconds,
            "decode_queue_seconds": pair.queue_seconds,
            "alone_replica": None if self.alone is None else self.alone.replica,
            "alone_cost_seconds": None if self.alone is None else self.alone.cost_seconds,
        }

    @property
    def byte_size(self) -> int:
        """Bytes it keeps alive: its legs share their columns."""
        return self.prefill.byte_size + SPLIT_BYTES


Decision: TypeAlias = Whole | Split
