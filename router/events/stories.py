"""What this router knows of replicas' caches, told to another router, or taken over from one (R 4.4).

Both are errands of the replica's own stream: between two batches the story stands still, so that what is told is cut at
one number, and what is taken over goes on from there. Work is done in the slices that hearing events gets; no request
waits for it, and live batches wait in ZMQ's queue as they do while a replay is under way.

What was taken over is disbelieved in every way there is. It must be of a process that we hear as well and root hashes
as we do, and the engine's own replay must return the very batch the other router heard last. Else it is discarded
whole, and the story begins as it would have without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from router.events.ingest import Ingest
from router.events.names import NAME_BYTES
from router.events.snapshot import (
    MOST_BLOCKS,
    Malformed,
    Run,
    Snapshot,
    packed,
    packed_head,
    parts,
    snapshot,
    unpacked,
    unpacked_head,
)
from router.events.zmq import Subscription
from router.fleet.replica import ReplicaId, Seat
from router.fleet.roster import Roster
from router.index.base import CATCHING_UP, EXACT
from router.index.memory import MemoryIndex
from router.index.table import ROW_BYTES


class Taken(Enum):
    """What became of a snapshot. The values are metric labels."""

    LOADED = "loaded"
    NOT_NEEDED = "not_needed"  # the replica is gone, not heard, or known in whole by now
    OTHER_PROCESS = "other_process"
    OTHER_HASHES = "other_hashes"  # another hash_seed, model or block size
    ROLLED = "rolled"  # the engine's replay does not reach back to it
    MALFORMED = "malformed"
    NO_ROOM = "no_room"  # the index's budget does not hold it


class Stories:
    """Of all replicas. `subscription` gives what hears a seat now."""

    def __init__(
        self,
        roster: Roster,
        ingest: Ingest,
        index: MemoryIndex,
        subscription: Callable[[Seat], Subscription | None],
    ) -> None:
        self._roster = roster
        self._ingest = ingest
        self._index = index
        self._subscription = subscription

    def wanted(self) -> list[str]:
        """Replicas whose events we hear, and whose story has no beginning here."""
        return [
            self._roster.replica(seat).id
            for seat in self._roster.present()
            if self._ingest.trust(seat) is CATCHING_UP
            and not self._ingest.whole(seat)
            and self._index.budget.room_bytes > 0  # else it would be no more whole than it is
        ]

    def knows(self, replica: str) -> bool:
        """Whether we could tell of it."""
        seat = self._heard(replica)
        return seat is not None and self._knows(seat)

    async def tell(self, replica: str) -> list[bytes] | None:
        """A snapshot's parts, its head last; None: there is none to tell. May never return: see `errand`."""
        seat = self._heard(replica)
        heard = None if seat is None else self._subscription(seat)
        if seat is None or heard is None or not self._knows(seat):
            return None
        return await heard.errand(lambda: self._told(seat, heard))

    async def take(self, replica: str, told: Sequence[bytes]) -> Taken:
        """Take over what another router told. May never return: see `errand`."""
        seat = self._heard(replica)
        heard = None if seat is None else self._subscription(seat)
        if seat is None or heard is None:
            return Taken.NOT_NEEDED
        try:
            read = await _read(told, heard)
        except Malformed:
            return Taken.MALFORMED
        return await heard.errand(lambda: self._taken(seat, heard, read))

    def _heard(self, replica: str) -> Seat | None:
        seat = self._roster.seat_of(ReplicaId(replica))
        return seat if seat is not None and self._roster.is_present(seat) else None

    def _knows(self, seat: Seat) -> bool:
        whole = self._ingest.whole(seat) and self._ingest.trust(seat) is EXACT
        return whole and self._index.held_blocks(seat) <= MOST_BLOCKS

    async def _told(self, seat: Seat, heard: Subscription) -> list[bytes] | None:
        mark, told, story = heard.sequencer.mark(), self._ingest.told(seat), self._ingest.story(seat)
        if mark is None or told is None:
            return None
        packed_parts: list[bytes] = []
        count = 0
        lots = parts(told.runs)
        while True:
            await heard.breathe()
            if self._ingest.story(seat) != story:
                return None  # somebody emptied the cache meanwhile
            lot = next(lots, None)
            if lot is None:
                break
            packed_parts.append(packed(lot))
            count += len(lot)
        return [*packed_parts, packed_head(mark, told, count)]

    async def _taken(self, seat: Seat, heard: Subscription, read: Snapshot) -> Taken:
        ingest, sequencer = self._ingest, heard.sequencer
        if ingest.whole(seat) or ingest.trust(seat) is not CATCHING_UP or not sequencer.meets(read.mark):
            return Taken.NOT_NEEDED
        if not ingest.fits(seat, read.told):
            return Taken.OTHER_HASHES
        if sequencer.contradicts(read.mark):
            return Taken.OTHER_PROCESS
        if read.blocks * (ROW_BYTES + NAME_BYTES) > self._index.budget.room_bytes:
            return Taken.NO_ROOM
        ingest.borrow(seat, read.told.block_size_tokens)
        story = ingest.story(seat)
        await heard.purge()
        for lot in parts(read.told.runs):
            await heard.breathe()
            if ingest.story(seat) != story:
                return Taken.NOT_NEEDED  # somebody emptied the cache meanwhile, and our own story goes on from there
            for run in lot:
                ingest.hold(seat, run)
        return Taken.LOADED if await heard.resume(read.mark) else Taken.ROLLED


async def _read(told: Sequence[bytes], heard: Subscription) -> Snapshot:
    """Raises Malformed."""
    if not told:
        raise Malformed("it has no head")
    head = unpacked_head(told[-1])
    runs: list[Run] = []
    for part in told[:-1]:
        await heard.breathe()
        runs += unpacked(part)
    return snapshot(head, runs)
