"""How long handing KV from one simulated replica to another takes. Pure.

A transfer takes a fixed time and then its bytes at the wires' speed. Each replica has a wire out and one in; a transfer
uses its donor's and its taker's, one after the other with those that came before it there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class WireTiming:
    """Of every wire alike. The defaults: Llama-3-70B in fp8, 100 Gb/s."""

    fixed_seconds: float = 0.004
    bytes_per_second: float = 12.5e9
    token_bytes: int = 163_840

    def faster(self, factor: float) -> WireTiming:
        return replace(
            self,
            fixed_seconds=self.fixed_seconds / factor,
            bytes_per_second=self.bytes_per_second * factor,
        )

    def seconds(self, tokens: int) -> float:
        """Of one transfer that meets no other."""
        return self.fixed_seconds + tokens * self.token_bytes / self.bytes_per_second


class Legs(NamedTuple):
    """A request split over two replicas, by their numbers."""

    donor: int
    taker: int


class Wires:
    """Who uses which wire until when. Changed by `begin` alone."""

    def __init__(self, timing: WireTiming) -> None:
        self.timing = timing
        self.moved_bytes = 0
        self._out_free: dict[int, float] = {}
        self._in_free: dict[int, float] = {}

    def begin(self, donor: int, taker: int, tokens: int, now: float, slow: float = 1.0) -> float:
        """When the transfer that is asked for now will be done."""
        begins = max(now, self._out_free.get(donor, 0.0), self._in_free.get(taker, 0.0))
        ends = begins + slow * self.timing.seconds(tokens)
        self._out_free[donor] = self._in_free[taker] = ends
        self.moved_bytes += tokens * self.timing.token_bytes
        return ends
