"""Are these numbered batches one unbroken story of one process? Decides what to deliver, drop, ask for again or forget.

Knows numbers, times and fingerprints, never contents, and touches no socket: the edge does what a step says.

The publisher numbers its batches from 0 in each process, keeps the last few for replay, and drops silently when a
subscriber is slow. A subscriber joins late and may be cut off. Four things follow (R 4.3, R 4.4):

1. **A number is trusted only within a proven connection.** While we were cut off the process may have been replaced by
   one that has since counted past our number. So a new connection is trusted once a replay has returned the last batch
   we hold with the same fingerprint; after a gap the replay is asked from there as well. Another fingerprint, or no
   batch at all from that number on, is a restart. A replay that begins later proves nothing: lost history, as a gap.
2. **Restart** is that, or a lower number (but for an exact copy of a batch we hold: overlap of replay and stream), a
   batch time older than the last, a changed process start time, or a refused connection. All is forgotten, and the
   story asked for from 0.
3. **A gap** is asked for again. If the buffer has rolled past it, removals are lost that nobody can name: forget
   first, then apply what came. The story goes on, its beginning missing.
4. **A replay may have holes** (a ROUTER drops at its high-water mark): ask again from where it broke, as long as each
   answer brings us further.

`Begin` says: forget this replica's blocks; what follows starts from its empty cache (`whole`), or somewhere later. A
loss is told once: the story that is found after a restart begins for no other reason than that we join it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from router.fleet.roster import SAME_START_SECONDS

# Fingerprints kept to tell a copy of a known batch from another process's batch under the same number. More than a
# stream can overlap with its replay: what the edge lets wait while replaying.
REMEMBERED_BATCHES = 4096
# Recomputed from /proc at each scrape, so it wobbles with the clock's adjustment; two processes never start so close.
START_TIME_TOLERANCE_SECONDS = SAME_START_SECONDS


@dataclass(frozen=True, slots=True)
class Mark:
    """Where one router stands in a story, for another to go on from: the last batches it applied, without a hole."""

    first: int  # number of the first of these
    fingerprints: tuple[int, ...]  # at least one
    time_seconds: float  # of the last
    process_start_seconds: float | None


class Cause(Enum):
    """Why a replica's blocks are forgotten. The values are metric labels."""

    JOIN = "join"
    RESTART = "restart"
    GAP = "gap"
    UNPROVEN = "unproven"  # reconnected, and no replay to prove that it is still the same process


@dataclass(frozen=True, slots=True)
class Begin:
    cause: Cause
    whole: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """Apply the batch; before it, when `begin` is set, forget."""

    begin: Begin | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """The batch is known already."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Leave the batch, forget when `begin` is set, then ask for all batches from `first` on, and offer it again."""

    first: int
    begin: Begin | None = None


Step: TypeAlias = Deliver | Drop | Replay

_DELIVER = Deliver()
_DROP = Drop()


class Sequencer:
    """One replica's stream. Changed only by the task that reads it.

    Protocol: `connected` for each connection; each live batch to `accept`. Whenever a `Replay` is returned, by any
    method: ask for it, give each answer to `replayed`, and close with `replay_ended` unless `replayed` itself asked for
    another. After that offer the live batch again: the second answer is never a `Replay`.
    """

    def __init__(self) -> None:
        self._expected: int | None = None  # None: no place in any story yet
        self._last_time_seconds = float("-inf")
        self._held: dict[int, int] = {}
        self._proven = False
        self._tried: tuple[int, int] | None = None  # the live batch for which a replay was asked
        self._answers = 0  # batches in the replay under way
        self._floor = 0  # where that replay found us
        self._cause = Cause.JOIN
        self._process_start_seconds: float | None = None
        self._restarted_since_probe = False
        self._borrowed = False  # the place in the story is another router's, and not proven yet

    @property
    def expected(self) -> int | None:
        """The next number of the story; None when there is no story yet."""
        return self._expected

    @property
    def proven(self) -> bool:
        """Whether the connection there is now has been shown to go on with the story."""
        return self._proven and self._expected is not None

    def mark(self) -> Mark | None:
        """Where the story stands; None: nowhere yet, or not proven."""
        if not (self._proven and self._held):
            return None
        return Mark(min(self._held), tuple(self._held.values()), self._last_time_seconds, self._process_start_seconds)

    def meets(self, mark: Mark) -> bool:
        """Whether the mark's batches reach back to where we stand: what still waits to be read is known by them."""
        return self._expected is not None and mark.first <= self._expected

    def contradicts(self, mark: Mark) -> bool:
        """Whether the mark is of another process than the one we hear, by its start time or by a batch of both."""
        ours, theirs = self._process_start_seconds, mark.process_start_seconds
        if ours is not None and theirs is not None and abs(ours - theirs) > START_TIME_TOLERANCE_SECONDS:
            return True
        told = enumerate(mark.fingerprints, mark.first)
        return any(self._held.get(number, fingerprint) != fingerprint for number, fingerprint in told)

    def resume(self, mark: Mark) -> Replay:
        """Stand where another router stood; the mark must meet our story. As after a reconnection, a replay has to
        prove it; what it disproves was never ours, so that is no restart and no gap."""
        numbered = dict(enumerate(mark.fingerprints, mark.first))
        last = mark.first + len(mark.fingerprints) - 1
        # What we heard ourselves may come once more from the queue; what goes beyond the mark is to be applied again.
        own = {number: held for number, held in self._held.items() if last - REMEMBERED_BATCHES < number < mark.first}
        self._forget()
        self._held = {**own, **numbered}
        self._expected = last + 1
        self._last_time_seconds = mark.time_seconds
        self._borrowed = True
        return self._ask()

    def connected(self) -> Replay:
        """A connection has come up, the first or a later one."""
        self._proven = False
        return self._ask()

    def doubtful(self) -> Replay:
        """Long silence: perhaps nothing happens there, perhaps the last batches were lost. Ask."""
        return self._ask()

    def refused(self) -> Begin | None:
        """Nobody listened where the publisher was: the process has ended."""
        return None if self._expected is None else self._restart().begin

    def process_started(self, at_seconds: float) -> Replay | None:
        """The start time (Unix seconds) the replica tells of itself."""
        known, self._process_start_seconds = self._process_start_seconds, at_seconds
        if known is None or abs(known - at_seconds) <= START_TIME_TOLERANCE_SECONDS:
            self._restarted_since_probe = False
            return None
        return self.replaced()

    def replaced(self) -> Replay | None:
        """The replica is another process by what it says of itself; None: the stream has noticed already."""
        noticed, self._restarted_since_probe = self._restarted_since_probe, False
        if noticed:
            return None
        step = self._restart()
        self._restarted_since_probe = False
        return step

    def accept(self, sequence: int, time_seconds: float, fingerprint: int) -> Step:
        """A live batch. `fingerprint` is a hash of its bytes."""
        offered = sequence, fingerprint
        tried, self._tried = self._tried == offered, None
        expected = self._expected
        step: Step
        if sequence == expected and time_seconds >= self._last_time_seconds:
            self._take(sequence, time_seconds, fingerprint)
            return _DELIVER
        if expected is None:
            step = self._place(sequence, time_seconds, fingerprint) if tried else self._ask()
        elif sequence < expected:
            # Known, or from before what the process has just told us itself: late, or its predecessor's.
            step = _DROP if tried or self._held.get(sequence) == fingerprint else self._restart()
        elif time_seconds < self._last_time_seconds and not tried:
            step = self._restart()
        elif tried:
            self._cause = Cause.GAP
            step = self._place(sequence, time_seconds, fingerprint)
        else:
            step = self._ask()
        if isinstance(step, Replay):
            self._tried = offered
        return step

    def replayed(self, sequence: int, time_seconds: float, fingerprint: int) -> Step:
        """One batch of the replay under way. A `Replay` returned here ends that one: close it and ask for the other."""
        expected = self._expected
        first_answer = self._answers == 0
        self._answers += 1
        if expected is None:
            return self._place(sequence, time_seconds, fingerprint)
        if sequence < expected:
            held = self._held.get(sequence)
            if held is not None and held != fingerprint:
                return self._restart()
            if held is not None:
                self._proven, self._borrowed = True, False
            return _DROP
        if sequence == expected and (self._proven or expected == 0):
            self._proven = True
            self._take(sequence, time_seconds, fingerprint)
            return _DELIVER
        if not first_answer and self._proven and expected > self._floor:
            return self._ask()  # a hole in the answer, and it brought us further
        self._cause = Cause.JOIN if self._borrowed else Cause.GAP
        return self._place(sequence, time_seconds, fingerprint)

    def replay_ended(self, *, answered: bool) -> Begin | Replay | None:
        """The end marker came (`answered`), or nobody answered for too long, or there is nobody to ask."""
        expected = self._expected
        if not answered:
            if expected is None or self._proven:
                return None
            cause = Cause.JOIN if self._borrowed else Cause.UNPROVEN
            self._forget()
            return Begin(cause, whole=False)
        if self._answers:
            return None
        if expected is None:  # nothing published yet: the story is whole, and empty
            self._expected = 0
            self._proven = True
            return Begin(self._cause, whole=True)
        if expected == 0:
            self._proven = True
            return None
        return self._restart()  # whoever answers has not counted as far as we have heard

    def _ask(self) -> Replay:
        self._answers = 0
        self._floor = self._expected or 0
        return Replay(max(self._floor - 1, 0))

    def _take(self, sequence: int, time_seconds: float, fingerprint: int) -> None:
        self._expected = sequence + 1
        self._last_time_seconds = time_seconds
        self._held[sequence] = fingerprint
        self._held.pop(sequence - REMEMBERED_BATCHES, None)

    def _place(self, sequence: int, time_seconds: float, fingerprint: int) -> Deliver:
        """Begin a story with this batch."""
        begin = Begin(self._cause, whole=sequence == 0)
        self._forget()
        self._proven = True
        self._take(sequence, time_seconds, fingerprint)
        return Deliver(begin)

    def _forget(self) -> None:
        self._expected = None
        self._last_time_seconds = float("-inf")
        self._held.clear()
        self._proven = False
        self._borrowed = False
        self._cause = Cause.JOIN

    def _restart(self) -> Replay:
        borrowed = self._borrowed
        self._forget()
        self._restarted_since_probe = not borrowed
        self._answers = 0
        self._floor = 0
        return Replay(0, Begin(Cause.JOIN if borrowed else Cause.RESTART, whole=False))
