"""Receipts: what was decided about each request, why, and what became of it (R 6.3).

Kept in memory, the newest ones, bounded by number and by bytes. A receipt holds the decision as it was made, columns
and all, and is turned into words only when somebody asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from router.fleet.replica import ReplicaId
from router.index.accuracy import Verdict
from router.metrics import Outcome
from router.policy.shadow import Opinion

MOST_RECEIPTS = 50_000
MOST_BYTES = 64 << 20

# Measured with tracemalloc on CPython 3.11: a receipt with its strings, numbers and table entry.
RECEIPT_BYTES = 700
TRIED_BYTES = 140
OPINION_BYTES = 180


class DecisionRecord(Protocol):
    """A decision as the decider made it, kept whole and put into words on demand."""

    @property
    def byte_size(self) -> int: ...

    @property
    def replica(self) -> ReplicaId: ...

    @property
    def policy(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def predicted_cached_tokens(self) -> int: ...

    @property
    def expected_cached_tokens(self) -> int: ...

    @property
    def handover(self) -> Mapping[str, object] | None:
        """Of a request split over two replicas, the terms of the pair."""

    def explain(self) -> Sequence[Mapping[str, object]]:
        """One entry per candidate, the chosen one first: match, load and price terms."""


class Tried(msgspec.Struct, frozen=True, gc=False):
    """One replica tried. `ending`: "ok", or what went wrong in a few words."""

    replica: ReplicaId
    ending: str
    seconds: float
    leg: str | None = None  # prefill or decode, of a split request


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """One finished request. None means: not known, or it did not come to that."""

    request_id: str
    client_request_id: str | None
    endpoint: str
    model: str
    received_at_wall_seconds: float  # Unix time
    outcome: Outcome
    status: int | None  # what the client saw; None when it was gone before
    total_seconds: float
    ttft_seconds: float | None = None
    held_seconds: float = 0.0  # of them, waiting here for its turn at a replica
    prompt_tokens: int | None = None
    token_source: str | None = None  # local, engine, none
    unpredicted: str | None = None  # cause, when nothing was predicted
    decision: DecisionRecord | None = None  # the last one, whose replica answered
    opinion: Opinion | None = None  # the shadow policy's on that decision
    attempts: tuple[Tried, ...] = ()
    reported_cached_tokens: int | None = None
    verdict: Verdict | None = None
    fault: str | None = None  # what the client was told went wrong

    @property
    def byte_size(self) -> int:
        """About what it holds in memory. Cheap: counted on every request."""
        decision_bytes = 0 if self.decision is None else self.decision.byte_size
        decision_bytes += 0 if self.opinion is None else OPINION_BYTES
        return RECEIPT_BYTES + TRIED_BYTES * len(self.attempts) + len(self.client_request_id or "") + decision_bytes

    def as_json(self) -> dict[str, object]:
        """The whole receipt for `GET /homing/explain/{request_id}`."""
        return {
            "request_id": self.request_id,
            "client_request_id": self.client_request_id,
            "endpoint": self.endpoint,
            "model": self.model,
            "received_at": datetime.fromtimestamp(self.received_at_wall_seconds, UTC).isoformat(
                timespec="milliseconds"
            ),
            "outcome": self.outcome.value,
            "status": self.status,
            "total_seconds": self.total_seconds,
            "ttft_seconds": self.ttft_seconds,
            "held_seconds": self.held_seconds,
            "prompt_tokens": self.prompt_tokens,
            "token_source": self.token_source,
            "unpredicted": self.unpredicted,
            "decision": None if self.decision is None else _decision_json(self.decision),
            "shadow": None if self.opinion is None else msgspec.structs.asdict(self.opinion),
            "attempts": [
                {
                    "replica": attempt.replica,
                    "leg": attempt.leg,
                    "ending": attempt.ending,
                    "seconds": attempt.seconds,
                }
                for attempt in self.attempts
            ],
            "reported_cached_tokens": self.reported_cached_tokens,
            "verdict": None if self.verdict is None else _verdict_json(self.verdict),
            "fault": self.fault,
        }


class Receipts:
    """The newest receipts by request id. Only the account of a finished request adds."""

    def __init__(self, most_receipts: int = MOST_RECEIPTS, most_bytes: int = MOST_BYTES) -> None:
        self._most_receipts = most_receipts
        self._most_bytes = most_bytes
        self._receipts: OrderedDict[str, tuple[Receipt, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._receipts)

    @property
    def used_bytes(self) -> int:
        return self._bytes

    def add(self, receipt: Receipt) -> None:
        """Keep it, dropping the oldest while there are too many. One larger than the whole bound is not kept."""
        size = receipt.byte_size
        if receipt.request_id in self._receipts:
            self._drop(self._receipts.pop(receipt.request_id))
        self._receipts[receipt.request_id] = (receipt, size)
        self._bytes += size
        while len(self._receipts) > self._most_receipts or self._bytes > self._most_bytes:
            self._drop(self._receipts.popitem(last=False)[1])

    def get(self, request_id: str) -> Receipt | None:
        found = self._receipts.get(request_id)
        return None if found is None else found[0]

    def latest(self, count: int) -> list[Receipt]:
        """Up to `count` receipts, newest first."""
        newest_first = reversed(self._receipts.values())
        return [receipt for (receipt, _), _ in zip(newest_first, range(count), strict=False)]

    def _drop(self, dropped: tuple[Receipt, int]) -> None:
        self._bytes -= dropped[1]


def _decision_json(decision: DecisionRecord) -> dict[str, object]:
    return {
        "policy": decision.policy,
        "reason": decision.reason,
        "predicted_cached_tokens": decision.predicted_cached_tokens,
        "expected_cached_tokens": decision.expected_cached_tokens,
        "split": decision.handover,
        "candidates": [dict(candidate) for candidate in decision.explain()],
    }


def _verdict_json(verdict: Verdict) -> dict[str, object]:
    if verdict.cause is not None:
        return {"judged": False, "cause": verdict.cause.value}
    return {
        "judged": True,
        "exact": verdict.exact,
        "predicted_cached_tokens": verdict.predicted_tokens,
        "reported_cached_tokens": verdict.reported_tokens,
        "error_blocks": verdict.error_blocks,
        "missed": verdict.missed,
        "cause": None if verdict.miss is None else verdict.miss.cause.value,
    }
