"""What `homing record` wrote, as those read it who replay it: the fleet it was made before, and its block ids.

The first line tells the fleet, each other one a request (router/gateway/sighting.py tells how they are written). Over
the wire a last line tells how it went; files do not have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import msgspec

FIRST_LINE, LAST_LINE = b'{"recording":', b'{"recording_end":'  # how they begin


class RecordedFleet(msgspec.Struct, frozen=True):
    """What a recording says of the fleet it was made before. None: it was not known there."""

    policy: str
    replicas: int
    block_size_tokens: int | None = None
    cache_tokens: int | None = None  # of each replica
    events: bool = True  # whether replicas publish what they cache


class Recording(msgspec.Struct, frozen=True):
    recording: RecordedFleet


class Became(msgspec.Struct, frozen=True):
    """Of a request's line, what became of it. None: its answer did not tell."""

    input_length: int
    cached_length: int | None = None  # tokens
    first_token: float | None = None  # milliseconds from its arrival
    queued: float | None = None  # of these, milliseconds that it waited for others, as far as the gateway knew


@dataclass(frozen=True, slots=True)
class Truth:
    """What really became of recorded requests."""

    requests: tuple[Became, ...]

    @property
    def hit_ratio(self) -> float | None:
        """Cached tokens over prompt tokens, where both were told; None where nowhere."""
        told = [one for one in self.requests if one.cached_length is not None]
        return sum(one.cached_length or 0 for one in told) / sum(one.input_length for one in told) if told else None

    @property
    def ttft_mean_seconds(self) -> float | None:
        first_tokens = [one.first_token / 1e3 for one in self.requests if one.first_token is not None]
        return fmean(first_tokens) if first_tokens else None


class Sums(msgspec.Struct, frozen=True):
    """How a recording went."""

    requests: int
    dropped: int  # for want of room in the queue
    left_out: int  # sent to no replica
    seconds: float


class _End(msgspec.Struct, frozen=True):
    recording_end: Sums


def sums_of(line: bytes) -> Sums:
    """From the last line."""
    return msgspec.json.decode(line, type=_End).recording_end


@dataclass(slots=True)
class Numbers:
    """Small numbers for the ids of a recording, each when it is first met."""

    by_id: dict[tuple[int, int], int] = field(default_factory=dict)  # by block size and id
    next: int = 0

    def runs(self, ids: Sequence[int], block_size: int, tokens: int) -> tuple[int, ...]:
        """A number for each id, and new ones for what the prompt has beyond them."""
        runs = []
        for one in ids:
            number = self.by_id.setdefault((block_size, one), self.next)
            self.next += number == self.next
            runs.append(number)
        beyond = max(0, -(-tokens // block_size) - len(ids))
        runs += range(self.next, self.next + beyond)
        self.next += beyond
        return tuple(runs)
