"""What the block table's masks do not say: who holds a block unreachably, in further copies, or in a slower tier.

All of it is sparse, so dicts keyed by row. In the GPU tier the reachable masks are in the table itself and `reach` here
stays empty; a slower tier is made when the first event names it.
"""

from __future__ import annotations

from router.index.base import Tier
from router.index.budget import Budget
from router.index.slots import slot_of_bit

ORDER = {tier: order for order, tier in enumerate(Tier)}  # faster first
NOWHERE = len(ORDER)  # slower than every tier: not reachable at all

# A dict entry (30 to 60 bytes) and its two int objects (32 to 48 each).
SPARSE_BYTES = 128
_SLOT_BITS = 16


class Holders:
    """One tier. Mutable; changed only by the index that owns it."""

    def __init__(self, order: int, budget: Budget) -> None:
        self.order = order
        self.reach: dict[int, int] = {}  # row to mask, slower tiers only
        self.hidden: dict[int, int] = {}  # row to mask: held, but a block above is missing
        self._extra: dict[int, int] = {}  # (row, slot) to copies beyond the first
        self._budget = budget

    def set(self, masks: dict[int, int], row: int, bit: int) -> None:
        mask = masks.get(row)
        if mask is None:
            self._budget.charge(SPARSE_BYTES)
            masks[row] = bit
        else:
            masks[row] = mask | bit

    def unset(self, masks: dict[int, int], row: int, bit: int) -> bool:
        """Whether the bit was set."""
        mask = masks.get(row, 0)
        if not mask & bit:
            return False
        if mask == bit:
            self._budget.release(SPARSE_BYTES)
            del masks[row]
        else:
            masks[row] = mask ^ bit
        return True

    def add_copy(self, row: int, bit: int) -> None:
        key = _copy_key(row, bit)
        copies = self._extra.get(key, 0)
        if not copies:
            self._budget.charge(SPARSE_BYTES)
        self._extra[key] = copies + 1

    def drop_copy(self, row: int, bit: int) -> bool:
        """Whether there was a further copy to drop."""
        if not self._extra:
            return False
        key = _copy_key(row, bit)
        copies = self._extra.get(key, 0)
        if copies > 1:
            self._extra[key] = copies - 1
        elif copies:
            del self._extra[key]
            self._budget.release(SPARSE_BYTES)
        return copies > 0

    def drop_copies(self, row: int, bit: int) -> None:
        if self._extra and self._extra.pop(_copy_key(row, bit), 0):
            self._budget.release(SPARSE_BYTES)


def _copy_key(row: int, bit: int) -> int:
    return row << _SLOT_BITS | slot_of_bit(bit)
