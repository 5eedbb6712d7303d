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
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import msgspec
import numpy as np

from router.fleet.columns import grown
from router.fleet.replica import FloatArray, IntArray, Seat
from router.index.base import Trust

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


class Unjudged(Enum):
    """Why a finished request judges nothing. The values are the names in metrics."""

    SEVERAL_PROMPTS = "several_prompts"
    SEVERAL_CHOICES = "several_choices"
    NOT_PREDICTED = "not_predicted"  # tokens or block size unknown
    NO_REPORT = "no_report"  # usage absent, or without a number: unknown, never zero
    SIBLING_IN_FLIGHT = "sibling_in_flight"


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """One finished request. The error is reported minus predicted, in blocks away from zero, after the habit."""

    cause: Unjudged | None = None  # why it was not judged
    predicted_tokens: int = 0  # as judged: with the habit in it, 0 where the engine cannot use its cache
    reported_tokens: int = 0
    error_blocks: int = 0
    missed: bool = False  # by more than a block, in a direction that counts: what trust falls on

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
    raw_errors: tuple[float, ...] = ()  # blocks, before the habit; the last HABIT_WINDOW with a prediction above 0
    habit_blocks: int = 0
    truth: Trust = Trust.EXACT  # as the column has it


class Accuracy:
    """Verdicts and what follows from them, by seat. Only the account of a finished request judges.

    Columns are replaced when a seat makes them grow: index them afresh. `unjudged` has one column per cause.
    """

    def __init__(self) -> None:
        self.judged: IntArray = np.zeros(0, dtype=np.int64)
        self.exact: IntArray = np.zeros(0, dtype=np.int64)
        self.error_blocks: IntArray = np.zeros(0, dtype=np.int64)  # signed sum: which way the index errs
        self.unjudged: dict[Unjudged, IntArray] = {cause: np.zeros(0, dtype=np.int64) for cause in Unjudged}
        self._truth: IntArray = np.zeros(0, dtype=np.int64)
        self._belief: FloatArray = np.zeros(0)
        self._records: list[_Record] = []

    def join(self, seat: Seat) -> None:
        """Make room for a seat. What is known of a returning one stays; `restarted` drops it."""
        rows = seat + 1
        self.judged = grown(self.judged, rows)
        self.exact = grown(self.exact, rows)
        self.error_blocks = grown(self.error_blocks, rows)
        for cause, column in self.unjudged.items():
            self.unjudged[cause] = grown(column, rows)
        self._truth = grown(self._truth, rows, Trust.EXACT)
        self._belief = grown(self._belief, rows, PRIOR_BELIEF)
        while len(self._records) < rows:
            self._records.append(_Record())

    def restarted(self, seat: Seat) -> None:
        """The engine is a new process: its habit and its past lies are another's. The totals stay."""
        self._records[seat] = _Record()
        self._truth[seat] = Trust.EXACT
        self._belief[seat] = PRIOR_BELIEF

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
        if stream is Trust.LOAD_ONLY:
            predicted_tokens = None
        cause = _why_unjudged(predicted_tokens, reported_tokens, block_size_tokens, prompts, choices, sibling_in_flight)
        if cause is not None or predicted_tokens is None or reported_tokens is None or block_size_tokens is None:
            cause = cause or Unjudged.NOT_PREDICTED
            self.unjudged[cause][seat] += 1
            return Verdict(cause)
        record = self._records[seat]
        lower_bound = stream is Trust.CATCHING_UP
        if prompt_logprobs:
            predicted_tokens = 0  # the engine computes every prompt token anew
        elif predicted_tokens > 0:
            raw_error_tokens = reported_tokens - predicted_tokens
            predicted_tokens = max(0, predicted_tokens + record.habit_blocks * block_size_tokens)
            if not lower_bound:
                _learn_habit(record, raw_error_tokens, block_size_tokens)
        error_blocks = _blocks(reported_tokens - predicted_tokens, block_size_tokens)
        missed = error_blocks < -1 or (error_blocks > 1 and not lower_bound)
        self.judged[seat] += 1
        self.exact[seat] += error_blocks == 0
        self.error_blocks[seat] += error_blocks
        if predicted_tokens > 0:
            confirmed = min(reported_tokens, predicted_tokens) / predicted_tokens
            self._belief[seat] += NEWEST_SHARE * (confirmed - self._belief[seat])
        self._weigh(seat, record, missed)
        return Verdict(None, predicted_tokens, reported_tokens, error_blocks, missed)

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

    def _weigh(self, seat: Seat, record: _Record, missed: bool) -> None:
        record.misses = (record.misses << 1 | missed) & MISSES_MASK
        record.clean_in_a_row = 0 if missed else record.clean_in_a_row + 1
        truth = record.truth
        if record.clean_in_a_row >= CLEAN_TO_RISE:
            truth = Trust.EXACT
        elif truth is Trust.EXACT and record.misses.bit_count() > MOST_MISSES:
            truth = Trust.GUESSED
        if truth is Trust.GUESSED and self._belief[seat] < LOWEST_BELIEF:
            truth = Trust.LOAD_ONLY
        elif truth is Trust.LOAD_ONLY and self._belief[seat] > REDEEMED_BELIEF:
            truth = Trust.GUESSED
        if truth is not record.truth:
            record.truth = truth
            self._truth[seat] = truth


class InFlight:
    """Which prompts are in flight where, to tell identical siblings. Changed at decide and at close, by the account.

    For seats whose index is a guess: there a sibling's blocks are in the guess already, so `expected` does not show it.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[Seat, int], int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, seat: Seat, prompt_key: int) -> bool:
        """Count the prompt in (`prompt_key`: its last block's hash). Whether an identical one was there already."""
        key = (seat, prompt_key)
        before = self._open.get(key, 0)
        self._open[key] = before + 1
        return before > 0

    def leave(self, seat: Seat, prompt_key: int) -> None:
        """Undo one `enter`."""
        key = (seat, prompt_key)
        left = self._open[key] - 1
        if left:
            self._open[key] = left
        else:
            del self._open[key]


def _why_unjudged(
    predicted_tokens: int | None,
    reported_tokens: int | None,
    block_size_tokens: int | None,
    prompts: int,
    choices: int,
    sibling_in_flight: bool,
) -> Unjudged | None:
    if prompts != 1:
        return Unjudged.SEVERAL_PROMPTS
    if choices != 1:
        return Unjudged.SEVERAL_CHOICES
    if predicted_tokens is None or block_size_tokens is None:
        return Unjudged.NOT_PREDICTED
    if reported_tokens is None:
        return Unjudged.NO_REPORT
    if sibling_in_flight:
        return Unjudged.SIBLING_IN_FLIGHT
    return None


def _blocks(tokens: int, block_size_tokens: int) -> int:
    """Signed tokens as blocks, rounded away from zero: part of a block is an error too."""
    size = -(-abs(tokens) // block_size_tokens)
    return size if tokens >= 0 else -size


def _learn_habit(record: _Record, raw_error_tokens: int, block_size_tokens: int) -> None:
    # A true quotient: only whole blocks can be a habit, five tokens too many are just wrong.
    record.raw_errors = (*record.raw_errors[-(HABIT_WINDOW - 1) :], raw_error_tokens / block_size_tokens)
    if len(record.raw_errors) < FEWEST_FOR_HABIT:
        return
    for habit in (-1, 0, 1):
        if record.raw_errors.count(habit) >= HABIT_SHARE * len(record.raw_errors):
            record.habit_blocks = habit
