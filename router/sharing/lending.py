"""What our open requests use of the caches, and what of it they are about to put there, as the others are told it.

A lease is told once, as soon as it is open: its prompt by grains of some thousand tokens, which of a prompt of 100K
tokens is 800 bytes, and from which grain on nobody had it (R 4.6). That changes when the lease inherits from
another, and when it lends no more, since the events must have told; then only the number is told. At last that it is
closed.

So much is told at one time and no more. Beyond it the newest leases count, whose blocks no event has told of yet: the
rest is not told at all, which costs the others a guess and us nothing.
"""

from __future__ import annotations

from itertools import takewhile

from router.fleet.ledger import LeaseId, Ledger
from router.fleet.replica import Seat
from router.fleet.roster import Roster
from router.index.open_blocks import grain_blocks
from router.index.recent import OpenLeases
from router.sharing.message import HASH_BYTES, MOST_GRAINS, MOST_LEASES, Lent, pack_hashes

MOST_BYTES = 1 << 16  # of hashes in one message: at most 2.6 MB/s

First = tuple[int, int]  # a lease, and the first grain it lends: as many as it has where it lends none


class Lending:
    """Mutable: what the others were told last."""

    def __init__(self, leases: OpenLeases, ledger: Ledger, roster: Roster) -> None:
        self._leases = leases
        self._ledger = ledger
        self._roster = roster
        self._told: dict[int, tuple[int, int, int]] = {}  # a lease to its first grain, blocks in a grain, and grains
        self._newest = -1

    def anew(self) -> None:
        """The others may know nothing: all that is open is told again."""
        self._told.clear()
        self._newest = -1

    def firsts(self) -> tuple[First, ...]:
        """Of all that was told and is not closed."""
        return tuple((lease, first) for lease, (first, _, _) in self._told.items())

    def news(self) -> tuple[tuple[Lent, ...], tuple[First, ...], tuple[int, ...]]:
        """New leases; those that lend from another grain on than was told; those that are closed."""
        moved: list[First] = []
        closed: list[int] = []
        for lease, (told, blocks, grains) in self._told.items():
            if not self._ledger.is_open(LeaseId(lease)):
                closed.append(lease)
                continue
            lent = self._leases.lent(lease)
            first = grains if lent is None else min(lent[2] // blocks, grains)
            if first != told:
                moved.append((lease, first))
                self._told[lease] = (first, blocks, grains)
        for lease in closed:
            del self._told[lease]
        return self._opened(), tuple(moved), tuple(closed)

    def _opened(self) -> tuple[Lent, ...]:
        new = list(takewhile(lambda lease: lease > self._newest, self._leases.newest()))
        self._newest = new[0] if new else self._newest
        opened: list[Lent] = []
        room = MOST_BYTES
        for lease in new:
            one = self._lent(lease)
            if one is None:
                continue
            room -= len(one.ends)
            if room < 0 or len(self._told) >= MOST_LEASES:
                break
            self._told[lease] = (one.first, one.grain_blocks, len(one.ends) // HASH_BYTES)
            opened.append(one)
        return tuple(opened)

    def _lent(self, lease: int) -> Lent | None:
        """None for one whose replica's cache was cleared, or whose block size is not known."""
        lent = self._leases.lent(lease)
        block_tokens = None if lent is None else self._roster.facts(lent[0]).block_size_tokens
        if lent is None or block_tokens is None:
            return None
        seat, hashes, first = lent
        blocks = grain_blocks(block_tokens)
        ends = hashes[blocks - 1 :: blocks][:MOST_GRAINS]
        return Lent(
            lease,
            self._roster.replica(Seat(seat)).id,
            blocks,
            blocks * block_tokens,
            len(hashes) % blocks * block_tokens,
            min(first // blocks, len(ends)),
            pack_hashes(ends),
        )
