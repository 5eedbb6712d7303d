"""When traffic may come (R 2.5): at least one healthy replica, and the index caught up, or its time to do so gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.clock import Clock

CATCH_UP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How far one replica's part of the index is, while traffic waits for it."""

    settled: bool  # it told what it is, and its events are heard where it publishes any; or it is not worth waiting for
    coverage_ratio: float  # share of what it lately stored whose place is known; 1 where there is nothing to wait for


class Readiness:
    """`healthy` and `replicas` are asked at each probe; nothing is remembered but the start.

    `coverage_ratio` is what every replica must reach while there is time; `wait_seconds` how long that is.
    """

    def __init__(
        self,
        clock: Clock,
        healthy: Callable[[], bool],
        replicas: Callable[[], Sequence[CaughtUp]],
        *,
        coverage_ratio: float = 0.0,
        wait_seconds: float = CATCH_UP_SECONDS,
    ) -> None:
        self._clock = clock
        self._started = clock.now()
        self._healthy = healthy
        self._replicas = replicas
        self.heed(coverage_ratio, wait_seconds)
        self.draining = False  # set when the process was told to stop: no new traffic, please

    def heed(self, coverage_ratio: float, wait_seconds: float) -> None:
        self._wanted_ratio = coverage_ratio
        self._wait_seconds = wait_seconds

    def coverage_ratio(self) -> float:
        """Of the replica that is furthest behind."""
        return min((replica.coverage_ratio for replica in self._replicas()), default=1.0)

    def waits_still_seconds(self) -> float:
        """How long the index is waited for at most from now on."""
        return max(0.0, self._started + self._wait_seconds - self._clock.now())

    def waiting_for(self) -> list[str]:
        """What is still missing; empty: ready."""
        if self.draining:
            return ["nothing: this process is stopping"]
        missing = []
        if not self._healthy():
            missing.append("a healthy replica")
        if self.waits_still_seconds() > 0.0:
            replicas = self._replicas()
            if not all(replica.settled for replica in replicas):
                missing.append("the index to catch up with the replicas' caches")
            behind = min((replica.coverage_ratio for replica in replicas), default=1.0)
            if behind < self._wanted_ratio:
                missing.append(f"a coverage of {self._wanted_ratio:g}; the replica furthest behind has {behind:.2f}")
        return missing
