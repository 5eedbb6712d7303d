"""What is in flight on each replica: one entry per request sent, released exactly once.

An entry charges its seat in two phases (R 5.3):

- *prefill*, from `open`: its uncached tokens stand in `queued_tokens`, work ahead of whoever comes next;
- *decode*, from the first token to `close`: its whole expected context (prompt and output estimate) stands in
  `context_tokens`, which is what makes a batch's steps slower.

`open_requests` counts both. A streamed request tells its first token. Of another we see nothing before the end, so its
prefill charge moves to decode at the predicted end of its prefill, when `advance` passes that moment.

What others send to a replica past this router stands in the columns too, as far as it is known: one addition when it is
learned, none when a decision reads a column.

- `peers`: what other routers tell of their own ledgers, in all three columns;
- `foreign`: requests that the replica itself tells of and nobody else, in `open_requests`.

`own` and `own_requests` leave both out.

Charges are whole numbers and an entry remembers exactly what it added, so after all leases are closed every column is
exactly zero, whatever the order in which they ended. The columns are floats, which hold whole numbers exactly up to
2^53: a price multiplies them by floats, and numpy takes twice as long for that with integers. The seat of a replica
that left keeps its row: late leases release there.
"""

from __future__ import annotations

import heapq
from typing import NewType

import msgspec
import numpy as np

from router.fleet.columns import FIRST_ROWS, grown
from router.fleet.replica import FloatArray, Seat

# Ascending in the order of opening, never given twice.
LeaseId = NewType("LeaseId", int)

# Below this many the heap of predicted ends is not worth tidying.
SMALL_HEAP = 64


class Entry(msgspec.Struct, gc=False):
    """One request on one replica. Only the ledger changes it."""

    lease: LeaseId
    seat: Seat
    uncached_tokens: int
    context_tokens: int  # prompt and output estimate: the decode charge
    streamed: bool
    opened_at_seconds: float
    decoding: bool = False


class Ledger:
    """Entries and their sums by seat. Requests change it through `open`, `first_token`, `advance` and `close`, other
    routers through `peers`, scrapes of the replicas' own load through `foreign`.

    The three columns are replaced when a new seat makes them grow: index them afresh, `ledger.queued_tokens[seats]`.
    Each lies over a buffer of the same numbers, for who changes one: that costs a fifth of a numpy element.
    """

    def __init__(self) -> None:
        self.queued_tokens, self._queued = _column(FIRST_ROWS)
        self.context_tokens, self._context = _column(FIRST_ROWS)
        self.open_requests, self._requests = _column(FIRST_ROWS)
        self._foreign: FloatArray = np.zeros(FIRST_ROWS)
        self._peer_queued: FloatArray = np.zeros(FIRST_ROWS)
        self._peer_context: FloatArray = np.zeros(FIRST_ROWS)
        self._peer_requests: FloatArray = np.zeros(FIRST_ROWS)
        self.all_peer_requests = 0  # over all seats
        self._peaks: list[int] = [0] * FIRST_ROWS  # most in `open_requests` since last asked
        self._entries: dict[LeaseId, Entry] = {}
        self._ends: list[tuple[float, LeaseId]] = []  # predicted ends of prefill; closed leases are dropped late
        self._next_lease = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        busy = ", ".join(
            f"seat {seat}: {self.open_requests[seat]:.0f} open, {self.queued_tokens[seat]:.0f} queued tokens, "
            f"{self.context_tokens[seat]:.0f} context tokens"
            for seat in np.flatnonzero(self.open_requests).tolist()
        )
        return f"<Ledger {len(self._entries)} leases; {busy or 'idle'}>"

    def join(self, seat: Seat) -> None:
        """Make room for a seat, so that every column can be indexed with it."""
        rows = seat + 1
        if rows > len(self.queued_tokens):
            self.queued_tokens, self._queued = _grown(self.queued_tokens, rows)
            self.context_tokens, self._context = _grown(self.context_tokens, rows)
            self.open_requests, self._requests = _grown(self.open_requests, rows)
        self._foreign = grown(self._foreign, rows)
        self._peer_queued = grown(self._peer_queued, rows)
        self._peer_context = grown(self._peer_context, rows)
        self._peer_requests = grown(self._peer_requests, rows)
        self._peaks += [0] * (len(self.open_requests) - len(self._peaks))

    def open(
        self,
        seat: Seat,
        *,
        uncached_tokens: int,
        prompt_tokens: int,
        output_tokens_estimate: int,
        streamed: bool,
        now_seconds: float,
        prefill_ends_at_seconds: float,
    ) -> LeaseId:
        """Charge a request to a seat. `prefill_ends_at_seconds` counts only for a request that is not streamed."""
        if seat >= len(self.open_requests):
            self.join(seat)
        lease = LeaseId(self._next_lease)
        self._next_lease += 1
        context_tokens = prompt_tokens + output_tokens_estimate
        self._entries[lease] = Entry(lease, seat, uncached_tokens, context_tokens, streamed, now_seconds)
        self._queued[seat] += uncached_tokens
        count = self._requests[seat] + 1
        self._requests[seat] = count
        if count > self._peaks[seat]:
            self._peaks[seat] = int(count)
        if not streamed:
            heapq.heappush(self._ends, (prefill_ends_at_seconds, lease))
        return lease

    def first_token(self, lease: LeaseId) -> None:
        """The prefill is over: its charge goes and the decode charge begins. Again, or after `close`: nothing."""
        entry = self._entries.get(lease)
        if entry is not None and not entry.decoding:
            entry.decoding = True
            self._queued[entry.seat] -= entry.uncached_tokens
            self._context[entry.seat] += entry.context_tokens

    def advance(self, now_seconds: float) -> None:
        """Move the prefills whose predicted end has come. Call before reading the columns; nothing due costs 0.1 us."""
        ends = self._ends
        while ends and ends[0][0] <= now_seconds:
            self.first_token(heapq.heappop(ends)[1])

    def close(self, lease: LeaseId) -> bool:
        """Release all the lease still charges. True exactly the first time, False ever after."""
        entry = self._entries.pop(lease, None)
        if entry is None:
            return False
        if entry.decoding:
            self._context[entry.seat] -= entry.context_tokens
        else:
            self._queued[entry.seat] -= entry.uncached_tokens
        self._requests[entry.seat] -= 1
        if len(self._ends) > SMALL_HEAP and len(self._ends) > 2 * len(self._entries):
            self._ends = [end for end in self._ends if end[1] in self._entries]
            heapq.heapify(self._ends)
        return True

    def is_open(self, lease: LeaseId) -> bool:
        return lease in self._entries

    def peers(self, seat: Seat, requests: int, queued_tokens: int, context_tokens: int) -> None:
        """So much have all other routers together open there, as they told last."""
        more = requests - int(self._peer_requests.item(seat))
        self.all_peer_requests += more
        count = int(self.open_requests.item(seat)) + more
        self.open_requests[seat] = count
        self._peaks[seat] = max(self._peaks[seat], count)
        self.queued_tokens[seat] += queued_tokens - self._peer_queued.item(seat)
        self.context_tokens[seat] += context_tokens - self._peer_context.item(seat)
        self._peer_requests[seat] = requests
        self._peer_queued[seat] = queued_tokens
        self._peer_context[seat] = context_tokens

    def peer_requests(self, seat: Seat) -> int:
        return int(self._peer_requests.item(seat))

    def peer_queued_tokens(self, seat: Seat) -> int:
        return int(self._peer_queued.item(seat))

    def foreign(self, seat: Seat, requests: int) -> None:
        """So many requests are open there that are neither ours nor another router's, as far as is known now."""
        more = requests - self.foreign_requests(seat)
        self._foreign[seat] = requests
        self.open_requests[seat] += more
        self._peaks[seat] += more

    def foreign_requests(self, seat: Seat) -> int:
        return int(self._foreign.item(seat))

    def own_requests(self, seat: Seat) -> int:
        """Leases open on the seat."""
        return int(self.open_requests.item(seat) - self._foreign.item(seat) - self._peer_requests.item(seat))

    def own(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What our leases charge, by seat: open requests, queued tokens, context tokens. New arrays."""
        return (
            self.open_requests - self._foreign - self._peer_requests,
            self.queued_tokens - self._peer_queued,
            self.context_tokens - self._peer_context,
        )

    def take_peak(self, seat: Seat) -> int:
        """The most requests, ours and other routers', that were open there at one time since this was last asked."""
        peak, self._peaks[seat] = self._peaks[seat], int(self.open_requests.item(seat))
        return peak - self.foreign_requests(seat)

    def entries(self, seat: Seat) -> list[Entry]:
        """What is open on a seat, oldest first. Walks all entries: for people, not for decisions."""
        return [entry for entry in self._entries.values() if entry.seat == seat]

    def oldest_opened_at_seconds(self, seat: Seat) -> float | None:
        return min((entry.opened_at_seconds for entry in self._entries.values() if entry.seat == seat), default=None)


def _column(rows: int) -> tuple[FloatArray, memoryview]:
    """A column of zeros, and the buffer under it."""
    column = np.zeros(rows)
    return column, column.data


def _grown(column: FloatArray, rows: int) -> tuple[FloatArray, memoryview]:
    longer = grown(column, rows)
    return longer, longer.data
