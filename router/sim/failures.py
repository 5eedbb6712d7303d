"""What goes wrong on purpose at a simulated replica. Pure: what to do is decided here, done in `replica` and `http`.

`POST /sim/failures` carries one `Order`; fields left out keep what they were, `clear` begins from nothing.
Chance comes from a seeded generator, so the same order hits the same batches and requests again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from random import Random

import msgspec


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Switches of one replica. None leaves a switch as it is; counts count down and end by themselves."""

    replica: int | None = None  # which one, when not the one asked; a dead one is asked for through another
    clear: bool = False
    die: bool | None = None  # stop listening and drop every connection; False: a new process starts
    for_seconds: float | None = None  # with die or hang: undone by itself after so long
    restart: bool = False  # a new process at once: empty cache, new names, numbering from 0, connections dropped
    restart_silent: bool = False  # the same without dropping a connection: nobody is told
    hang: bool | None = None  # requests are accepted and never answered
    status: int | None = None  # answer inference requests with this status; 0 ends it
    status_count: int | None = None  # so many requests; None: until ended
    reset_connection: int | None = None  # reset the connection of the next so many inference requests, unanswered
    die_after_chunks: int | None = None  # reset the next stream's connection after so many chunks; -1 ends it
    die_after_chunks_count: int | None = None  # so many streams; None: until ended
    slow: float | None = None  # steps take so many times as long
    drop_events_ratio: float | None = None  # of batches, never published live; replay still has them
    drop_events_batches: int | None = None  # the next so many batches
    reorder_events: bool | None = None  # every second batch is published before the one it follows
    no_replay: bool | None = None  # replay requests are not answered
    malformed_events: int | None = None  # the next so many batches go out with a broken payload
    fail_transfers: int | None = None  # the next so many fetches of KV fail at once
    slow_transfers: float | None = None  # fetches of KV take so many times as long
    # Lies: everything goes on, but something told is not so.
    lose_events_ratio: float | None = None  # of batches, before they are numbered: no gap shows, no replay has them
    announce_block_size: int | None = None  # tokens, on the metrics page; 0 ends it
    template_preamble: str | None = None  # what the chat template puts in front of every prompt; empty ends it
    hide_salts: bool | None = None  # events do not tell the cache salt
    other_engine: bool = False  # another process answers, with the old one's start time and its numbering of events


class Failures:
    """The switches of one replica as they stand. Changed by `obey` and by the questions that count down."""

    def __init__(self, seed: int = 0) -> None:
        self._random = Random(seed)
        self._clear()

    def _clear(self) -> None:
        self.hang = False
        self.slow = 1.0
        self.slow_transfers = 1.0
        self._transfers_failing = 0
        self.no_replay = False
        self._status = 0
        self._status_left: int | None = None
        self._resets_left = 0
        self._chunks = -1
        self._chunks_left: int | None = None
        self._drop_ratio = 0.0
        self._drop_left = 0
        self._malformed_left = 0
        self._reorder = False
        self._lose_ratio = 0.0
        self.announced_block_size = 0
        self.template_preamble = ""
        self.hide_salts = False
        self._held: deque[tuple[int, bytes]] = deque()

    def obey(self, order: Order) -> None:
        """Take over all switches that need no more than remembering."""
        if order.clear:
            self._clear()
        if order.hang is not None:
            self.hang = order.hang
        if order.slow is not None:
            self.slow = max(order.slow, 0.001)
        if order.slow_transfers is not None:
            self.slow_transfers = order.slow_transfers
        if order.fail_transfers is not None:
            self._transfers_failing = order.fail_transfers
        if order.no_replay is not None:
            self.no_replay = order.no_replay
        if order.status is not None:
            self._status, self._status_left = order.status, order.status_count
        if order.die_after_chunks is not None:
            self._chunks, self._chunks_left = order.die_after_chunks, order.die_after_chunks_count
        self._resets_left = self._resets_left if order.reset_connection is None else order.reset_connection
        self._drop_ratio = self._drop_ratio if order.drop_events_ratio is None else order.drop_events_ratio
        self._drop_left = self._drop_left if order.drop_events_batches is None else order.drop_events_batches
        self._malformed_left = self._malformed_left if order.malformed_events is None else order.malformed_events
        self._reorder = self._reorder if order.reorder_events is None else order.reorder_events
        self._lose_ratio = self._lose_ratio if order.lose_events_ratio is None else order.lose_events_ratio
        if order.announce_block_size is not None:
            self.announced_block_size = order.announce_block_size
        if order.template_preamble is not None:
            self.template_preamble = order.template_preamble
        if order.hide_salts is not None:
            self.hide_salts = order.hide_salts

    def status(self) -> int | None:
        """The status to refuse the next inference request with; None to serve it."""
        if not self._status or self._status_left == 0:
            return None
        if self._status_left is not None:
            self._status_left -= 1
        return self._status

    def resets_connection(self) -> bool:
        """Whether to reset the connection of the next inference request."""
        if self._resets_left == 0:
            return False
        self._resets_left -= 1
        return True

    def transfer_fails(self) -> bool:
        """Whether the next fetch of KV fails."""
        if self._transfers_failing == 0:
            return False
        self._transfers_failing -= 1
        return True

    def chunks_to_live(self) -> int | None:
        """After how many chunks the next stream dies; None for never."""
        if self._chunks < 0 or self._chunks_left == 0:
            return None
        if self._chunks_left is not None:
            self._chunks_left -= 1
        return self._chunks

    def loses_batch(self) -> bool:
        """Whether the next batch is lost before it gets its number."""
        return bool(self._lose_ratio) and self._random.random() < self._lose_ratio

    def published(self, sequence: int, payload: bytes) -> Iterator[tuple[int, bytes]]:
        """What goes out live when this batch should: nothing, the batch, a broken one, or two in the wrong order."""
        if self._drop_left:
            self._drop_left -= 1
            return
        if self._drop_ratio and self._random.random() < self._drop_ratio:
            return
        if self._malformed_left:
            self._malformed_left -= 1
            payload = b"\xc1" + payload[: len(payload) // 2]  # 0xc1 is the one byte msgpack never uses
        if self._reorder and not self._held:
            self._held.append((sequence, payload))
            return
        yield sequence, payload
        while self._held:
            yield self._held.popleft()
