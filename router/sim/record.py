"""What became of one turn of a workload: what the driver notes and the report reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one turn. Seconds from its sending; None: it did not come, or the engine did not say."""

    conversation: str
    turn: int
    at_seconds: float  # planned, from the start of the run
    late_seconds: float  # sent this much after the plan: the driver's own fault
    status: int | None
    error: str | None  # why the turn failed; None: it went well
    first_token_seconds: float | None
    total_seconds: float
    inter_token_seconds: float | None  # mean gap between events that carry output
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    replica: str | None  # as the router explained
