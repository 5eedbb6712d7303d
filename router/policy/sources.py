"""What the decider asks of the rooms below, and no more: who there is, how well, how busy, how fast, how trusted.

The real ones stand in router/fleet and router/index. They are named here by what is read from them, so that a virtual
fleet can bring its own.
"""

from __future__ import annotations

from typing import Protocol

from router.fleet.replica import BoolArray, Facts, FloatArray, IntArray, Replica, ReplicaId, Seat, ServedModel
from router.prompt.blocks import BlockHashes


class Roster(Protocol):
    @property
    def version(self) -> int: ...
    def serving(self, model_name: str) -> IntArray: ...  # ascending; raises UnknownModel
    def serving_ids(self, model_name: str) -> tuple[ReplicaId, ...]: ...
    def served(self, model_name: str) -> ServedModel: ...
    def facts(self, seat: Seat) -> Facts: ...
    def replica(self, seat: Seat) -> Replica: ...


class Health(Protocol):
    @property
    def calm(self) -> bool: ...  # every present replica is allowed
    def allowed(self, seats: IntArray, now_seconds: float) -> BoolArray: ...
    def retry_after_seconds(self, seats: IntArray, now_seconds: float) -> float: ...


class Newcomers(Protocol):
    @property
    def settled_at_seconds(self) -> float: ...  # from then on `eased` has nothing to say
    def eased(
        self,
        seats: IntArray,
        allowed: BoolArray,
        open_requests: FloatArray,
        warm_tokens: FloatArray,
        now_seconds: float,
    ) -> BoolArray: ...


class Ledger(Protocol):
    """Columns by seat, at least as long as the highest seat. Its length is the number of open requests."""

    def __len__(self) -> int: ...
    @property
    def all_peer_requests(self) -> int: ...  # what other routers have open, all seats together
    @property
    def queued_tokens(self) -> FloatArray: ...
    @property
    def open_requests(self) -> FloatArray: ...
    @property
    def context_tokens(self) -> FloatArray: ...
    def advance(self, now_seconds: float) -> None: ...


class Rates(Protocol):
    @property
    def version(self) -> int: ...  # another number when any rate may have changed
    def tokens_per_second(self, model: str, seats: IntArray) -> FloatArray: ...  # above 0; by the model's base


class Trusts(Protocol):
    @property
    def version(self) -> int: ...  # another number when any trust or belief changed
    def effective(self, seats: IntArray) -> IntArray: ...  # Trust values: the lesser of stream and truth (R 5.2)
    def belief(self, seats: IntArray) -> FloatArray: ...  # how far a match there counts, 0 to 1 (`belief`)


class UsedBlocks(Protocol):
    """What open requests use of the caches, each block once. Seats ascend."""

    @property
    def exact(self) -> bool: ...  # each block is counted, so what they share with a prompt is known

    def tokens_of(self, seats: IntArray) -> FloatArray: ...
    def shared_blocks(self, hashes: BlockHashes, seats: IntArray) -> FloatArray: ...


class Sessions(Protocol):
    def get(self, key: str, now_seconds: float) -> Seat | None: ...
