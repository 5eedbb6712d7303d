"""A replica: one engine endpoint, what it is configured to be, and what it told us of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType, TypeAlias

import numpy as np
import numpy.typing as npt

ReplicaId = NewType("ReplicaId", str)

# A seat is a replica's row in every per-replica array (ledger, trust, rates, health). It is given at the first join and
# kept when the same id returns. Another replica gets it only after it was released: when the last lease there has ended
# and nothing of the old replica can arrive any more, so a late lease can never charge a stranger.
Seat = NewType("Seat", int)

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


class Role(Enum):
    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class EventAddress:
    """Where a replica publishes its KV events. ZMQ endpoints a subscriber can connect to."""

    endpoint: str
    replay: str | None = None
    topic: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine endpoint as configured or discovered. `url` has no trailing slash and no path."""

    id: ReplicaId
    url: str
    role: Role = Role.BOTH
    labels: Mapping[str, str] = field(default_factory=dict)
    events: EventAddress | None = None  # configured address; None: ask the replica
    engine: str | None = None  # whose language it speaks, as configured; None: to be recognised
    ranks: int | None = None  # data-parallel engines behind the url, for a server that does not tell; None: ask it
    rank: int | None = None  # which data-parallel engine behind the url; None: the url has one engine
    handshake: str | None = None  # how it moves KV to or from others, as configured; None: as its engine does if it has
    # a role, else not at all
    bootstrap_port: int | None = None  # of its side of that handshake; None: the handshake's own default


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One name under which a replica answers. Names of one model share `base`, under which caches are shared too."""

    name: str
    base: str  # alphabetically first of the names that share the root; a LoRA's base is its parent's
    adapter: str | None = None  # LoRA name, when this name is one
    root: str | None = None  # path or hub id of the weights, as the engine tells it
    max_model_len: int | None = None  # tokens


@dataclass(frozen=True, slots=True)
class Facts:
    """What a replica told us of itself. None means: it did not say."""

    models: tuple[ServedModel, ...] = ()
    block_size_tokens: int | None = None
    cache_blocks: int | None = None
    prefix_caching: bool | None = None
    events: EventAddress | None = None
    process_start_time: float | None = None  # Unix seconds; a change is a restart
    version: str | None = None
    ranks: int | None = None  # data-parallel engines behind the address, each a replica of its own
    engine: str | None = None  # the name of the dialect it speaks
    handshake: str | None = None  # how its engine moves KV unless configured otherwise
