"""What our own open requests are about to put into the replicas' caches (R 4.6).

An engine counts a block as cached from the moment it schedules the request that fills it; the event comes a step later.
So a request that follows its sibling by milliseconds hits blocks no event has told of. Each open lease therefore lends
its replica the blocks of its prompt that were not expected there, until the events must have told (2 s after the first
token), the request ends, or its dispatch fails.

A lease adds only what is beyond the expectation it met, so each (block, replica) pair is lent by exactly one lease, and
opening costs the new blocks, not the prompt. The price is inheritance: when a lease goes, those that counted on its
blocks will compute them themselves. Block hashes are chained, so lease L counts on A's blocks if and only if L begins
inside A's prompt and the block before L's beginning is A's too; of those the one that begins last takes over what is
above its beginning, which serves the others as well.

Blocks of a seat that was cleared carry its old bit: invisible at once, gone with their leases; the index asks
`lends(slot)` before it gives the bit out again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import repeat

import msgspec

from router.fleet.replica import Seat
from router.index.lookup import Group, depths
from router.index.slots import Slots
from router.prompt.blocks import BlockHashes

GRACE_SECONDS = 2.0  # from the first token until the events must have told


class _Lease(msgspec.Struct, gc=False):
    """Mutable: `first` moves up when the lease inherits."""

    hashes: BlockHashes
    first: int  # lends hashes[first:]
    bit: int
    seat: Seat


class OpenLeases:
    """Mutable; changed only by whoever opens and closes the requests. Lease ids are the ledger's."""

    def __init__(self, slots: Slots) -> None:
        self.masks: dict[int, int] = {}  # block to the slots it is lent to
        self._slots = slots
        self._leases: dict[int, _Lease] = {}
        self._by_bit: dict[int, dict[int, _Lease]] = {}
        self._due: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._leases)

    def open(self, lease: int, seat: Seat, hashes: BlockHashes, from_block: int) -> None:
        """Lend the seat `hashes[from_block:]`, less what is lent already; what is before is there. `hashes` is kept."""
        bit = self._slots.bit(seat)
        if not bit or lease in self._leases:
            return
        first = depths(self.masks.get, hashes, bit, min(from_block, len(hashes)))[0][0]
        entry = self._leases[lease] = _Lease(hashes, first, bit, seat)
        self._by_bit.setdefault(bit, {})[lease] = entry
        if first == len(hashes):
            return  # it may inherit
        masks, lent = self.masks, hashes[first:]
        before = list(map(masks.setdefault, lent, repeat(bit)))
        if before.count(bit) != len(lent):  # others are lent some of them too, which is rare
            masks.update({block: mask | bit for block, mask in zip(lent, before, strict=True)})

    def lenders(self, seat: Seat, hashes: BlockHashes, at: int) -> list[int]:
        """Which leases lend the seat block `at` of a prompt. Walks the seat's open leases."""
        leases = self._by_bit.get(self._slots.bit(seat), {})
        block = hashes[at]
        return [
            number
            for number, lease in leases.items()
            if lease.first <= at < len(lease.hashes) and lease.hashes[at] == block
        ]

    def newest(self) -> Iterator[int]:
        """Open leases, the last one first: ascending numbers were given."""
        return reversed(self._leases)

    def lent(self, lease: int) -> tuple[Seat, BlockHashes, int] | None:
        """What the lease lends now: to whom, of which prompt, from which block on. None: it is gone, or forgotten."""
        entry = self._leases.get(lease)
        if entry is None or self._slots.bit(entry.seat) != entry.bit:
            return None
        return entry.seat, entry.hashes, entry.first

    def deepen(self, groups: Sequence[Group], hashes: BlockHashes) -> list[Group] | None:
        """The groups (see `lookup.depths`) with what the leases lend right where each ends; None: nothing."""
        masks, end, found = self.masks, len(hashes), False
        if not masks:
            return None
        deeper: list[Group] = []
        for depth, mask in groups:
            if depth < end and masks.get(hashes[depth], 0) & mask:
                deeper += depths(masks.get, hashes, mask, depth)
                found = True
            else:
                deeper.append((depth, mask))
        return deeper if found else None

    def first_token(self, lease: int, now_seconds: float) -> None:
        if lease in self._leases:
            self._due.append((now_seconds + GRACE_SECONDS, lease))

    def withdraw(self, lease: int) -> None:
        """The dispatch failed: what the lease alone would have computed will not come."""
        self._drop(lease)

    def close(self, lease: int) -> None:
        """The request ended, however. Closing twice, or after its time is up, does nothing."""
        self._drop(lease)

    def expire(self, now_seconds: float) -> None:
        """Drop the leases whose first token is `GRACE_SECONDS` old."""
        due = self._due
        while due and due[0][0] <= now_seconds:
            self._drop(due.popleft()[1])

    def lends(self, bit: int) -> bool:
        """Whether any lease still carries this bit."""
        return bit in self._by_bit

    def _drop(self, lease: int) -> None:
        gone = self._leases.pop(lease, None)
        if gone is None:
            return
        bit, first = gone.bit, gone.first
        rest = self._by_bit[bit]
        del rest[lease]
        if not rest:
            del self._by_bit[bit]
        elif (heir := _heir(gone, rest)) is not None:
            first, heir.first = heir.first, first
        if first == len(gone.hashes):
            return
        masks, lent = self.masks, gone.hashes[first:]
        before = list(map(masks.pop, lent, repeat(bit)))
        if before.count(bit) != len(lent):  # others are lent some of them too
            masks.update({block: mask & ~bit for block, mask in zip(lent, before, strict=True) if mask != bit})


def _heir(gone: _Lease, rest: dict[int, _Lease]) -> _Lease | None:
    """Of the leases that count on what `gone` lent, the one that begins last."""
    heir = None
    deepest, end, hashes = gone.first, len(gone.hashes), gone.hashes
    for lease in rest.values():
        first = lease.first
        if deepest < first <= end and lease.hashes[first - 1] == hashes[first - 1]:
            heir, deepest = lease, first
    return heir
