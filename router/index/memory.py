"""The index in this process's memory: seats come and go, blocks are stored and removed, prompts are matched.

Who holds what, and what of it can be reached, is `holdings`; the bits are `slots`; how a prompt is matched is `lookup`;
what our own open requests add is `recent`, and others' `elsewhere`. What stands here is how a seat is forgotten: at
once for every lookup, since it gets another bit, and bit by bit in memory, since millions of blocks cannot be visited
between two requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from router.fleet.replica import FloatArray, IntArray, Seat
from router.index.base import Match, Tier
from router.index.budget import Budget
from router.index.elsewhere import LentElsewhere
from router.index.holdings import Holdings
from router.index.lookup import Group, by_slot, depths, table_depths
from router.index.recent import OpenLeases
from router.index.slots import NOBODY, Slots, bit_of_slot
from router.index.table import ROW_MASK
from router.prompt.blocks import BlockHashes


@dataclass(frozen=True, slots=True)
class _Purge:
    slot: int
    blocks: Iterator[int]  # still to visit
    whole: bool  # all blocks there are, not those the caller told


class MemoryIndex:
    """Mutable; changed by event ingestion, by `Guessed` for replicas without events, through `recent` by requests."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.slots = Slots()
        self.recent = OpenLeases(self.slots)
        self.elsewhere = LentElsewhere(self.slots)
        self._holdings = Holdings(budget)
        self._leaving: deque[_Purge] = deque()
        self._waiting: list[int] = []  # slots purged, but still lent to by open leases
        self._zeros = _zeros(0)

    # Seats

    def join(self, seat: Seat) -> None:
        """Give the seat a place in the masks; nothing happens if it has one."""
        if not self.slots.bit(seat):
            self._seat(seat)

    def leave(self, seat: Seat, owned: Iterable[int] | None = None) -> None:
        """Forget all the seat holds, at once, and its place with it. See `clear` for `owned`."""
        slot = self.slots.unseat(seat)
        if slot != NOBODY:
            if owned is None:
                self._leaving.append(_Purge(slot, self._holdings.blocks(), whole=True))
            else:
                self._leaving.append(_Purge(slot, iter(owned), whole=False))

    def clear(self, seat: Seat, owned: Iterable[int] | None = None) -> None:
        """Forget all the seat holds, at once; `purge` frees the memory bit by bit.

        `owned` are the blocks the seat may hold, in any order, repeats and strangers allowed; it is drained by `purge`,
        so a generator that pops from a map frees the map on the way. Without it (or should it fall short) the purge
        visits the whole table.
        """
        slot = self.slots.slot(seat)
        if slot == NOBODY or not (self._holdings.pairs[slot] or self._is_lent(slot)):
            return
        self.leave(seat, owned)
        self._seat(seat)

    def purge(self, max_blocks: int) -> bool:
        """Visit up to `max_blocks` blocks of seats cleared or gone. Whether there is more to visit."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for slot in waiting:
                self._give_back(slot)
        while self._leaving and max_blocks > 0:
            purge = self._leaving[0]
            bit = bit_of_slot(purge.slot)
            for block in islice(purge.blocks, max_blocks):
                self._holdings.wipe(bit, block)
                max_blocks -= 1
            if max_blocks:
                self._leaving.popleft()
                if self._holdings.pairs[purge.slot] and not purge.whole:
                    self._leaving.appendleft(_Purge(purge.slot, self._holdings.blocks(), whole=True))
                else:
                    self._give_back(purge.slot)
        return bool(self._leaving)

    # Blocks

    def store_run(self, seat: Seat, blocks: Sequence[int], parent: int | None, tier: Tier = Tier.GPU) -> int:
        """One more copy of each block; each is the parent of the next, the first hangs below `parent` (None: the root).

        Returns how many leading blocks were taken: all of them, unless the budget is spent or the seat never joined.
        The int objects are kept as they come: a caller that keeps them too shares them with the index.
        """
        bit = self.slots.bit(seat)
        return self._holdings.store_run(bit, blocks, parent, tier) if bit and blocks else 0

    def remove(self, seat: Seat, block: int, tier: Tier = Tier.GPU) -> bool:
        """One copy less; a block not held there is ignored. Whether the seat still holds the block, in any tier."""
        bit = self.slots.bit(seat)
        return bool(bit) and self._holdings.remove(bit, block, tier)

    # Lookup

    def match(self, hashes: BlockHashes, seats: IntArray, unit: int = 1) -> Match:
        """Leading blocks per seat times `unit`, in the order asked; zeros for a seat that never joined.

        The arrays may be shared with each other: they are to be read, not written.
        """
        slots = self.slots
        groups = self._gpu_depths(hashes)
        columns = slots.of(seats)
        nobody = groups[-1][0] == 0  # depths ascend
        held = self._no_blocks(len(columns)) if nobody else by_slot(groups, slots.count, unit)[columns]
        if self._holdings.slower:
            slower = self._slower_blocks(hashes, groups, columns, unit)
        else:
            slower = self._no_blocks(len(held))
        expected = held
        if self.recent.masks or self.elsewhere:
            deeper = self._lent(groups, hashes)
            if deeper is not None:
                expected = by_slot(deeper, slots.count, unit)[columns]
        return Match(held, slower, expected)

    def held_depth(self, seat: Seat, hashes: BlockHashes) -> int:
        """Leading blocks the seat reaches in its GPU tier."""
        bit = self.slots.bit(seat)
        return depths(self._holdings.table.values.get, hashes, bit)[-1][0] if bit else 0

    def parent(self, block: int) -> int | None:
        """The block that a held one hangs below; None: it begins a prompt."""
        return self._holdings.parent(block)

    # Figures

    @property
    def refused_blocks(self) -> int:
        """Blocks stored that found no room in the budget, ever."""
        return self._holdings.refused_blocks

    @property
    def block_count(self) -> int:
        """Distinct blocks held by anyone, those of seats still being purged included."""
        return len(self._holdings.table.values) - self._holdings.table.ghosts

    @property
    def used_bytes(self) -> int:
        """Of the whole budget, so the engines' block names included where they are charged to it."""
        return self.budget.used_bytes

    def held_blocks(self, seat: Seat) -> int:
        """(Block, tier) pairs the seat holds, reachable or not."""
        return self._holdings.pairs[self.slots.slot(seat)]

    # Parts

    def _seat(self, seat: Seat) -> None:
        self._holdings.widen(self.slots.seat(seat))

    def _is_lent(self, slot: int) -> bool:
        bit = bit_of_slot(slot)
        return self.recent.lends(bit) or self.elsewhere.lends(bit)

    def _give_back(self, slot: int) -> None:
        if self._is_lent(slot):
            self._waiting.append(slot)
        else:
            self.slots.release(slot)

    def _gpu_depths(self, hashes: BlockHashes) -> list[Group]:
        live = self.slots.live
        if not self._leaving:  # else the masks have bits that are not live
            try:
                return table_depths(self._holdings.table.values, hashes, live)
            except KeyError:
                pass
        return depths(self._holdings.table.values.get, hashes, live)

    def _lent(self, groups: list[Group], hashes: BlockHashes) -> list[Group] | None:
        """With what open requests will have put there, ours and other routers': each may go on where
        another ends. None: nothing."""
        reached, quiet = groups, 0
        lenders: tuple[OpenLeases | LentElsewhere, ...] = (self.recent, self.elsewhere)
        for lent in cycle(lenders):
            more = lent.deepen(reached, hashes)
            if more is not None:
                reached, quiet = more, 0
                continue
            quiet += 1
            if quiet == 2 or reached is not groups:
                break
        return None if reached is groups else reached

    def _no_blocks(self, seats: int) -> FloatArray:
        if len(self._zeros) != seats:
            self._zeros = _zeros(seats)
        return self._zeros

    def _slower_blocks(self, hashes: BlockHashes, groups: list[Group], columns: IntArray, unit: int) -> FloatArray:
        """Blocks right after the GPU run, tier by tier, each looked up where the run before it ended."""
        values = self._holdings.table.values
        starts = by_slot(groups, self.slots.count, unit)
        for holders in self._holdings.slower:
            reach = holders.reach

            def mask_of(block: int, default: int, reach: dict[int, int] = reach) -> int:
                return reach.get(values.get(block, 0) & ROW_MASK, default)

            groups = [deeper for depth, mask in groups for deeper in depths(mask_of, hashes, mask, depth)]
        return (by_slot(groups, self.slots.count, unit) - starts)[columns]


def _zeros(count: int) -> FloatArray:
    zeros = np.zeros(count)
    zeros.flags.writeable = False
    return zeros
