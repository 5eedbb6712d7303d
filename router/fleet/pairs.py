"""What is known of each pair of a donor and a taker of KV: whether it has ever carried anything, and how long it takes.

A pair is *open* once a warm-up has gone through it: the first request between two engines costs seconds,
and a pair that was configured wrong should fail on nobody's request. It closes when either side restarts or leaves.

How long a hand-over takes, from the donor's last to the taker's first token, is fitted per pair as

    seconds = fixed + tokens * per_token

by least squares over all that was seen, older observations fading, beside two invented ones that say what is expected
of an unknown pair. What was seen holds the taker's own waiting too, so that one pause must not count for much: a time
far above what was expected is taken as so many times that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from router.fleet.replica import FloatArray, IntArray, Seat

# By (donor, taker), two-dimensional.
PairFloats: TypeAlias = npt.NDArray[np.float64]
PairBools: TypeAlias = npt.NDArray[np.bool_]

# Of an unknown pair: one scheduler step and a round trip; 128 KB a token (Llama-3-70B in fp8) at 12.5 GB/s (100 GbE).
EXPECTED_FIXED_SECONDS = 0.02
EXPECTED_TOKEN_SECONDS = 1e-5
INVENTED_TOKENS = 8192.0  # of the second invented observation; the first is of none
FADING = 0.95  # weight of what was known when another observation comes
MOST_TIMES_EXPECTED = 4.0
FIRST_SEATS = 8


@dataclass(slots=True)
class _Fit:
    """Sums over observations of (tokens, seconds). Changed by `Pairs` alone."""

    count: float = 0.0
    tokens: float = 0.0
    tokens_squared: float = 0.0
    seconds: float = 0.0
    tokens_seconds: float = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        self.count = self.count * FADING + 1.0
        self.tokens = self.tokens * FADING + tokens
        self.tokens_squared = self.tokens_squared * FADING + tokens * tokens
        self.seconds = self.seconds * FADING + seconds
        self.tokens_seconds = self.tokens_seconds * FADING + tokens * seconds

    def solve(self) -> tuple[float, float]:
        """Fixed seconds and seconds per token, neither below 0."""
        last = EXPECTED_FIXED_SECONDS + INVENTED_TOKENS * EXPECTED_TOKEN_SECONDS
        count, tokens = self.count + 2.0, self.tokens + INVENTED_TOKENS
        squared = self.tokens_squared + INVENTED_TOKENS * INVENTED_TOKENS
        seconds = self.seconds + EXPECTED_FIXED_SECONDS + last
        products = self.tokens_seconds + INVENTED_TOKENS * last
        per_token = max(0.0, (count * products - tokens * seconds) / (count * squared - tokens * tokens))
        fixed = (seconds - per_token * tokens) / count
        if fixed < 0.0:
            return 0.0, products / squared
        return fixed, per_token


class Pairs:
    """Changed by warm-ups, by finished hand-overs, and by restarts and leaves."""

    def __init__(self) -> None:
        self._open: PairBools = np.zeros((FIRST_SEATS, FIRST_SEATS), dtype=np.bool_)
        self._fixed: PairFloats = np.full((FIRST_SEATS, FIRST_SEATS), EXPECTED_FIXED_SECONDS)
        self._per_token: PairFloats = np.full((FIRST_SEATS, FIRST_SEATS), EXPECTED_TOKEN_SECONDS)
        self._fits: dict[tuple[Seat, Seat], _Fit] = {}

    def opened(self, donor: Seat, taker: Seat) -> None:
        """A warm-up went through."""
        self._cover(max(donor, taker))
        self._open[donor, taker] = True

    def is_open(self, donor: Seat, taker: Seat) -> bool:
        return max(donor, taker) < len(self._open) and bool(self._open[donor, taker])

    def closed(self, donor: Seat, taker: Seat) -> None:
        """It failed in a way that is the pair's own: it must be warmed again."""
        self._cover(max(donor, taker))
        self._open[donor, taker] = False

    def forget(self, seat: Seat) -> None:
        """A replica restarted or left: all its pairs are as new."""
        self._cover(seat)
        for matrix, value in ((self._fixed, EXPECTED_FIXED_SECONDS), (self._per_token, EXPECTED_TOKEN_SECONDS)):
            matrix[seat, :] = matrix[:, seat] = value
        self._open[seat, :] = self._open[:, seat] = False
        self._fits = {pair: fit for pair, fit in self._fits.items() if seat not in pair}

    def observe(self, donor: Seat, taker: Seat, *, tokens: int, seconds: float) -> None:
        """So many tokens were handed over, and the taker's first token came so long after the donor's last."""
        self._cover(max(donor, taker))
        fit = self._fits.setdefault((donor, taker), _Fit())
        expected = self._fixed.item(donor, taker) + tokens * self._per_token.item(donor, taker)
        fit.add(float(tokens), min(max(seconds, 0.0), MOST_TIMES_EXPECTED * expected))
        self._fixed[donor, taker], self._per_token[donor, taker] = fit.solve()

    def open_between(self, donors: IntArray, takers: IntArray) -> PairBools:
        """Which pairs may carry requests."""
        self._cover(int(max(donors.max(initial=0), takers.max(initial=0))))
        found: PairBools = self._open[donors[:, None], takers]
        return found

    def seconds_between(self, donors: IntArray, takers: IntArray, tokens: FloatArray) -> PairFloats:
        """Expected seconds to hand over `tokens`, one figure for each taker."""
        self._cover(int(max(donors.max(initial=0), takers.max(initial=0))))
        at = (donors[:, None], takers)
        found: PairFloats = self._fixed[at] + self._per_token[at] * tokens
        return found

    def figures(self, donor: Seat, taker: Seat) -> tuple[float, float]:
        """Fixed seconds and seconds per token, for people."""
        self._cover(max(donor, taker))
        return self._fixed.item(donor, taker), self._per_token.item(donor, taker)

    def _cover(self, seat: int) -> None:
        rows = len(self._open)
        if seat < rows:
            return
        more = max(seat + 1, 2 * rows)
        for name, value in (
            ("_open", False),
            ("_fixed", EXPECTED_FIXED_SECONDS),
            ("_per_token", EXPECTED_TOKEN_SECONDS),
        ):
            old = getattr(self, name)
            new = np.full((more, more), value, dtype=old.dtype)
            new[:rows, :rows] = old
            setattr(self, name, new)
