"""What is asked and who could answer: the question, and the replicas as a policy sees them at one instant.

`Candidates` holds columns, one row per replica, because a decision over 128 replicas has some tens of microseconds:
each step of a policy is one numpy call over all of them. `Candidate` is one row, for tests, receipts and people.
What is done with them is told in filters.py, scorers.py and pickers.py; how they are gathered, in decider.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from router.fleet.replica import BoolArray, FloatArray, IntArray, ReplicaId, Seat
from router.index.base import Trust
from router.policy.belief import BELIEF_BY_TRUST
from router.prompt.blocks import BlockHashes

KeyArray: TypeAlias = npt.NDArray[np.uint64]

# What a replica is taken to prefill before it has shown its own rate; here for rows made by hand.
PRIOR_TOKENS_PER_SECOND = 8_000.0


class Ask(msgspec.Struct, frozen=True, gc=False):
    """One request, as far as a decision depends on it."""

    model: str  # the name asked for
    prompt_tokens: int  # of the longest prompt in the body, known or estimated
    hashes: Mapping[int, BlockHashes] = msgspec.field(
        default_factory=dict
    )  # by block size; empty: nothing can be predicted
    other_tokens: int = 0  # of the body's further prompts: charged, never matched (R 5.1)
    session_key: str | None = None
    prefix_key: int = 0  # 64-bit hash of the prompt's beginning
    exclude: frozenset[Seat] = frozenset()  # tried already
    waited_seconds: float = 0.0  # held back so long for want of room (policy/hold.py)
    handshakes: frozenset[str] = frozenset()  # with which it may be split over two replicas; none: it stays whole


@dataclass(frozen=True, slots=True)
class Candidate:
    """One replica as a policy sees it, at one moment."""

    replica: ReplicaId
    seat: Seat
    held_tokens: int = 0  # leading prompt tokens that events (or guesses) say are cached there
    slower_tokens: int = 0  # further tokens, right after those, in slower tiers
    expected_tokens: int = 0  # held, or more, where requests of ours in flight will have put more (R 4.6)
    queued_tokens: float = 0.0  # prefill work ahead of us there
    open_requests: int = 0
    context_tokens: float = 0.0  # tokens of context that its open requests keep alive
    used_tokens: float = 0.0  # distinct prompt tokens that its open requests use; 0 unless the policy asks for them
    shared_tokens: float = 0.0  # leading tokens of this prompt among those
    cache_tokens: float = math.inf  # what its cache holds; infinite where it did not say
    tokens_per_second: float = PRIOR_TOKENS_PER_SECOND  # prefill rate, above 0
    trust: Trust = Trust.EXACT
    belief: float | None = None  # share of a match that counts, 0 to 1; None: as its trust alone implies
    allowed: bool = True  # healthy, below its cap and not tried already


class Figures(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What is read of the chosen replica, as plain numbers: an element of a column costs ten times as much."""

    seat: Seat
    replica: ReplicaId
    held_tokens: float
    expected_tokens: float
    queued_tokens: float
    seconds_per_token: float
    belief: float
    work_tokens: int  # of all prompts in the body


class Candidates(msgspec.Struct, frozen=True, eq=False, gc=False):
    """All replicas that serve the model, as columns of equal length, in ascending order of seat. Nobody writes to them.

    The three token columns that come from the index are already capped by the hit rule (R 4.1). Counts are floats, as
    prices multiply them by floats and numpy takes twice as long for that with integers.
    """

    ids: tuple[ReplicaId, ...]
    id_keys: KeyArray  # 64-bit hash of each id, the same in every process
    seats: IntArray
    held_tokens: FloatArray
    slower_tokens: FloatArray
    expected_tokens: FloatArray
    queued_tokens: FloatArray
    open_requests: FloatArray
    context_tokens: FloatArray
    used_tokens: FloatArray
    shared_tokens: FloatArray
    cache_tokens: FloatArray
    tokens_per_second: FloatArray
    seconds_per_token: FloatArray  # the same upside down: multiplying is cheaper
    trust: IntArray
    belief: FloatArray
    all_believed: bool  # every belief is 1
    allowed: BoolArray
    prompt_tokens: int
    other_tokens: int = 0
    prefix_key: int = 0
    session_seat: Seat | None = None  # where the session's last request went, if it is remembered
    waited_seconds: float = 0.0  # how long the request was held back for want of room
    able_alone: BoolArray | None = None  # of those allowed, who may answer alone; None: all of them

    @property
    def whole_rows(self) -> IntArray:
        """The rows a whole request may be sent to."""
        return (self.allowed if self.able_alone is None else self.able_alone).nonzero()[0]

    def __len__(self) -> int:
        return len(self.ids)

    def figures(self, row: int) -> Figures:
        return Figures(
            self.seats.item(row),  # type: ignore[arg-type]  # calling Seat costs twice as much
            self.ids[row],
            self.held_tokens.item(row),
            self.expected_tokens.item(row),
            self.queued_tokens.item(row),
            self.seconds_per_token.item(row),
            self.belief.item(row),
            self.prompt_tokens + self.other_tokens,
        )

    def row(self, row: int) -> Candidate:
        return Candidate(
            replica=self.ids[row],
            seat=Seat(self.seats.item(row)),
            held_tokens=int(self.held_tokens.item(row)),
            slower_tokens=int(self.slower_tokens.item(row)),
            expected_tokens=int(self.expected_tokens.item(row)),
            queued_tokens=self.queued_tokens.item(row),
            open_requests=int(self.open_requests.item(row)),
            context_tokens=self.context_tokens.item(row),
            used_tokens=self.used_tokens.item(row),
            shared_tokens=self.shared_tokens.item(row),
            cache_tokens=self.cache_tokens.item(row),
            tokens_per_second=self.tokens_per_second.item(row),
            trust=Trust(self.trust.item(row)),
            belief=self.belief.item(row),
            allowed=self.allowed.item(row),
        )

    @classmethod
    def of(
        cls,
        rows: Sequence[Candidate],
        *,
        prompt_tokens: int,
        other_tokens: int = 0,
        prefix_key: int = 0,
        session_seat: Seat | None = None,
        waited_seconds: float = 0.0,
    ) -> Candidates:
        """Columns from rows, put in ascending order of seat."""
        rows = sorted(rows, key=lambda row: row.seat)
        ids = tuple(row.replica for row in rows)
        tokens_per_second = np.array([row.tokens_per_second for row in rows], dtype=np.float64)
        belief = np.array([BELIEF_BY_TRUST[row.trust] if row.belief is None else row.belief for row in rows])
        return cls(
            ids=ids,
            id_keys=id_keys(ids),
            seats=np.array([row.seat for row in rows], dtype=np.int64),
            held_tokens=np.array([row.held_tokens for row in rows], dtype=np.float64),
            slower_tokens=np.array([row.slower_tokens for row in rows], dtype=np.float64),
            expected_tokens=np.array([max(row.expected_tokens, row.held_tokens) for row in rows], dtype=np.float64),
            queued_tokens=np.array([row.queued_tokens for row in rows], dtype=np.float64),
            open_requests=np.array([row.open_requests for row in rows], dtype=np.float64),
            context_tokens=np.array([row.context_tokens for row in rows], dtype=np.float64),
            used_tokens=np.array([row.used_tokens for row in rows], dtype=np.float64),
            shared_tokens=np.array([row.shared_tokens for row in rows], dtype=np.float64),
            cache_tokens=np.array([row.cache_tokens for row in rows], dtype=np.float64),
            tokens_per_second=tokens_per_second,
            seconds_per_token=1.0 / tokens_per_second,
            trust=np.array([row.trust for row in rows], dtype=np.int64),
            belief=belief,
            all_believed=bool((belief == 1.0).all()),
            allowed=np.array([row.allowed for row in rows], dtype=np.bool_),
            prompt_tokens=prompt_tokens,
            other_tokens=other_tokens,
            prefix_key=prefix_key,
            session_seat=session_seat,
            waited_seconds=waited_seconds,
        )


def id_keys(ids: Sequence[ReplicaId]) -> KeyArray:
    """One hash per id. Not `hash()`, which differs from process to process: routers must agree without talking."""
    return np.array([xxhash.xxh3_64_intdigest(replica.encode()) for replica in ids], dtype=np.uint64)
