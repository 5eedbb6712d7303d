"""Which bit of a mask stands for which seat.

A seat that must forget everything at once is given another bit: the old one leaves the `live` mask in the same stretch,
so no lookup sees it again, and it is given out anew only when its owner says that no mask holds it any more (R 4.2).

Masks are kept above the low `ROW_BITS` bits, so that a mask and a row of the block table fit one Python int, which
costs one object and one dict entry instead of two of each.
"""

from __future__ import annotations

import numpy as np

from router.fleet.replica import IntArray, Seat

ROW_BITS = 32
NOBODY = 0  # the slot of a seat that has none; its bit is never set


class Slots:
    """Mutable; changed only by the index. `live` has the bits of all seats that have a slot."""

    def __init__(self) -> None:
        self.live = 0
        self.count = 1  # slots ever made, so the width of a mask
        self._slot_of = np.zeros(8, dtype=np.int64)
        self._bit_of: dict[int, int] = {}
        self._free: list[int] = []

    def bit(self, seat: Seat) -> int:
        """The seat's bit, 0 when it has no slot."""
        return self._bit_of.get(seat, 0)

    def slot(self, seat: Seat) -> int:
        return int(self._slot_of[seat]) if seat in self._bit_of else NOBODY

    def of(self, seats: IntArray) -> IntArray:
        """Slots of many seats; a seat never seen has `NOBODY`."""
        try:
            return self._slot_of[seats]
        except IndexError:
            self._widen(int(seats.max()))
            return self._slot_of[seats]

    def seat(self, seat: Seat) -> int:
        """Give the seat a slot that no mask holds. It must have none."""
        if seat >= len(self._slot_of):
            self._widen(seat)
        if self._free:
            slot = self._free.pop()
        else:
            slot = self.count
            self.count += 1
        self._slot_of[seat] = slot
        bit = bit_of_slot(slot)
        self._bit_of[seat] = bit
        self.live |= bit
        return slot

    def unseat(self, seat: Seat) -> int:
        """Take the seat's slot, which stays out of use until it is released. The slot, or `NOBODY`."""
        bit = self._bit_of.pop(seat, 0)
        if not bit:
            return NOBODY
        slot = int(self._slot_of[seat])
        self._slot_of[seat] = NOBODY
        self.live &= ~bit
        return slot

    def release(self, slot: int) -> None:
        """No mask holds this slot's bit any more: it may be given out again."""
        self._free.append(slot)

    def _widen(self, seat: int) -> None:
        wider = np.zeros(max(seat + 1, 2 * len(self._slot_of)), dtype=np.int64)
        wider[: len(self._slot_of)] = self._slot_of
        self._slot_of = wider


def bit_of_slot(slot: int) -> int:
    return 1 << (ROW_BITS + slot)


def slot_of_bit(bit: int) -> int:
    return bit.bit_length() - 1 - ROW_BITS
