"""Token ids to chained block hashes."""

from __future__ import annotations

from array import array
from typing import NewType, TypeAlias

# Token ids as little-endian uint32, four bytes each: one buffer, no list.
TokenIds = NewType("TokenIds", bytes)

# Typecode "Q", one 64-bit chained hash per full block, in order.
BlockHashes: TypeAlias = "array[int]"
