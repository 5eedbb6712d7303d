"""How well each replica is: a breaker per seat, as a state machine (R 2.4).

Two independent reasons keep a replica from traffic:

1. *Requests failed.* CLOSED opens after `consecutive_failures` in a row, or when at least `failure_share` of the last
   `window` outcomes failed. OPEN lasts for a back-off that doubles with each opening in a row, up to a cap. Then the
   breaker is HALF_OPEN: exactly one request is let through (`admit` takes that place). Its success closes the breaker,
   its failure opens it again, its abandonment gives the place to the next request.
2. *The probe failed*, `failed_probes` times in a row. A hung replica accepts connections and says nothing for as long
   as a legal prefill may take, so only its probe can tell (R 2.2). Nothing is sent until a probe succeeds; that takes
   this reason away, and if the first one stands the breaker is HALF_OPEN at once, without sitting out the back-off.

A probe's success alone never closes a breaker that requests opened: an engine can answer /health and fail every prompt.

Who reports what: `succeeded` at commitment (the first body byte) and for any 4xx but 429, since the replica answered;
`failed` for a refused or reset connection, a 5xx, a timeout, a death after commitment; `abandoned` when the client hung
up or the replica answered 429: neither good nor bad (R 2.1). A result that comes while OPEN is of a request sent
before and is ignored; one that comes while HALF_OPEN counts, whoever's it is: it is news of this moment.

`draining` is the operator's word: no new requests, whatever the breaker says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from router.fleet.columns import grown
from router.fleet.replica import BoolArray, FloatArray, IntArray, Seat

ALWAYS = -math.inf
NEVER = math.inf

PROBED_AGAIN_SECONDS = 2.0


class State(Enum):
    """The breaker's state; the values are the names in metrics."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    consecutive_failures: int = 3
    window: int = 20  # outcomes the share is taken over, and needed before the share counts
    failure_share: float = 0.5
    first_open_seconds: float = 1.0
    longest_open_seconds: float = 60.0
    # A half-open request that has not been reported by then no longer keeps others out: a long prefill is legal.
    trial_seconds: float = 30.0
    failed_probes: int = 2


DEFAULT_LIMITS = BreakerLimits()


@dataclass(slots=True)
class _Breaker:
    present: bool = True
    draining: bool = False
    proven: bool = False  # something good was heard from it since it joined
    probe_down: bool = False
    probe_failures_in_a_row: int = 0
    opened: bool = False  # OPEN or HALF_OPEN
    retry_at_seconds: float = 0.0  # while opened: when the next request may pass
    trial_out: bool = False  # while opened: the half-open request is under way
    openings_in_a_row: int = 0
    failures_in_a_row: int = 0
    successes_in_a_row: int = 0
    # Outcomes since it last closed, newest lowest, 1 = failed, under a leading 1 that tells how many there are.
    outcomes: int = 1

    def half_open(self, now_seconds: float) -> bool:
        return self.opened and (self.trial_out or now_seconds >= self.retry_at_seconds)


class Health:
    """Breakers by seat. Changed by dispatch (results of requests), by the probes, and by joins and leaves."""

    def __init__(self, limits: BreakerLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._breakers: list[_Breaker] = []
        self.calm = True  # every present replica is allowed, now and until something happens
        # The whole answer in one column: a seat is allowed from this moment on. ALWAYS when closed, NEVER when absent.
        self._allowed_from: FloatArray = np.full(0, NEVER)

    def join(self, seat: Seat) -> None:
        """A replica took its seat: a clean breaker, whatever was known of the seat before."""
        while len(self._breakers) <= seat:
            self._breakers.append(_Breaker(present=False))
        self._allowed_from = grown(self._allowed_from, seat + 1, NEVER)
        self._breakers[seat] = _Breaker()
        self._settle(seat)

    def leave(self, seat: Seat) -> None:
        self._breakers[seat].present = False
        self._settle(seat)

    def drain(self, seat: Seat, draining: bool = True) -> None:
        self._breakers[seat].draining = draining
        self._settle(seat)

    def allowed(self, seats: IntArray, now_seconds: float) -> BoolArray:
        """Which of the seats a request may be sent to at this moment. One gather and one comparison."""
        answer: BoolArray = self._allowed_from[seats] <= now_seconds
        return answer

    def admit(self, seat: Seat, now_seconds: float) -> bool:
        """A request is about to be sent there. In HALF_OPEN it takes the one place there is: whether it did."""
        breaker = self._breakers[seat]
        if not breaker.opened or now_seconds < breaker.retry_at_seconds:
            return False
        breaker.trial_out = True
        breaker.retry_at_seconds = now_seconds + self._limits.trial_seconds
        self._settle(seat)
        return True

    def succeeded(self, seat: Seat, now_seconds: float) -> None:
        """The replica answered a request: its first body byte came, or a 4xx other than 429."""
        breaker = self._breakers[seat]
        breaker.proven = True
        if breaker.opened:
            if not breaker.half_open(now_seconds):
                return
            self._close(seat)
        breaker.failures_in_a_row = 0
        breaker.successes_in_a_row += 1
        if breaker.successes_in_a_row >= self._limits.window:
            breaker.openings_in_a_row = 0  # it is well again, not merely between two openings
        self._remember(breaker, failed=False)

    def failed(self, seat: Seat, now_seconds: float) -> None:
        """A request failed by the replica's fault."""
        breaker = self._breakers[seat]
        if breaker.opened:
            if breaker.half_open(now_seconds):
                self._open(seat, now_seconds)
            return
        breaker.successes_in_a_row = 0
        breaker.failures_in_a_row += 1
        self._remember(breaker, failed=True)
        if breaker.failures_in_a_row >= self._limits.consecutive_failures or self._fails_too_often(breaker):
            self._open(seat, now_seconds)

    def abandoned(self, seat: Seat, now_seconds: float, *, trial: bool = True) -> None:
        """A request ended and says nothing about the replica: the client hung up, or it answered 429.

        `trial`: what `admit` said of it. Only the trial itself gives its place to the next request.
        """
        breaker = self._breakers[seat]
        if trial and breaker.opened and breaker.trial_out:
            breaker.trial_out = False
            breaker.retry_at_seconds = now_seconds
            self._settle(seat)

    def probe_succeeded(self, seat: Seat, now_seconds: float) -> None:
        breaker = self._breakers[seat]
        breaker.proven = True
        breaker.probe_failures_in_a_row = 0
        if breaker.probe_down:
            breaker.probe_down = False
            if breaker.opened and not breaker.trial_out:
                breaker.retry_at_seconds = min(breaker.retry_at_seconds, now_seconds)  # back from the dead: try it now
            self._settle(seat)

    def probe_failed(self, seat: Seat) -> None:
        breaker = self._breakers[seat]
        breaker.probe_failures_in_a_row += 1
        if breaker.probe_failures_in_a_row >= self._limits.failed_probes and not breaker.probe_down:
            breaker.probe_down = True
            self._settle(seat)

    def state(self, seat: Seat, now_seconds: float) -> State:
        breaker = self._breakers[seat]
        if breaker.probe_down:
            return State.OPEN
        if not breaker.opened:
            return State.CLOSED
        return State.HALF_OPEN if breaker.half_open(now_seconds) else State.OPEN

    def is_draining(self, seat: Seat) -> bool:
        return self._breakers[seat].draining

    def any_healthy(self, now_seconds: float) -> bool:
        """Whether some present replica, not draining and not OPEN, was heard from since it joined (R 2.5)."""
        return any(
            breaker.present
            and breaker.proven
            and not breaker.draining
            and self.state(Seat(seat), now_seconds) is not State.OPEN
            for seat, breaker in enumerate(self._breakers)
        )

    def retry_after_seconds(self, seats: IntArray, now_seconds: float) -> float:
        """How long until one of the seats may be tried again, from one second to the longest back-off: for a 503."""
        soonest = float(np.min(self._allowed_from[seats], initial=NEVER)) - now_seconds
        if soonest == NEVER:
            return PROBED_AGAIN_SECONDS  # the next probe may find one well
        return min(max(soonest, 1.0), self._limits.longest_open_seconds)

    def _fails_too_often(self, breaker: _Breaker) -> bool:
        limits = self._limits
        count = breaker.outcomes.bit_length() - 1
        failures = breaker.outcomes.bit_count() - 1
        return count >= limits.window and failures >= limits.failure_share * count

    def _remember(self, breaker: _Breaker, *, failed: bool) -> None:
        breaker.outcomes = breaker.outcomes << 1 | failed
        mark = 1 << self._limits.window
        if breaker.outcomes >= mark << 1:
            breaker.outcomes = breaker.outcomes & (mark - 1) | mark

    def _open(self, seat: Seat, now_seconds: float) -> None:
        breaker = self._breakers[seat]
        limits = self._limits
        # The exponent is bounded so that a replica dead for a week does not overflow a float.
        doubled = limits.first_open_seconds * 2.0 ** min(breaker.openings_in_a_row, 32)
        breaker.openings_in_a_row += 1
        breaker.opened, breaker.trial_out = True, False
        breaker.retry_at_seconds = now_seconds + min(doubled, limits.longest_open_seconds)
        breaker.successes_in_a_row = 0
        self._settle(seat)

    def _close(self, seat: Seat) -> None:
        breaker = self._breakers[seat]
        breaker.opened, breaker.trial_out = False, False
        breaker.outcomes = 1
        self._settle(seat)

    def _settle(self, seat: Seat) -> None:
        breaker = self._breakers[seat]
        if not breaker.present or breaker.draining or breaker.probe_down:
            self._allowed_from[seat] = NEVER
        else:
            self._allowed_from[seat] = breaker.retry_at_seconds if breaker.opened else ALWAYS
        self.calm = all(self._allowed_from[at] == ALWAYS for at, one in enumerate(self._breakers) if one.present)
