"""Fallback truth: an engine's own count of cached tokens, where its answers do not report any (R 5.1).

An engine counts the prompt tokens it looked up in its cache and those it found there. Between two readings the sums of
what we sent and predicted must agree with that, if all its traffic is ours. So requests that ended without a report are
added up until the sum of their prompt tokens fits what the engine looked up; that stretch is then held against its hits
and weighed like one judged request. What was in flight at either end makes the sums differ a little, by which the
verdict is the more tolerant. Sums that never fit (others send there too, requests are aborted, answers do report) are
dropped after a while, and judge nothing.

Counters only grow. One that has fallen is another process's.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.fleet.replica import Seat
from router.index.accuracy import Accuracy

FEWEST_TOKENS = 4096  # of a stretch: below, a single request in flight is too much of it
OPEN_SHARE = 0.1  # of the sums, by which they may differ and still be the same requests'
TOLERANCE = 0.05  # share of the prompt tokens by which hits and predictions may differ
MOST_READINGS = 30  # without a fit; then begin again


@dataclass(slots=True)
class _Stretch:
    """Changed by `Counters` only."""

    queries_tokens: int  # as read at its beginning
    hits_tokens: int
    readings: int = 0
    prompt_tokens: int = 0
    predicted_tokens: int = 0
    block_size_tokens: int = 1
    lower_bound: bool = False


class Counters:
    """By seat. Fed by accounts (`finished`) and probes (`read`)."""

    def __init__(self, accuracy: Accuracy) -> None:
        self._accuracy = accuracy
        self._stretches: dict[Seat, _Stretch] = {}
        self._readings: dict[Seat, int] = {}
        self._fallen_at: dict[Seat, int] = {}  # by count of readings

    def finished(
        self, seat: Seat, *, prompt_tokens: int, predicted_tokens: int, block_size_tokens: int, lower_bound: bool
    ) -> None:
        """A request ended well and its answer told nothing of cached tokens."""
        stretch = self._stretches.get(seat)
        if stretch is not None:
            stretch.prompt_tokens += prompt_tokens
            stretch.predicted_tokens += predicted_tokens
            stretch.block_size_tokens = block_size_tokens
            stretch.lower_bound |= lower_bound

    def read(self, seat: Seat, queries_tokens: int, hits_tokens: int) -> bool:
        """The engine's counters as they stand. Whether they have fallen: another process answers there now."""
        self._readings[seat] = self._readings.get(seat, 0) + 1
        stretch = self._stretches.get(seat)
        if stretch is None:
            self._stretches[seat] = _Stretch(queries_tokens, hits_tokens)
            return False
        if queries_tokens < stretch.queries_tokens or hits_tokens < stretch.hits_tokens:
            self._stretches[seat] = _Stretch(queries_tokens, hits_tokens)
            self._fallen_at[seat] = self._readings[seat]
            return True
        if self._judged(seat, stretch, queries_tokens - stretch.queries_tokens, hits_tokens - stretch.hits_tokens):
            self._stretches[seat] = _Stretch(queries_tokens, hits_tokens)
        return False

    def readings(self, seat: Seat) -> int:
        """How often they were read."""
        return self._readings.get(seat, 0)

    def fell(self, seat: Seat, within_readings: int) -> bool:
        """Whether they fell at one of the last readings."""
        fallen_at = self._fallen_at.get(seat)
        return fallen_at is not None and self.readings(seat) - fallen_at < within_readings

    def leave(self, seat: Seat) -> None:
        for known in (self._stretches, self._readings, self._fallen_at):
            known.pop(seat, None)

    def _judged(self, seat: Seat, stretch: _Stretch, queries_tokens: int, hits_tokens: int) -> bool:
        """Whether the stretch is over: judged, or given up."""
        stretch.readings += 1
        open_tokens = abs(queries_tokens - stretch.prompt_tokens)
        if stretch.prompt_tokens < FEWEST_TOKENS or open_tokens > OPEN_SHARE * stretch.prompt_tokens:
            return stretch.readings >= MOST_READINGS
        self._accuracy.counted(
            seat,
            predicted_tokens=stretch.predicted_tokens,
            hit_tokens=hits_tokens,
            tolerance_tokens=int(TOLERANCE * stretch.prompt_tokens) + open_tokens,
            lower_bound=stretch.lower_bound,
            block_size_tokens=stretch.block_size_tokens,
        )
        return True
