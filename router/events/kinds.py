"""One change in an engine's cache, in our own neutral form: what every dialect decodes to.

A dialect (`engines/*_wire.py`) has already checked what comes here: the token run of a `Stored` has exactly
`block_size_tokens` tokens for each name, and a run is short enough to be indexed in one go. What a dialect read but
will not have indexed is counted in `Batch.skipped`, never dropped in silence.

Engine hashes are opaque names (DESIGN, decision 3): ints or bytes, compared and never computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from router.errors import HomingError
from router.index.base import Tier
from router.prompt.blocks import TokenIds

EngineHash: TypeAlias = int | bytes


class WireFault(HomingError):
    """A frame that cannot be read at all. Whoever receives frames counts it and goes on."""

    status = 502
    kind = "upstream_error"


class Skip(Enum):
    """Why one event of a readable batch is not indexed. The values are metric labels."""

    UNKNOWN_KIND = "unknown_kind"
    UNKNOWN_MEDIUM = "unknown_medium"
    OTHER_GROUP = "other_group"  # not the full-attention group: the hit rule does not hold for it
    MALFORMED = "malformed"  # fields missing, of the wrong type, or token run and names of different lengths
    NO_TOKENS = "no_tokens"  # a slower tier announced by name alone


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks that joined a cache: a run, each the parent of the next.

    `extras` has one entry per block (media ids and offsets, prompt-embed digests; b"" where there are none), or is
    empty when no block has any. `salt` is that of the whole chain, and is told only with its first block
    (`parent is None`).
    """

    names: tuple[EngineHash, ...]
    parent: EngineHash | None  # None: the first block is the first of its prompt
    tokens: TokenIds
    block_size_tokens: int
    tier: Tier = Tier.GPU
    adapter: str | None = None
    salt: str | None = None
    extras: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Removed:
    """One physical copy of each named block left a cache."""

    names: tuple[EngineHash, ...]
    tier: Tier = Tier.GPU


@dataclass(frozen=True, slots=True)
class Cleared:
    """The engine emptied its cache, every tier of it."""


Event: TypeAlias = Stored | Removed | Cleared


@dataclass(frozen=True, slots=True)
class Batch:
    """What one scheduler step changed, in order. `rank` is the data-parallel rank that says so."""

    time_seconds: float  # Unix time on the engine's clock
    events: tuple[Event, ...]
    rank: int = 0
    skipped: tuple[Skip, ...] = ()


class Wire(Protocol):
    """An engine's encoding of all this. A module of functions will do."""

    def decode(self, payload: bytes) -> Batch:
        """One payload to a batch. Raises WireFault when it is no batch at all."""

    def frames(self, message: Sequence[bytes]) -> tuple[int, bytes] | None:
        """Sequence and payload of one message; None for the end of a replay. Raises WireFault."""

    def replay_request(self, first: int) -> list[bytes]:
        """The frames a DEALER sends to hear every buffered batch from `first` on."""
