"""One row per block: its hash, its parent and its children, kept in flat arrays.

`values` maps a block's hash to an int of two parts: the low `ROW_BITS` are the row, the bits above are the mask of the
slots that reach the block in the GPU tier. A dict from int to int and arrays of numbers hold nothing the garbage
collector must visit, so millions of blocks cost no pause.

A row lives while someone holds the block in any tier or while the block has children. A block that only has children
(its holders are gone, or never came) is a *ghost*: it hangs nowhere itself, and keeps the children together until the
block is stored and they are adopted. Who holds what beyond the mask is the index's business, not the table's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from router.index.budget import Budget
from router.index.slots import ROW_BITS

ROW_MASK = (1 << ROW_BITS) - 1
ROOT = 0  # the parent of blocks that begin a prompt; as a child or sibling: none
ADRIFT = ROW_MASK  # the parent of a ghost

# A dict entry (20 bytes a slot, 1/3 to 2/3 full), two int objects and 24 bytes of arrays, as measured on tables
# of 1M and 5M blocks.
ROW_BYTES = 168


class BlockTable:
    """Mutable; changed only by the index that owns it."""

    def __init__(self, budget: Budget) -> None:
        self.values: dict[int, int] = {}
        self.ghosts = 0
        self._budget = budget
        self._free = array("I")
        self.hash_of = array("Q", [0])
        self.parent = array("I", [ROOT])
        self.first_child = array("I", [0])
        self._next = array("I", [0])
        self._previous = array("I", [0])

    def children(self, row: int) -> Iterator[int]:
        """Rows of the children. The tree may not change while this is walked."""
        child = self.first_child[row]
        while child:
            yield child
            child = self._next[child]

    def add_chain(self, blocks: Sequence[int], parent_row: int, mask: int) -> list[int]:
        """Add blocks, none of which is here, as a chain below `parent_row`, all with `mask`. Their rows."""
        count = len(blocks)
        self._budget.charge(ROW_BYTES * count)
        free = self._free
        if not free:
            first = len(self.hash_of)
            rows = list(range(first, first + count))
            self.hash_of.extend(blocks)
            self._next.frombytes(bytes(4 * count))
            self._previous.frombytes(bytes(4 * count))
            self.parent.append(parent_row)
            self.parent.extend(rows[:-1])
            self.first_child.extend(rows[1:])
            self.first_child.append(0)
        else:
            rows = free[-count:].tolist()
            del free[-count:]
            if len(rows) < count:
                missing = count - len(rows)
                first = len(self.hash_of)
                rows.extend(range(first, first + missing))
                for column in (self.hash_of, self.parent, self.first_child, self._next, self._previous):
                    column.frombytes(bytes(column.itemsize * missing))
            hash_of, parents, first_child = self.hash_of, self.parent, self.first_child
            above = parent_row
            for row, block in zip(rows, blocks, strict=True):
                hash_of[row] = block
                parents[row] = above
                if above != parent_row:
                    first_child[above] = row
                above = row
            first_child[above] = 0
        self.values.update(zip(blocks, [mask | row for row in rows], strict=True))
        if parent_row:
            self._hang(rows[0], parent_row)
        return rows

    def add_ghost(self, block: int) -> int:
        """Add a block nobody holds, for the children it is about to get. Its row."""
        (row,) = self.add_chain((block,), ROOT, 0)
        self.parent[row] = ADRIFT
        self.ghosts += 1
        return row

    def embody(self, row: int, parent_row: int) -> None:
        """A ghost is held again: it hangs below its parent."""
        self.ghosts -= 1
        self.parent[row] = parent_row
        if parent_row:
            self._hang(row, parent_row)

    def forsake(self, row: int) -> None:
        """Nobody holds the block any more: it goes, with the ghost it may leave childless, or becomes a ghost."""
        parent_row = self.parent[row]
        if parent_row:
            after, before = self._next[row], self._previous[row]
            if before:
                self._next[before] = after
            else:
                self.first_child[parent_row] = after
            if after:
                self._previous[after] = before
        if self.first_child[row]:
            self.parent[row] = ADRIFT
            self.ghosts += 1
        else:
            self._free_row(row)
        if parent_row:
            self.drop_if_barren(parent_row)

    def drop_if_barren(self, row: int) -> None:
        """Free a ghost without children; anything else stays."""
        if self.parent[row] == ADRIFT and not self.first_child[row] and row:
            self.ghosts -= 1
            self._free_row(row)

    def _free_row(self, row: int) -> None:
        del self.values[self.hash_of[row]]
        self.hash_of[row] = 0
        # So that a purge in progress finds nothing here, and no barren ghost is seen twice.
        self.parent[row] = ROOT
        self._next[row] = self._previous[row] = 0
        self._free.append(row)
        self._budget.release(ROW_BYTES)

    def _hang(self, row: int, parent_row: int) -> None:
        first = self.first_child[parent_row]
        self._next[row] = first
        self._previous[row] = 0
        if first:
            self._previous[first] = row
        self.first_child[parent_row] = row
