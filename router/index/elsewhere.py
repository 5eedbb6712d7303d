"""What other routers' open requests are about to put into the replicas' caches: `recent`, told by them (R 4.6).

Until a prefill is done no event tells of its blocks, and a router that does not know what another has just sent where
computes the same beginning once more. So routers tell each other what their leases lend (sharing/lending.py).

A prompt of 100K tokens has thousands of blocks, so a lease tells one hash for each *grain* (`open_blocks`): a run of
blocks that begins at a multiple of the grain's length in its prompt. A hash names all that is before
it, so the hash of a grain's last block stands for the whole grain, and a prompt is known to within a grain.

A grain may be lent to one replica by several routers, who did not know of each other yet: those are counted. Nothing is
inherited here when a lease goes: the router whose leases they are tells that its heir lends more now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import msgspec

from router.fleet.replica import Seat
from router.index.lookup import Group, depths
from router.index.slots import Slots
from router.prompt.blocks import BlockHashes


class _Lent(msgspec.Struct, frozen=True, gc=False):
    bit: int
    grain_blocks: int
    ends: Sequence[int]  # the last block of each grain


class LentElsewhere:
    """Mutable; changed only by what other routers tell. A lease is named by whatever its router calls it."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._masks: dict[int, dict[int, int]] = {}  # blocks in a grain to its last block to the slots it is lent to
        self._again: Counter[tuple[int, int, int]] = Counter()  # grain, block, bit: lent so many times beyond once
        self._leases: dict[Hashable, _Lent] = {}
        self._leases_of: Counter[int] = Counter()  # by bit

    def __len__(self) -> int:
        return len(self._leases)

    def __bool__(self) -> bool:
        return bool(self._leases)

    def open(self, lease: Hashable, seat: Seat, grain_blocks: int, ends: Sequence[int]) -> None:
        """Lend the seat these grains. A lease that is open already lends these instead."""
        self.close(lease)
        bit = self._slots.bit(seat)
        if not bit or not ends:
            return
        self._leases[lease] = _Lent(bit, grain_blocks, ends)
        self._leases_of[bit] += 1
        masks = self._masks.setdefault(grain_blocks, {})
        for block in ends:
            mask = masks.get(block, 0)
            if mask & bit:
                self._again[grain_blocks, block, bit] += 1
            else:
                masks[block] = mask | bit

    def close(self, lease: Hashable) -> None:
        """It lends nothing any more. Again, or for one that was never open: nothing."""
        gone = self._leases.pop(lease, None)
        if gone is None:
            return
        bit, grain_blocks = gone.bit, gone.grain_blocks
        self._leases_of[bit] -= 1
        if not self._leases_of[bit]:
            del self._leases_of[bit]
        masks = self._masks[grain_blocks]
        for block in gone.ends:
            key = (grain_blocks, block, bit)
            if key in self._again:
                self._again[key] -= 1
                if not self._again[key]:
                    del self._again[key]
            elif masks[block] == bit:
                del masks[block]
            else:
                masks[block] &= ~bit
        if not masks:
            del self._masks[grain_blocks]

    def lends(self, bit: int) -> bool:
        """Whether any lease still carries this bit."""
        return bit in self._leases_of

    def deepen(self, groups: Sequence[Group], hashes: BlockHashes) -> list[Group] | None:
        """The groups (see `lookup.depths`) with what these leases lend right where each ends; None: nothing."""
        for grain_blocks, masks in self._masks.items():
            deeper: list[Group] = []
            found = False
            for depth, mask in groups:
                grain = depth // grain_blocks
                end = (grain + 1) * grain_blocks - 1
                if end < len(hashes) and masks.get(hashes[end], 0) & mask:
                    found = True
                    ends = hashes[grain_blocks - 1 :: grain_blocks]
                    reached = depths(masks.get, ends, mask, grain)
                    deeper += [(max(depth, grains * grain_blocks), some) for grains, some in reached]
                else:
                    deeper.append((depth, mask))
            if found:
                return deeper
        return None
