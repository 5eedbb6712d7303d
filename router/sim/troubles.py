"""What befalls a virtual fleet from outside: how its news travels, and what breaks when."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class News:
    """How events travel."""

    delay_seconds: float = 0.002
    jitter_seconds: float = 0.0  # a batch may overtake another by so much
    lost_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that happens to a replica. `slow` multiplies its step times; `down_seconds` ends its process."""

    at_seconds: float
    replica: int
    slow: float | None = None
    down_seconds: float | None = None
