"""How fast each replica reads prompts: uncached tokens per second of prefill, learned from times to first token.

One rate per model, and per replica a deviation from it as far as its own observations carry:

    model    = (PRIOR_WEIGHT * prior + n * median of the model's last observations) / (PRIOR_WEIGHT + n)
    apart    = k * (median of its own last observations - model) / (MODEL_WEIGHT + k)
    replica  = model + what of `apart` exceeds LEAST_DEVIATION

all in logarithms of the rate, because twice as fast and half as fast are equal mistakes. So a fresh replica starts at
its model's rate, a fresh model at the prior, and a straggler prices itself out after a few requests. Medians over a
bounded window, since a time to first token is never much shorter than the truth but may be any amount longer (a pause,
a retransmission, a queue we did not see): half of the observations may lie before the rate does.

Equal replicas never show equal rates: medians of a few dozen noisy observations differ by some percent. Taken for
speeds, they would send all new prompts of a quiet fleet to the one that seems fastest. So a replica has its model's
rate until it deviates by more than such noise.

Only requests that can tell are learned from (R 5.3): streamed ones, since nothing else shows the first token; whose
predicted queue was under a tenth of their time, since otherwise the queue's error is read as rate; and with enough
uncached tokens that fixed costs (round trip, tokenizing, one scheduler step: some ten milliseconds) do not drown them.

The caller names the model by its base: adapters share their base's speed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

import numpy as np

from router.fleet.columns import grown
from router.fleet.replica import FloatArray, IntArray, Seat

PRIOR_TOKENS_PER_SECOND = 8_000.0  # an 8B model on one data-centre GPU, within a factor of three either way

# Slower than a laptop's CPU on a small model: below this a figure is a stall, not a speed, and would banish a replica.
SLOWEST_TOKENS_PER_SECOND = 500.0
# Faster than a 1B model on today's best GPU: above this the tokens were cached and we did not know it.
FASTEST_TOKENS_PER_SECOND = 500_000.0

PRIOR_WEIGHT = 4.0  # observations
MODEL_WEIGHT = 8.0  # observations
MODEL_WINDOW = 128  # observations
LEAST_DEVIATION = 0.1  # in logarithms of the rate: a tenth faster or slower
REPLICA_WINDOW = 32  # observations; short, so that a replica that slows down is known within one window

LARGEST_QUEUE_SHARE = 0.1
FEWEST_UNCACHED_TOKENS = 512


class _Median:
    """The median of the last observations, kept sorted: a hundred floats move faster than a tree turns."""

    __slots__ = ("_arrived", "_sorted", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._arrived)

    def add(self, value: float) -> float:
        """The median with `value` in."""
        if len(self._arrived) == self._window:
            del self._sorted[bisect_left(self._sorted, self._arrived.popleft())]
        self._arrived.append(value)
        insort(self._sorted, value)
        middle = len(self._sorted) // 2
        if len(self._sorted) % 2:
            return self._sorted[middle]
        return (self._sorted[middle - 1] + self._sorted[middle]) / 2


class _ModelRates:
    """One model: its own median, its replicas', and the column of results. Observing is slow, reading one gather."""

    def __init__(self, prior: float, clamp: tuple[float, float]) -> None:
        self._prior_log = math.log(prior)
        self._clamp = clamp
        self._all = _Median(MODEL_WINDOW)
        self._median_log = self._prior_log  # of `_all`; counts for nothing while that is empty
        self._by_seat: dict[Seat, _Median] = {}
        self._seat_log: FloatArray = np.zeros(0)  # median of the seat's own log rates
        self._seat_count: FloatArray = np.zeros(0)
        self.model_tokens_per_second = prior
        self.tokens_per_second: FloatArray = np.zeros(0)

    def expect(self, rate: float) -> None:
        """Where the rate starts, in place of the prior, with its weight: what is seen here soon counts for more."""
        self._prior_log = math.log(rate)
        self._settle()

    @property
    def observed(self) -> tuple[float, int]:
        """The median of the last observations, prior left out, and how many they are. Of none: the prior."""
        return math.exp(self._median_log), len(self._all)

    def cover(self, rows: int) -> None:
        self._seat_log = grown(self._seat_log, rows)
        self._seat_count = grown(self._seat_count, rows)
        self.tokens_per_second = grown(self.tokens_per_second, rows, self.model_tokens_per_second)

    def observe(self, seat: Seat, log_rate: float) -> None:
        self.cover(seat + 1)
        own = self._by_seat.setdefault(seat, _Median(REPLICA_WINDOW))
        self._seat_log[seat] = own.add(log_rate)
        self._seat_count[seat] = len(own)
        self._median_log = self._all.add(log_rate)
        self._settle()

    def _settle(self) -> None:
        count = len(self._all)
        model_log = (PRIOR_WEIGHT * self._prior_log + count * self._median_log) / (PRIOR_WEIGHT + count)
        self.model_tokens_per_second = math.exp(model_log)
        apart: FloatArray = self._seat_count * (self._seat_log - model_log) / (MODEL_WEIGHT + self._seat_count)
        apart = np.sign(apart) * np.maximum(np.abs(apart) - LEAST_DEVIATION, 0.0)
        self.tokens_per_second = np.clip(np.exp(model_log + apart), *self._clamp)

    def forget(self, seat: Seat) -> None:
        if self._by_seat.pop(seat, None) is not None:
            self._seat_log[seat] = self._seat_count[seat] = 0.0
            self.tokens_per_second[seat] = self.model_tokens_per_second


class Rates:
    """Learned prefill rates by model and seat. Only the account of a finished request feeds them; what other routers
    have seen (`expect`) moves no more than where a model starts."""

    def __init__(
        self,
        prior_tokens_per_second: float = PRIOR_TOKENS_PER_SECOND,
        slowest_tokens_per_second: float = SLOWEST_TOKENS_PER_SECOND,
        fastest_tokens_per_second: float = FASTEST_TOKENS_PER_SECOND,
    ) -> None:
        self._prior = prior_tokens_per_second
        self._clamp = (slowest_tokens_per_second, fastest_tokens_per_second)
        self._models: dict[str, _ModelRates] = {}
        self.version = 0  # grows whenever any rate may have changed

    def tokens_per_second(self, model: str, seats: IntArray) -> FloatArray:
        """Prefill rates of the seats for a model, never outside the clamp. A pair never seen has its model's rate."""
        rates = self._models.get(model)
        if rates is None:
            rates = self._models[model] = _ModelRates(self._prior, self._clamp)
        try:
            answer: FloatArray = rates.tokens_per_second[seats]
        except IndexError:  # a seat newer than the column; testing for it each time would cost more than this once
            rates.cover(int(seats.max()) + 1)
            answer = rates.tokens_per_second[seats]
        return answer

    def model_tokens_per_second(self, model: str) -> float:
        rates = self._models.get(model)
        return self._prior if rates is None else rates.model_tokens_per_second

    def observe(
        self,
        model: str,
        seat: Seat,
        *,
        streamed: bool,
        uncached_tokens: int,
        ttft_seconds: float,
        predicted_queue_seconds: float,
    ) -> bool:
        """Learn from one first token, if it can tell. `uncached_tokens` as the engine reports them, where it does.
        Returns whether it was learned from."""
        if (
            not streamed
            or uncached_tokens < FEWEST_UNCACHED_TOKENS
            or ttft_seconds <= 0.0
            or predicted_queue_seconds >= LARGEST_QUEUE_SHARE * ttft_seconds
        ):
            return False
        rates = self._models.get(model)
        if rates is None:
            rates = self._models[model] = _ModelRates(self._prior, self._clamp)
        slowest, fastest = self._clamp
        rate = uncached_tokens / (ttft_seconds - predicted_queue_seconds)
        rates.observe(seat, math.log(min(max(rate, slowest), fastest)))
        self.version += 1
        return True

    def observed(self) -> list[tuple[str, float, int]]:
        """Of each model that was observed here: its name, the median rate, and of how many observations."""
        told = ((model, *rates.observed) for model, rates in self._models.items())
        return [(model, rate, count) for model, rate, count in told if count]

    def expect(self, model: str, tokens_per_second: float) -> None:
        """Others have seen the model run at this rate: it starts there, in place of the prior."""
        rates = self._models.get(model)
        if rates is None:
            rates = self._models[model] = _ModelRates(self._prior, self._clamp)
        slowest, fastest = self._clamp
        rates.expect(min(max(tokens_per_second, slowest), fastest))
        self.version += 1

    def forget(self, seat: Seat) -> None:
        """The replica restarted, perhaps on another machine: it starts at its models' rates again."""
        for rates in self._models.values():
            rates.forget(seat)
        self.version += 1
