"""When traffic may come (R 2.5): at least one healthy replica, and the index caught up or ten seconds gone."""

from __future__ import annotations

from collections.abc import Callable

from router.clock import Clock

CATCH_UP_SECONDS = 10.0


class Readiness:
    """`healthy` and `caught_up` are asked at each probe; nothing is remembered but the start."""

    def __init__(self, clock: Clock, healthy: Callable[[], bool], caught_up: Callable[[], bool]) -> None:
        self._clock = clock
        self._started = clock.now()
        self._healthy = healthy
        self._caught_up = caught_up
        self.draining = False  # set when the process was told to stop: no new traffic, please

    def waiting_for(self) -> list[str]:
        """What is still missing; empty: ready."""
        if self.draining:
            return ["nothing: this process is stopping"]
        missing = []
        if not self._healthy():
            missing.append("a healthy replica")
        if self._clock.now() - self._started < CATCH_UP_SECONDS and not self._caught_up():
            missing.append("the index to catch up with the replicas' caches")
        return missing
