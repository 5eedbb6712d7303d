"""Which blocks open requests hold on to, each counted once, however many of them share it.

An engine cannot evict what a request in it uses, so these blocks are the part of a cache that is in use, and the
context that its decode steps read. Kept only for policies that ask for it: entering a request costs its blocks, where
the ledger costs nothing.

Blocks are counted by grains: runs of blocks that stand or fall together, each known by its last block, whose hash
stands for all before it. A prompt's last, incomplete grain counts for each request anew. With grains of some thousand
tokens a prompt of 100K tokens costs a hundred entries, not six thousand; with grains of one block the count is exact.

The blocks of an open request are the whole prefix of its prompt, so those of a seat are prefix-closed, and how much of
a new prompt is among them is found by bisection.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from router.fleet.columns import FIRST_ROWS, grown
from router.fleet.replica import FloatArray, IntArray, Seat
from router.prompt.blocks import BlockHashes

# Fine enough against caches of some hundred thousand tokens, and a prompt of 100K tokens costs a hundred entries.
GRAIN_TOKENS = 1024


class OpenBlocks:
    """Mutable; changed only by whoever opens and closes the requests. Lease ids are the ledger's.

    `tokens` is a column by seat, replaced when it grows: index it afresh.
    """

    def __init__(self, grain_tokens: int | None = None) -> None:
        """`grain_tokens`: about how many tokens are counted as one; None: each block by itself."""
        self.tokens: FloatArray = np.zeros(FIRST_ROWS)
        self._grain_tokens = grain_tokens
        self._uses: dict[Seat, dict[int, int]] = {}  # a grain's last block to how many open requests use it
        self._leases: dict[Hashable, tuple[Seat, Sequence[int], int, int]] = {}

    @property
    def exact(self) -> bool:
        return self._grain_tokens is None

    def open(self, lease: int, seat: Seat, hashes: BlockHashes, block_size_tokens: int) -> None:
        """A request was sent to the seat: it uses all its blocks until `close`. `hashes` is kept."""
        blocks = 1 if self._grain_tokens is None else grain_blocks(block_size_tokens, self._grain_tokens)
        grains = hashes if blocks == 1 else hashes[blocks - 1 :: blocks]
        self._enter(lease, seat, grains, blocks * block_size_tokens, len(hashes) % blocks * block_size_tokens)

    def open_elsewhere(
        self, lease: Hashable, seat: Seat, grains: Sequence[int], grain_tokens: int, rest_tokens: int
    ) -> None:
        """Another router sent a request there and tells its grains. Again, or where each block is counted: nothing."""
        if lease not in self._leases and not self.exact:
            self._enter(lease, seat, grains, grain_tokens, rest_tokens)

    def _enter(self, lease: Hashable, seat: Seat, grains: Sequence[int], grain_tokens: int, rest_tokens: int) -> None:
        self.tokens = grown(self.tokens, seat + 1)
        uses = self._uses.setdefault(seat, {})
        before = len(uses)
        for last in grains:
            uses[last] = uses.get(last, 0) + 1
        self.tokens[seat] += (len(uses) - before) * grain_tokens + rest_tokens
        self._leases[lease] = (seat, grains, grain_tokens, rest_tokens)

    def close(self, lease: Hashable) -> None:
        """The request ended, however. Again, or for one that had no blocks: nothing."""
        entry = self._leases.pop(lease, None)
        if entry is None:
            return
        seat, grains, grain_tokens, rest_tokens = entry
        uses = self._uses[seat]
        before = len(uses)
        for last in grains:
            left = uses[last] - 1
            if left:
                uses[last] = left
            else:
                del uses[last]
        self.tokens[seat] -= (before - len(uses)) * grain_tokens + rest_tokens

    def tokens_of(self, seats: IntArray) -> FloatArray:
        """Distinct tokens of full blocks that the open requests of each seat use, by grains."""
        if len(seats) and int(seats[-1]) >= len(self.tokens):  # seats ascend
            self.tokens = grown(self.tokens, int(seats[-1]) + 1)
        tokens: FloatArray = self.tokens[seats]
        return tokens

    def shared_blocks(self, hashes: BlockHashes, seats: IntArray) -> FloatArray:
        """How many leading blocks of a prompt are in use already, per seat. Only where each block is counted."""
        return np.array([self._depth(hashes, Seat(seat)) for seat in seats.tolist()], dtype=np.float64)

    def _depth(self, hashes: BlockHashes, seat: Seat) -> int:
        uses = self._uses.get(seat)
        if not uses or not hashes or hashes[0] not in uses:
            return 0
        low, high = 0, len(hashes)  # the last block known to be in use, the first known not to be
        while high - low > 1:
            middle = (low + high) >> 1
            if hashes[middle] in uses:
                low = middle
            else:
                high = middle
        return high


def grain_blocks(block_size_tokens: int, grain_tokens: int = GRAIN_TOKENS) -> int:
    """How many blocks are counted as one."""
    return max(1, grain_tokens // block_size_tokens)
