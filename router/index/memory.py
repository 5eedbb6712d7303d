"""Who holds which blocks, in this process's memory (R 4.2).

A replica reaches a block in a tier when it holds at least one copy there and reaches the block's parent in that tier or
a faster one; the root is reached by all, in the fastest tier. So in the GPU tier what is reachable is prefix-closed,
and the engine's own hit rule counts exactly that. A slower tier is looked up where the faster run ended: from that
depth on nothing faster is reachable, hence what the slower tier reaches there is prefix-closed as well, and is exactly
the unbroken run of blocks held in it. Lookups read reachable masks only. With `fastest(block)` for the fastest tier in
which a slot reaches a block (NOWHERE when in none) the law in one line:

    reach(block, tier) = copies(block, tier) > 0 and fastest(parent) <= tier

A copy that comes or goes can change that for the block and, where `fastest` changed, for what hangs below: only then
are the children walked, for that one slot.

Over budget, new blocks are refused, beginning with the first of a run that finds no room. What is refused is not
counted in either direction, so predictions become lower bounds, and the caller is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from router.fleet.replica import IntArray, Seat
from router.index.base import Match, Tier
from router.index.budget import Budget
from router.index.lookup import Group, by_slot, depths, table_depths
from router.index.recent import OpenLeases
from router.index.slots import NOBODY, Slots, bit_of_slot, slot_of_bit
from router.index.table import ADRIFT, ROOT, ROW_BYTES, ROW_MASK, BlockTable
from router.index.tiers import NOWHERE, ORDER, Holders
from router.prompt.blocks import BlockHashes


class MemoryIndex:
    """Mutable; changed by event ingestion, by `Guessed` for replicas without events, through `recent` by requests."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.slots = Slots()
        self.recent = OpenLeases(self.slots)
        self.refused_blocks = 0
        self._table = BlockTable(budget)
        self._gpu = Holders(0, budget)
        self._slower: list[Holders] = []  # fastest first
        self._pairs: list[int] = [0]  # by slot: (block, tier) pairs held
        self._hidden_pairs: list[int] = [0]  # by slot: those of them that are not reachable
        self._leaving: deque[tuple[int, Iterator[int]]] = deque()  # slots being purged, and the blocks still to visit
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
            self._leaving.append((slot, self._visits(owned)))

    def clear(self, seat: Seat, owned: Iterable[int] | None = None) -> None:
        """Forget all the seat holds, at once; `purge` frees the memory bit by bit.

        `owned` are the blocks the seat may hold, in any order, repeats and strangers allowed; it is drained by `purge`,
        so a generator that pops from a map frees the map on the way. Without it (or should it fall short) the purge
        visits the whole table.
        """
        slot = self.slots.slot(seat)
        if slot == NOBODY or not (self._pairs[slot] or self.recent.lends(bit_of_slot(slot))):
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
            slot, visits = self._leaving[0]
            bit = bit_of_slot(slot)
            for block in islice(visits, max_blocks):
                self._wipe(block, bit)
                max_blocks -= 1
            if max_blocks:
                self._leaving.popleft()
                if self._pairs[slot]:
                    self._leaving.appendleft((slot, self._visits(None)))
                else:
                    self._give_back(slot)
        return bool(self._leaving)

    # Blocks

    def store_run(self, seat: Seat, blocks: Sequence[int], parent: int | None, tier: Tier = Tier.GPU) -> int:
        """One more copy of each block; each is the parent of the next, the first hangs below `parent` (None: the root).

        Returns how many leading blocks were taken: all of them, unless the budget is spent or the seat never joined.
        """
        bit = self.slots.bit(seat)
        if not bit or not blocks:
            return 0
        table = self._table
        values = table.values
        room = self.budget.room_bytes // ROW_BYTES
        parent_row, above = ROOT, 0
        if parent is not None:
            value = values.get(parent)
            if value is None:
                if room < 2:
                    self.refused_blocks += len(blocks)
                    return 0
                parent_row, above = table.add_ghost(parent), NOWHERE
            else:
                parent_row = value & ROW_MASK
                above = 0 if value & bit else self._fastest(parent_row, bit)
        fresh = set(blocks)
        if tier is Tier.GPU and len(fresh) == len(blocks) <= room and values.keys().isdisjoint(fresh):
            slot = slot_of_bit(bit)
            self._pairs[slot] += len(blocks)
            if above == 0:
                table.add_chain(blocks, parent_row, bit)
            else:
                self._hidden_pairs[slot] += len(blocks)
                for row in table.add_chain(blocks, parent_row, 0):
                    self._gpu.set(self._gpu.hidden, row, bit)
            return len(blocks)
        holders = self._holders(tier) or self._made_holders(tier)
        taken = self._store_each(blocks, parent_row, above, bit, holders)
        table.drop_if_barren(parent_row)
        return taken

    def remove(self, seat: Seat, block: int, tier: Tier = Tier.GPU) -> bool:
        """One copy less; a block not held there is ignored. Whether the seat still holds the block, in any tier."""
        bit = self.slots.bit(seat)
        value = self._table.values.get(block)
        if not bit or value is None:
            return False
        row = value & ROW_MASK
        holders = self._holders(tier)
        if holders is None:
            return self._held_by(row, bit)
        if holders.drop_copy(row, bit):
            return True
        if value & bit and not self._slower and not self._table.first_child[row]:
            # The common case: an engine evicts leaf first.
            self._pairs[slot_of_bit(bit)] -= 1
            value ^= bit
            self._table.values[block] = value
            if value <= ROW_MASK and row not in self._gpu.hidden:
                self._table.forsake(row)
            return False
        before = 0 if value & bit else self._fastest(row, bit)
        if self._unhold(block, row, bit, holders):
            after = self._fastest(row, bit)
            if after != before:
                self._spread(row, bit)
            if not self._held(row):
                self._table.forsake(row)
                return False
        return self._held_by(row, bit)

    # Lookup

    def match(self, hashes: BlockHashes, seats: IntArray) -> Match:
        """Leading blocks per seat, in the order asked; zeros for a seat that never joined.

        The arrays may be shared with each other: they are to be read, not written.
        """
        slots = self.slots
        groups = self._gpu_depths(hashes)
        columns = slots.of(seats)
        held = by_slot(groups, slots.count)[columns]
        slower = self._slower_blocks(hashes, groups, columns) if self._slower else self._no_blocks(len(held))
        expected = held
        masks = self.recent.masks
        if masks:
            found = False
            joined: list[Group] = []
            for depth, mask in groups:
                if depth < len(hashes) and masks.get(hashes[depth], 0) & mask:
                    joined += depths(masks.get, hashes, mask, depth)
                    found = True
                else:
                    joined.append((depth, mask))
            if found:
                expected = by_slot(joined, slots.count)[columns]
        return Match(held=held, slower=slower, expected=expected)

    def held_depth(self, seat: Seat, hashes: BlockHashes) -> int:
        """Leading blocks the seat reaches in its GPU tier."""
        bit = self.slots.bit(seat)
        return depths(self._table.values.get, hashes, bit)[-1][0] if bit else 0

    # Figures

    @property
    def block_count(self) -> int:
        """Distinct blocks held by anyone, those of seats still being purged included."""
        return len(self._table.values) - self._table.ghosts

    @property
    def used_bytes(self) -> int:
        """Of the whole budget, so the engines' block names included where they are charged to it."""
        return self.budget.used_bytes

    def held_blocks(self, seat: Seat) -> int:
        """(Block, tier) pairs the seat holds, reachable or not."""
        return self._pairs[self.slots.slot(seat)]

    # Parts

    def _seat(self, seat: Seat) -> None:
        slot = self.slots.seat(seat)
        while len(self._pairs) <= slot:
            self._pairs.append(0)
            self._hidden_pairs.append(0)

    def _give_back(self, slot: int) -> None:
        if self.recent.lends(bit_of_slot(slot)):
            self._waiting.append(slot)
        else:
            self.slots.release(slot)

    def _visits(self, owned: Iterable[int] | None) -> Iterator[int]:
        """Blocks to visit: those told, or all there are."""
        if owned is not None:
            return iter(owned)
        table = self._table
        # By row and not over the dict, which may change between two visits.
        return (table.hash_of[row] for row in range(1, table.rows()))

    def _holders(self, tier: Tier) -> Holders | None:
        """None for a slower tier that no event has named yet."""
        if tier is Tier.GPU:
            return self._gpu
        order = ORDER[tier]
        return next((holders for holders in self._slower if holders.order == order), None)

    def _made_holders(self, tier: Tier) -> Holders:
        made = Holders(ORDER[tier], self.budget)
        self._slower.append(made)
        self._slower.sort(key=lambda holders: holders.order)
        return made

    def _store_each(self, blocks: Sequence[int], parent_row: int, above: int, bit: int, holders: Holders) -> int:
        """The store of a run some of whose blocks are known. `above` is the fastest tier that reaches the parent."""
        table, budget = self._table, self.budget
        values, parents = table.values, table.parent
        slot = slot_of_bit(bit)
        on_gpu = holders is self._gpu
        reach, hidden = holders.reach, holders.hidden
        for taken, block in enumerate(blocks):
            value = values.get(block)
            if value is None:
                if budget.room_bytes < ROW_BYTES:
                    self.refused_blocks += len(blocks) - taken
                    return taken
                (row,) = table.add_chain((block,), parent_row, 0)
                value = row
            else:
                row = value & ROW_MASK
                if parents[row] == ADRIFT:
                    table.embody(row, parent_row)
                elif parents[row] != parent_row:
                    above = self._fastest(parents[row], bit)
            if hidden.get(row, 0) & bit or (value if on_gpu else reach.get(row, 0)) & bit:
                holders.add_copy(row, bit)
            else:
                self._pairs[slot] += 1
                if above > holders.order:
                    holders.set(hidden, row, bit)
                    self._hidden_pairs[slot] += 1
                elif on_gpu:
                    values[block] = value | bit
                else:
                    holders.set(reach, row, bit)
                if self._hidden_pairs[slot] and above <= holders.order:
                    self._spread(row, bit)
            parent_row = row
            above = self._fastest(row, bit)
        return len(blocks)

    def _unhold(self, block: int, row: int, bit: int, holders: Holders) -> bool:
        """The last copy goes. Whether there was one."""
        slot = slot_of_bit(bit)
        if holders.unset(holders.hidden, row, bit):
            self._hidden_pairs[slot] -= 1
        elif holders is self._gpu:
            value = self._table.values[block]
            if not value & bit:
                return False
            self._table.values[block] = value ^ bit
        elif not holders.unset(holders.reach, row, bit):
            return False
        self._pairs[slot] -= 1
        return True

    def _fastest(self, row: int, bit: int) -> int:
        """The order of the fastest tier in which the slot reaches the block, or NOWHERE."""
        if row == ROOT or self._table.values[self._table.hash_of[row]] & bit:
            return 0
        for holders in self._slower:
            if holders.reach.get(row, 0) & bit:
                return holders.order
        return NOWHERE

    def _spread(self, row: int, bit: int) -> None:
        """The fastest tier that reaches this block changed: carry that down to all it concerns."""
        changed = [row]
        while changed:
            row = changed.pop()
            above = self._fastest(row, bit)
            changed += [child for child in self._table.children(row) if self._settle(child, bit, above)]

    def _settle(self, row: int, bit: int, above: int) -> bool:
        """Make the block obey the law below a parent reached in tier `above`. Whether its own fastest tier changed."""
        before = self._fastest(row, bit)
        slot = slot_of_bit(bit)
        values = self._table.values
        block = self._table.hash_of[row]
        for holders in (self._gpu, *self._slower):
            on_gpu = holders is self._gpu
            if above <= holders.order:
                if holders.unset(holders.hidden, row, bit):
                    self._hidden_pairs[slot] -= 1
                    if on_gpu:
                        values[block] |= bit
                    else:
                        holders.set(holders.reach, row, bit)
            elif on_gpu:
                if values[block] & bit:
                    values[block] ^= bit
                    holders.set(holders.hidden, row, bit)
                    self._hidden_pairs[slot] += 1
            elif holders.unset(holders.reach, row, bit):
                holders.set(holders.hidden, row, bit)
                self._hidden_pairs[slot] += 1
        return self._fastest(row, bit) != before

    def _held(self, row: int) -> bool:
        """Whether anyone holds the block, in any tier."""
        if self._table.values[self._table.hash_of[row]] > ROW_MASK or row in self._gpu.hidden:
            return True
        return any(row in holders.reach or row in holders.hidden for holders in self._slower)

    def _held_by(self, row: int, bit: int) -> bool:
        if (self._table.values[self._table.hash_of[row]] | self._gpu.hidden.get(row, 0)) & bit:
            return True
        return any((tier.reach.get(row, 0) | tier.hidden.get(row, 0)) & bit for tier in self._slower)

    def _wipe(self, block: int, bit: int) -> None:
        """Take a dead slot's bit from a block. Nothing is walked: the bits below are as dead."""
        value = self._table.values.get(block)
        if value is None:
            return
        row = value & ROW_MASK
        found = False
        for holders in (self._gpu, *self._slower):
            if self._unhold(block, row, bit, holders):
                holders.drop_copies(row, bit)
                found = True
        if found and not self._held(row):
            self._table.forsake(row)

    def _gpu_depths(self, hashes: BlockHashes) -> list[Group]:
        live = self.slots.live
        if not self._leaving:  # else the masks have bits that are not live
            try:
                return table_depths(self._table.values, hashes, live)
            except KeyError:
                pass
        return depths(self._table.values.get, hashes, live)

    def _no_blocks(self, seats: int) -> IntArray:
        if len(self._zeros) != seats:
            self._zeros = _zeros(seats)
        return self._zeros

    def _slower_blocks(self, hashes: BlockHashes, groups: list[Group], columns: IntArray) -> IntArray:
        """Blocks right after the GPU run, tier by tier, each looked up where the run before it ended."""
        values = self._table.values
        starts = by_slot(groups, self.slots.count)
        for holders in self._slower:
            reach = holders.reach

            def mask_of(block: int, default: int, reach: dict[int, int] = reach) -> int:
                return reach.get(values.get(block, 0) & ROW_MASK, default)

            groups = [deeper for depth, mask in groups for deeper in depths(mask_of, hashes, mask, depth)]
        return (by_slot(groups, self.slots.count) - starts)[columns]


def _zeros(count: int) -> IntArray:
    zeros = np.zeros(count, np.int64)
    zeros.flags.writeable = False
    return zeros
