"""Looks at every miss more closely: gathers the evidence that `causes` judges by, at once and again a moment later.

A request that was predicted exactly costs nothing here. What a stream did since a request was sent is known without
asking at every request: its `Pulse` is noted a few times a second, and a miss is compared with the last one noted
before its request was sent.

News of a cache and an answer come over different sockets, so at the moment of the answer the evidence may still be on
its way. A cause found then is good enough for a first suspicion; it is found anew `SETTLE_SECONDS` later, and only then
counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from router.events.hearing import Pulse
from router.events.ingest import Ingest
from router.events.silence import Silence
from router.fleet.replica import Seat
from router.index.accuracy import Accuracy
from router.index.base import Trust
from router.index.causes import MEANINGS, Cause, Evidence, cause_of
from router.index.counters import Counters
from router.index.memory import MemoryIndex
from router.index.suspicion import Miss, Suspicion
from router.prompt.blocks import BlockHashes, TokenIds

SETTLE_SECONDS = 0.5  # a batch of events takes milliseconds, a busy loop some tens of them
MOST_UNSETTLED = 256  # a prompt is kept for each; beyond, a cause stays as first found
MOST_PULSES = 128  # per seat; older ones are thinned out, so they reach back minutes
RECENT_READINGS = 10  # of counters: how long a fall explains misses
RECENT_KEYS = 50  # judged requests: how long a key that no event tells explains them


@dataclass(frozen=True, slots=True, eq=False)
class Missed:
    """A request whose prediction missed. `sent_seconds` is on the house's clock."""

    miss: Miss
    seat: Seat
    sent_seconds: float
    reported_tokens: int
    block_size_tokens: int
    hashes: BlockHashes
    tokens: TokenIds | None
    in_namespace: bool  # it has a salt or an adapter
    is_proof: bool  # the index will take the answer for proof, so afterwards its word is no evidence


class Misses:
    """Mutable; told by the account of a finished request (`saw`, `unseen_key`) and by housekeeping (`beat`)."""

    def __init__(
        self, index: MemoryIndex, ingest: Ingest, accuracy: Accuracy, counters: Counters, silence: Silence
    ) -> None:
        self._index = index
        self._ingest = ingest
        self._accuracy = accuracy
        self._counters = counters
        self._silence = silence
        self._pulses: dict[Seat, list[tuple[float, Pulse, int]]] = {}
        self._unsettled: deque[tuple[float, Missed]] = deque()
        self._unseen_keys: dict[Seat, int] = {}  # weighed requests at the last one
        self._drifted: set[Seat] = set()  # suspected of drift, and told

    def saw(self, missed: Missed, now_seconds: float) -> None:
        """A judged request was not exact. Call before the answer is taken for proof of anything."""
        missed.miss.cause = cause_of(self._evidence(missed))
        if missed.is_proof or len(self._unsettled) >= MOST_UNSETTLED:
            self._accuracy.settle(missed.seat, missed.miss)
            return
        self._accuracy.suspect(missed.seat)
        self._unsettled.append((now_seconds + SETTLE_SECONDS, missed))

    def unseen_key(self, seat: Seat) -> None:
        """A request went there that keeps its cache apart by something no event tells."""
        self._unseen_keys[seat] = self._accuracy.weighed(seat)

    def beat(self, seats: Iterable[Seat], now_seconds: float) -> None:
        """Note the pulses, and settle what is due. Call a few times a second."""
        while self._unsettled and self._unsettled[0][0] <= now_seconds:
            _, missed = self._unsettled.popleft()
            if not self._left(missed):
                missed.miss.cause = cause_of(self._evidence(missed))
            self._accuracy.settle(missed.seat, missed.miss)
        for seat in seats:
            pulse = self._ingest.pulse(seat)
            if pulse is None:
                self._pulses.pop(seat, None)
                continue
            readings = self._counters.readings(seat)
            pulses = self._pulses.setdefault(seat, [])
            if pulses and pulses[-1][1:] == (pulse, readings):
                continue
            pulses.append((now_seconds, pulse, readings))
            if len(pulses) > MOST_PULSES:
                del pulses[: MOST_PULSES // 2 : 2]

    def leave(self, seat: Seat) -> None:
        """Another replica may take the seat."""
        self._pulses.pop(seat, None)
        self._unseen_keys.pop(seat, None)
        self._drifted.discard(seat)

    def drifted(self, seats: Iterable[Seat]) -> list[Seat]:
        """Which of the seats are newly suspected to read other tokens than we do."""
        suspected = {seat for seat in seats if self._accuses(seat, Cause.TEMPLATE_DRIFT)}
        new = sorted(suspected - self._drifted)
        self._drifted = suspected
        return new

    def suspicion(self, seat: Seat) -> Suspicion | None:
        """Why the replica is not believed, by its answers or by its events; None: nothing is held against it."""
        found = self._accuracy.suspicion(seat)
        if found is not None:
            return found
        lost = "its publisher is silent" if self._silence.is_silent(seat) else self._ingest.lost(seat)
        return None if lost is None else Suspicion(Cause.EVENT_LOSS, 0, 0, f"{MEANINGS[Cause.EVENT_LOSS]}: {lost}")

    def _accuses(self, seat: Seat, cause: Cause) -> bool:
        found = self._accuracy.suspicion(seat)
        return found is not None and found.cause is cause

    def _left(self, missed: Missed) -> bool:
        """The replica's events were heard when the request was sent, and nobody hears them any more."""
        return missed.miss.told and self._ingest.pulse(missed.seat) is None

    def _evidence(self, missed: Missed) -> Evidence:
        ingest, accuracy, seat = self._ingest, self._accuracy, missed.seat
        miss, hashes, size = missed.miss, missed.hashes, missed.block_size_tokens
        now, trust = ingest.pulse(seat), ingest.trust(seat)
        before, readings = self._before(seat, missed.sent_seconds)
        held_blocks = self._index.held_depth(seat, hashes)
        suspects = {hashes[at] for at in (missed.reported_tokens // size, held_blocks) if at < len(hashes)}
        orphaned = now is not None and before is not None and now.orphaned > before.orphaned
        plain_blocks = 0
        if missed.in_namespace and missed.tokens is not None:
            plain_blocks = ingest.plain_blocks(seat, missed.tokens, size)
        unseen_key_at = self._unseen_keys.get(seat)
        return Evidence(
            block_size_tokens=size,
            reported_tokens=missed.reported_tokens,
            error_blocks=miss.error_blocks,
            full_blocks=len(hashes),
            heard=now is not None or miss.told,
            told_block_size_tokens=ingest.block_size_tokens(seat),
            held_blocks=held_blocks,
            begun_anew=now is not None and before is not None and now.story != before.story,
            counters_fell=self._counters.fell(seat, RECENT_READINGS),
            counters_grew=self._counters.readings(seat) > readings,
            removed=ingest.removed_since(seat, before, suspects),
            announced=now is None or before is None or now.stored > before.stored or orphaned,
            lossy=trust is not Trust.EXACT or orphaned or (miss.error_blocks < 0 and not ingest.whole(seat)),
            usual=accuracy.usual(seat, miss.error_blocks),
            plain_blocks=plain_blocks,
            hides_salts=accuracy.lately(seat, Cause.SALT)
            or (unseen_key_at is not None and accuracy.weighed(seat) - unseen_key_at < RECENT_KEYS),
            restarted=accuracy.lately(seat, Cause.RESTART),
        )

    def _before(self, seat: Seat, at_seconds: float) -> tuple[Pulse | None, int]:
        """The last pulse and count of readings noted before that moment; None when the seat has none so old."""
        for noted_seconds, pulse, readings in reversed(self._pulses.get(seat, ())):
            if noted_seconds <= at_seconds:
                return pulse, readings
        return None, self._counters.readings(seat)
