"""Who holds which blocks, and which of them a prompt can reach (R 4.2).

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

from collections.abc import Iterator, Sequence

from router.index.base import Tier
from router.index.budget import Budget
from router.index.slots import slot_of_bit
from router.index.table import ADRIFT, ROOT, ROW_BYTES, ROW_MASK, BlockTable
from router.index.tiers import NOWHERE, ORDER, Holders


class Holdings:
    """Mutable; changed only by the index that owns it. Seats are known here by their bits alone."""

    def __init__(self, budget: Budget) -> None:
        self.table = BlockTable(budget)
        self.slower: list[Holders] = []  # fastest first
        self.refused_blocks = 0
        self.pairs: list[int] = [0]  # by slot: (block, tier) pairs held
        self._hidden_pairs: list[int] = [0]  # by slot: those of them that are not reachable
        self._gpu = Holders(0, budget)
        self._budget = budget

    def widen(self, slot: int) -> None:
        """Make room for a slot."""
        while len(self.pairs) <= slot:
            self.pairs.append(0)
            self._hidden_pairs.append(0)

    def blocks(self) -> Iterator[int]:
        """All blocks there are now, strangers among them if the table changes meanwhile."""
        # By row and not over the dict, which may not change while it is walked.
        hash_of = self.table.hash_of
        return (hash_of[row] for row in range(1, len(hash_of)))

    def parent(self, block: int) -> int | None:
        """The block this one hangs below, held or not; None: it begins a prompt, or is not known."""
        value = self.table.values.get(block)
        parent_row = ROOT if value is None else self.table.parent[value & ROW_MASK]
        return None if parent_row in (ROOT, ADRIFT) else self.table.hash_of[parent_row]

    def store_run(self, bit: int, blocks: Sequence[int], parent: int | None, tier: Tier) -> int:
        """One more copy of each block, as `MemoryIndex.store_run` tells it. How many leading blocks were taken."""
        table = self.table
        values = table.values
        room = self._budget.room_bytes // ROW_BYTES
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
            self.pairs[slot] += len(blocks)
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

    def remove(self, bit: int, block: int, tier: Tier) -> bool:
        """One copy less; a block not held there is ignored. Whether the slot still holds the block, in any tier."""
        value = self.table.values.get(block)
        if value is None:
            return False
        row = value & ROW_MASK
        holders = self._holders(tier)
        if holders is None:
            return self._held_by(row, bit)
        if holders.drop_copy(row, bit):
            return True
        if value & bit and not self.slower and not self.table.first_child[row]:
            # The common case: an engine evicts leaf first.
            self.pairs[slot_of_bit(bit)] -= 1
            value ^= bit
            self.table.values[block] = value
            if value <= ROW_MASK and row not in self._gpu.hidden:
                self.table.forsake(row)
            return False
        before = 0 if value & bit else self._fastest(row, bit)
        if self._unhold(block, row, bit, holders):
            after = self._fastest(row, bit)
            if after != before:
                self._spread(row, bit)
            if not self._held(row):
                self.table.forsake(row)
                return False
        return self._held_by(row, bit)

    def wipe(self, bit: int, block: int) -> None:
        """Take a dead slot's bit from a block. Nothing is walked: the bits below are as dead."""
        value = self.table.values.get(block)
        if value is None:
            return
        row = value & ROW_MASK
        found = False
        for holders in (self._gpu, *self.slower):
            if self._unhold(block, row, bit, holders):
                holders.drop_copies(row, bit)
                found = True
        if found and not self._held(row):
            self.table.forsake(row)

    def _holders(self, tier: Tier) -> Holders | None:
        """None for a slower tier that no event has named yet."""
        if tier is Tier.GPU:
            return self._gpu
        order = ORDER[tier]
        return next((holders for holders in self.slower if holders.order == order), None)

    def _made_holders(self, tier: Tier) -> Holders:
        made = Holders(ORDER[tier], self._budget)
        self.slower.append(made)
        self.slower.sort(key=lambda holders: holders.order)
        return made

    def _store_each(self, blocks: Sequence[int], parent_row: int, above: int, bit: int, holders: Holders) -> int:
        """The store of a run some of whose blocks are known. `above` is the fastest tier that reaches the parent."""
        table, budget = self.table, self._budget
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
                self.pairs[slot] += 1
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
            value = self.table.values[block]
            if not value & bit:
                return False
            self.table.values[block] = value ^ bit
        elif not holders.unset(holders.reach, row, bit):
            return False
        self.pairs[slot] -= 1
        return True

    def _fastest(self, row: int, bit: int) -> int:
        """The order of the fastest tier in which the slot reaches the block, or NOWHERE."""
        if row == ROOT or self.table.values[self.table.hash_of[row]] & bit:
            return 0
        for holders in self.slower:
            if holders.reach.get(row, 0) & bit:
                return holders.order
        return NOWHERE

    def _spread(self, row: int, bit: int) -> None:
        """The fastest tier that reaches this block changed: carry that down to all it concerns."""
        changed = [row]
        while changed:
            row = changed.pop()
            above = self._fastest(row, bit)
            changed += [child for child in self.table.children(row) if self._settle(child, bit, above)]

    def _settle(self, row: int, bit: int, above: int) -> bool:
        """Make the block obey the law below a parent reached in tier `above`. Whether its own fastest tier changed."""
        before = self._fastest(row, bit)
        slot = slot_of_bit(bit)
        values = self.table.values
        block = self.table.hash_of[row]
        for holders in (self._gpu, *self.slower):
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
        if self.table.values[self.table.hash_of[row]] > ROW_MASK or row in self._gpu.hidden:
            return True
        return any(row in holders.reach or row in holders.hidden for holders in self.slower)

    def _held_by(self, row: int, bit: int) -> bool:
        if (self.table.values[self.table.hash_of[row]] | self._gpu.hidden.get(row, 0)) & bit:
            return True
        return any((tier.reach.get(row, 0) | tier.hidden.get(row, 0)) & bit for tier in self.slower)
