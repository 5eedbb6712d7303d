"""What the index answers, and how far it may be believed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Protocol

from router.fleet.replica import IntArray
from router.prompt.blocks import BlockHashes


class Tier(Enum):
    GPU = "GPU"
    CPU = "CPU"
    DISK = "DISK"
    REMOTE = "REMOTE"


class Trust(IntEnum):
    """How far a replica's part of the index may be believed (R 5.2). Ordered: the effective trust is the minimum."""

    LOAD_ONLY = 0  # nothing is predicted
    GUESSED = 1  # no events: what we sent lately, corrected by what the responses report
    CATCHING_UP = 2  # events flow but the beginning is missing: a match is a lower bound
    EXACT = 3


@dataclass(frozen=True, slots=True)
class Match:
    """Leading blocks of one prompt per asked seat, in the order asked. All counts are blocks."""

    held: IntArray  # told by events (or, for a GUESSED seat, guessed): in the GPU tier
    slower: IntArray  # further blocks, right after `held`, in slower tiers
    expected: IntArray  # max(held, what our own open leases will have put there) (R 4.6)


class Index(Protocol):
    def match(self, hashes: BlockHashes, seats: IntArray) -> Match: ...
