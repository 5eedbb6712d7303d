"""What the index answers, and how far it may be believed."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Protocol

import msgspec

from router.fleet.replica import FloatArray, IntArray
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


# By names of their own, for those who ask at every request: see `prompt.request.Endpoint`.
LOAD_ONLY, GUESSED, CATCHING_UP, EXACT = Trust


class Match(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Leading blocks of one prompt per asked seat, in the order asked: whole numbers, as floats, times the unit."""

    held: FloatArray  # told by events (or, for a GUESSED seat, guessed): in the GPU tier
    slower: FloatArray  # further blocks, right after `held`, in slower tiers
    expected: FloatArray  # max(held, what our own open leases will have put there) (R 4.6)


class Index(Protocol):
    def match(self, hashes: BlockHashes, seats: IntArray, unit: int = 1) -> Match:
        """`unit` is what a block counts: give the block size to be told tokens."""
