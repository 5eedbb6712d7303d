"""Predicted against reported: which finished requests judge our predictions, and what that says about each replica.

*Judged* (R 5.1) is a request whose report can only differ from the prediction if the index was wrong: one prompt, one
choice, its tokens known, a cached-token count in the usage, and no request with the same prefix in flight there (a
sibling hits blocks that were not announced when we predicted). Everything else is counted by cause, never as a miss.

*Habit.* Some engines report constantly one block more or less than the hit rule says (speculative decoding drops the
last matched block, alignment adds one). Once nearly all of a replica's last hits share one such error it is the
engine's habit: from then on it is part of the prediction. It is unlearned the same way.

*Truth trust* (R 5.2) is what the responses say of a replica's index; the stream's own trust is the ingest's. The lesser
of both counts. EXACT falls to GUESSED as soon as more than 5 % of the last 50 judged miss by more than a block, and
comes back after 100 judged in a row without a miss. GUESSED falls to LOAD_ONLY while the replica's `belief`, the share
of predicted tokens it lately confirmed, is so low that a match misleads more than it helps: where the tokens drifted
nothing is ever confirmed, while a guess without events is mostly right. Requests are judged whatever the truth trust,
or a replica could never redeem itself.

While the stream is CATCHING_UP a prediction is a lower bound: to report more is no miss.

Why a miss came about is found by whoever can look at the rest of the house (`causes` has the theory), and kept here
beside the figures. Where answers never tell cached tokens, the engine's counters stand in for them: a stretch of
requests then counts like one judged request (`counters`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
import numpy as np

from router.fleet.columns import grown
from router.fleet.replica import FloatArray, IntArray, Seat
from router.index.base import CATCHING_UP, EXACT, GUESSED, LOAD_ONLY, Trust
from router.index.causes import Cause
from router.index.suspicion import Miss, Suspicion, suspected

TRUST_WINDOW = 50  # judged requests
MISSES_MASK = (1 << TRUST_WINDOW) - 1
MOST_MISSES = 2  # in that window: 5 % of 50, rounded down
CLEAN_TO_RISE = 100  # judged requests in a row without a miss

HABIT_WINDOW = 50  # judged requests with a prediction above 0: only those can show it
FEWEST_FOR_HABIT = 20
HABIT_SHARE = 0.95

# Belief before any report; then the newest report counts for a twentieth, so some 20 lies in a row reach the bottom.
PRIOR_BELIEF = 0.7
NEWEST_SHARE = 0.05
LOWEST_BELIEF = 0.25  # below it a GUESSED seat becomes LOAD_ONLY
REDEEMED_BELIEF = 0.5  # above it again GUESSED

# Upper ends of the buckets of signed errors, in blocks; a last bucket has what is above.
ERROR_BOUNDS = (-65, -17, -5, -2, -1, 0, 1, 4, 16, 64)
EXACT_BUCKET = ERROR_BOUNDS.index(0)
FEWEST_FOR_USUAL = 5  # hits that show the same error before it can be called usual


class Unjudged(StrEnum):
    """Why a finished request judges nothing. The values are the names in metrics."""

    SEVERAL_PROMPTS = "several_prompts"
    SEVERAL_CHOICES = "several_choices"
    NOT_PREDICTED = "not_predicted"  # tokens or block size unknown
    NO_REPORT = "no_report"  # usage absent, or without a number: unknown, never zero
    SIBLING_IN_FLIGHT = "sibling_in_flight"


SEVERAL_PROMPTS, SEVERAL_CHOICES, NOT_PREDICTED, NO_REPORT, SIBLING_IN_FLIGHT = Unjudged


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """One finished request. The error is reported minus predicted, in blocks away from zero, after the habit."""

    cause: Unjudged | None = None  # why it was not judged
    predicted_tokens: int = 0  # as judged: with the habit in it, 0 where the engine cannot use its cache
    reported_tokens: int = 0
    error_blocks: int = 0
    missed: bool = False  # by more than a block, in a direction that counts: what trust falls on
    miss: Miss | None = None  # whose cause may still change for a moment; None: exact, or not judged

    @property
    def judged(self) -> bool:
        return self.cause is None

    @property
    def exact(self) -> bool:
        return self.cause is None and self.error_blocks == 0


@dataclass(slots=True)
class _Record:
    """What one replica's reports have shown."""

    misses: int = 0  # the last TRUST_WINDOW judged as bits, 1 = missed
    clean_in_a_row: int = 0
    # Blocks, before the habit; of those with a prediction above 0.
    raw_errors: deque[float] = field(default_factory=lambda: deque(maxlen=HABIT_WINDOW))
    habit_blocks: int = 0
    truth: Trust = EXACT  # as the column has it
    weighed: int = 0  # judged requests, and stretches of counted ones
    recent: deque[Miss] = field(default_factory=lambda: deque(maxlen=TRUST_WINDOW))
    suspicion: Suspicion | None = None


class Accuracy:
    """Verdicts and what follows from them, by seat. Only the account of a finished request judges.

    Counts are lists, since one is added to at a time; they are told as columns. Those of trust and belief are columns,
    replaced when a seat makes them grow.
    """

    def __init__(self) -> None:
        self._judged: list[int] = []
        self._exact: list[int] = []
        self._error_blocks: list[int] = []
        self._unjudged: dict[Unjudged, list[int]] = {cause: [] for cause in Unjudged}
        self._truth: IntArray = np.zeros(0, dtype=np.int64)
        self._belief: FloatArray = np.zeros(0)
        self._records: list[_Record] = []
        self._errors: list[list[int]] = []  # by seat and bucket; the exact ones are counted in their column alone
        self._causes: list[Counter[Cause]] = []

    def join(self, seat: Seat) -> None:
        """Make room for a seat. What is known of a returning one stays; `restarted` drops it."""
        rows = seat + 1
        self._truth = grown(self._truth, rows, EXACT)
        self._belief = grown(self._belief, rows, PRIOR_BELIEF)
        while len(self._records) < rows:
            self._records.append(_Record())
            for counts in (self._judged, self._exact, self._error_blocks, *self._unjudged.values()):
                counts.append(0)
            self._errors.append([0] * (len(ERROR_BOUNDS) + 1))
            self._causes.append(Counter())

    def restarted(self, seat: Seat) -> None:
        """The engine is a new process: its habit and its past lies are another's. The totals stay."""
        self._records[seat] = _Record()
        self._truth[seat] = EXACT
        self._belief[seat] = PRIOR_BELIEF

    def forget(self, seat: Seat) -> None:
        """Another replica may take the seat: the totals go too."""
        self.restarted(seat)
        for counts in (self._judged, self._exact, self._error_blocks, *self._unjudged.values()):
            counts[seat] = 0
        self._errors[seat] = [0] * (len(ERROR_BOUNDS) + 1)
        self._causes[seat] = Counter()

    def judge(
        self,
        seat: Seat,
        *,
        predicted_tokens: int | None,
        reported_tokens: int | None,
        block_size_tokens: int | None,
        stream: Trust,
        prompts: int = 1,
        choices: int = 1,
        prompt_logprobs: bool = False,
        sibling_in_flight: bool = False,
    ) -> Verdict:
        """Hold one finished request's report against its prediction, and learn from it.

        `predicted_tokens`: what the events said was held at decide, by the hit rule (not `Match.expected`); None when
        not predicted. `reported_tokens`: None when the usage had no number. `stream`: the stream's own trust at decide,
        not the effective one; LOAD_ONLY predicts nothing. `sibling_in_flight`: `Match.expected` exceeded `held` at
        decide, or `InFlight.enter` said so.
        """
        if stream is LOAD_ONLY:
            predicted_tokens = None
        cause = _why_unjudged(predicted_tokens, reported_tokens, block_size_tokens, prompts, choices, sibling_in_flight)
        if cause is not None or predicted_tokens is None or reported_tokens is None or block_size_tokens is None:
            cause = cause or NOT_PREDICTED
            self._unjudged[cause][seat] += 1
            return Verdict(cause)
        record = self._records[seat]
        lower_bound = stream is CATCHING_UP
        if prompt_logprobs:
            predicted_tokens = 0  # the engine computes every prompt token anew
        elif predicted_tokens > 0:
            raw_error_tokens = reported_tokens - predicted_tokens
            predicted_tokens = max(0, predicted_tokens + record.habit_blocks * block_size_tokens)
            if not lower_bound:
                _learn_habit(record, raw_error_tokens, block_size_tokens)
        error_blocks = _blocks(reported_tokens - predicted_tokens, block_size_tokens)
        missed = error_blocks < -1 or (error_blocks > 1 and not lower_bound)
        self._judged[seat] += 1
        self._confirm(seat, predicted_tokens, reported_tokens)
        self._weigh(seat, record, missed)
        if not error_blocks:
            self._exact[seat] += 1
            return Verdict(None, predicted_tokens, reported_tokens)
        self._error_blocks[seat] += error_blocks
        self._errors[seat][bisect_left(ERROR_BOUNDS, error_blocks)] += 1
        predicted_blocks = predicted_tokens // block_size_tokens
        told = stream is not GUESSED
        miss = Miss(record.weighed, predicted_blocks, predicted_blocks + error_blocks, missed, told)
        record.recent.append(miss)
        return Verdict(None, predicted_tokens, reported_tokens, error_blocks, missed, miss)

    def counted(
        self,
        seat: Seat,
        *,
        predicted_tokens: int,
        hit_tokens: int,
        tolerance_tokens: int,
        lower_bound: bool,
        block_size_tokens: int,
    ) -> None:
        """Hold what an engine counted over a stretch of requests against the sum of their predictions (R 5.1)."""
        record = self._records[seat]
        error_tokens = hit_tokens - predicted_tokens
        missed = error_tokens < -tolerance_tokens or (error_tokens > tolerance_tokens and not lower_bound)
        self._confirm(seat, predicted_tokens, hit_tokens)
        self._weigh(seat, record, missed)
        if missed:
            predicted_blocks, hit_blocks = predicted_tokens // block_size_tokens, hit_tokens // block_size_tokens
            miss = Miss(record.weighed, predicted_blocks, hit_blocks, missed=True, told=True, cause=Cause.UNREPORTED)
            record.recent.append(miss)
            self._causes[seat][Cause.UNREPORTED] += 1
            self.suspect(seat)

    def suspect(self, seat: Seat) -> None:
        """Causes of the seat's misses are known, or known better: form the suspicion anew."""
        record = self._records[seat]
        first = record.weighed - TRUST_WINDOW
        window = [miss for miss in record.recent if miss.missed and miss.told and miss.number > first]
        if len(window) > MOST_MISSES:
            record.suspicion = suspected(window, min(record.weighed, TRUST_WINDOW))

    def settle(self, seat: Seat, miss: Miss) -> None:
        """The miss's cause is what it is: count it."""
        self._causes[seat][miss.cause] += 1
        self.suspect(seat)

    # What is known

    @property
    def judged(self) -> IntArray:
        return np.array(self._judged, dtype=np.int64)

    @property
    def exact(self) -> IntArray:
        return np.array(self._exact, dtype=np.int64)

    @property
    def error_blocks(self) -> IntArray:
        """Signed sums: which way the index errs."""
        return np.array(self._error_blocks, dtype=np.int64)

    @property
    def unjudged(self) -> Mapping[Unjudged, IntArray]:
        """One column for each cause."""
        return {cause: np.array(counts, dtype=np.int64) for cause, counts in self._unjudged.items()}

    def trust(self, seats: IntArray) -> IntArray:
        """Truth trust of the seats, as Trust values. The effective trust is its minimum with the stream's."""
        answer: IntArray = self._truth[seats]
        return answer

    def belief(self, seats: IntArray) -> FloatArray:
        """Share of predicted tokens each seat lately confirmed, 0 to 1."""
        answer: FloatArray = self._belief[seats]
        return answer

    def truth(self, seat: Seat) -> Trust:
        """Truth trust of one seat."""
        return self._records[seat].truth

    def confirmed(self, seat: Seat) -> float:
        """`belief` of one seat."""
        return self._belief.item(seat)

    def habit_blocks(self, seat: Seat) -> int:
        """The constant error learned for the replica: -1, 0 or 1."""
        return self._records[seat].habit_blocks

    def weighed(self, seat: Seat) -> int:
        """How many of its requests were ever held against their predictions since its process began."""
        return self._records[seat].weighed

    def usual(self, seat: Seat, error_blocks: int) -> bool:
        """Whether most of the replica's last hits have just this error: a habit in the making."""
        record = self._records[seat]
        alike = record.raw_errors.count(error_blocks + record.habit_blocks)
        return alike >= FEWEST_FOR_USUAL and 2 * alike > len(record.raw_errors)

    def lately(self, seat: Seat, cause: Cause) -> bool:
        """Whether one of the replica's recent misses has this cause."""
        record = self._records[seat]
        first = record.weighed - TRUST_WINDOW
        return any(miss.cause is cause for miss in record.recent if miss.number > first)

    def suspicion(self, seat: Seat) -> Suspicion | None:
        """Why truth trust is lowered; None while it is not."""
        return self._records[seat].suspicion

    def causes(self, seat: Seat) -> Mapping[Cause, int]:
        """Misses by cause, ever."""
        return self._causes[seat]

    def errors(self, seat: Seat) -> tuple[int, ...]:
        """Judged requests by signed error: one count for each of `ERROR_BOUNDS`, and one for what is above."""
        counts = self._errors[seat].copy()
        counts[EXACT_BUCKET] = self._exact[seat]
        return tuple(counts)

    # Parts

    def _confirm(self, seat: Seat, predicted_tokens: int, reported_tokens: int) -> None:
        if predicted_tokens > 0:
            confirmed = min(reported_tokens, predicted_tokens) / predicted_tokens
            belief = self._belief.item(seat)  # a plain float: numpy's are slow to reckon with
            self._belief[seat] = belief + NEWEST_SHARE * (confirmed - belief)

    def _weigh(self, seat: Seat, record: _Record, missed: bool) -> None:
        record.weighed += 1
        record.misses = (record.misses << 1 | missed) & MISSES_MASK
        record.clean_in_a_row = 0 if missed else record.clean_in_a_row + 1
        truth = record.truth
        if record.clean_in_a_row >= CLEAN_TO_RISE:
            truth = EXACT
            record.suspicion = None
        elif truth is EXACT and record.misses.bit_count() > MOST_MISSES:
            truth = GUESSED
        if truth is GUESSED and self._belief[seat] < LOWEST_BELIEF:
            truth = LOAD_ONLY
        elif truth is LOAD_ONLY and self._belief[seat] > REDEEMED_BELIEF:
            truth = GUESSED
        if truth is not record.truth:
            record.truth = truth
            self._truth[seat] = truth


def _why_unjudged(
    predicted_tokens: int | None,
    reported_tokens: int | None,
    block_size_tokens: int | None,
    prompts: int,
    choices: int,
    sibling_in_flight: bool,
) -> Unjudged | None:
    if prompts != 1:
        return SEVERAL_PROMPTS
    if choices != 1:
        return SEVERAL_CHOICES
    if predicted_tokens is None or block_size_tokens is None:
        return NOT_PREDICTED
    if reported_tokens is None:
        return NO_REPORT
    if sibling_in_flight:
        return SIBLING_IN_FLIGHT
    return None


def _blocks(tokens: int, block_size_tokens: int) -> int:
    """Signed tokens as blocks, rounded away from zero: part of a block is an error too."""
    size = -(-abs(tokens) // block_size_tokens)
    return size if tokens >= 0 else -size


def _learn_habit(record: _Record, raw_error_tokens: int, block_size_tokens: int) -> None:
    # A true quotient: only whole blocks can be a habit, five tokens too many are just wrong.
    newest = raw_error_tokens / block_size_tokens
    errors = record.raw_errors
    errors.append(newest)
    # Only an error that has just been seen once more can have become the habit.
    if newest == record.habit_blocks or newest not in (-1, 0, 1) or len(errors) < FEWEST_FOR_HABIT:
        return
    if errors.count(newest) >= HABIT_SHARE * len(errors):
        record.habit_blocks = int(newest)
