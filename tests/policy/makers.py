"""Small makers: each defaults all but what a test is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from router.fleet.replica import ReplicaId, Seat
from router.index.base import Trust
from router.policy.candidate import Candidate, Candidates
from router.policy.load import load
from router.policy.pickers import Turn
from router.policy.pipeline import Choice, Policy


def candidate(
    seat: int,
    name: str | None = None,
    *,
    matched_tokens: int = 0,
    expected_tokens: int | None = None,
    queued_tokens: float = 0.0,
    open_requests: int = 0,
    slower_tokens: int = 0,
    used_tokens: float = 0.0,
    shared_tokens: float = 0.0,
    cache_tokens: float = math.inf,
    tokens_per_second: float = 8_000.0,
    trust: Trust = Trust.EXACT,
    allowed: bool = True,
) -> Candidate:
    return Candidate(
        replica=ReplicaId(name or f"r{seat}"),
        seat=Seat(seat),
        held_tokens=matched_tokens,
        expected_tokens=matched_tokens if expected_tokens is None else expected_tokens,
        queued_tokens=queued_tokens,
        open_requests=open_requests,
        slower_tokens=slower_tokens,
        used_tokens=used_tokens,
        shared_tokens=shared_tokens,
        cache_tokens=cache_tokens,
        tokens_per_second=tokens_per_second,
        trust=trust,
        allowed=allowed,
    )


def columns(
    *rows: Candidate,
    prompt_tokens: int = 4096,
    prefix_key: int = 0,
    session: int | None = None,
    other_tokens: int = 0,
    waited_seconds: float = 0.0,
) -> Candidates:
    return Candidates.of(
        rows,
        prompt_tokens=prompt_tokens,
        other_tokens=other_tokens,
        prefix_key=prefix_key,
        session_seat=None if session is None else Seat(session),
        waited_seconds=waited_seconds,
    )


def turn(seed: int = 1, last_seat: int = -1) -> Turn:
    return Turn(Random(seed), Seat(last_seat))


def choice(policy: Policy | str, candidates: Candidates, at: Turn | None = None) -> Choice:
    if isinstance(policy, str):
        policy = load(policy)
    return policy.choose(candidates, candidates.allowed.nonzero()[0], at or turn())


def chosen(policy: Policy | str, *rows: Candidate, at: Turn | None = None, **asked: int) -> str:
    """The id of the replica that a policy chooses for a prompt of 4096 tokens."""
    candidates = columns(*rows, **asked)
    return candidates.ids[choice(policy, candidates, at).row]


def fleet(count: int) -> Sequence[Candidate]:
    return [candidate(seat) for seat in range(count)]
