"""Asks one replica, again and again: are you well, and what are you?

Health is asked every round, the rest when the replica comes up and every few rounds after: models (adapters come and
go), metrics (block size, cache size, process start), event addresses. What the answers mean is the dialect's business;
what follows from them the listener's.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from typing import Protocol

import httpx

from router.clock import Clock
from router.fleet.replica import Facts, Replica, Seat

LEARN_EVERY_ROUNDS = 5


class Dialect(Protocol):
    """What an engine is asked, and how its answers are read."""

    @property
    def health_path(self) -> str: ...

    @property
    def paths(self) -> tuple[str, ...]:
        """What is asked beside health, each with GET."""

    def learned(self, replica_url: str, answers: Mapping[str, bytes]) -> tuple[Facts, tuple[str, ...]]:
        """Read the answers, by path (one not answered with 200 is missing), into facts and remarks for people."""


class Listener(Protocol):
    def well(self, seat: Seat, round_trip_seconds: float) -> None: ...

    def ill(self, seat: Seat, why: str, *, refused: bool) -> None: ...

    def learned(self, seat: Seat, facts: Facts, remarks: tuple[str, ...]) -> None: ...


class Probe:
    """One replica's questioner. `run` never ends."""

    def __init__(
        self,
        seat: Seat,
        replica: Replica,
        *,
        http: httpx.AsyncClient,
        dialect: Dialect,
        listener: Listener,
        clock: Clock,
        interval_seconds: float,
    ) -> None:
        self._seat = seat
        self._replica = replica
        self._http = http
        self._dialect = dialect
        self._listener = listener
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._rounds_to_learning = 0

    async def run(self) -> None:
        while True:
            try:
                await self.round()
            except Exception as bug:  # one replica's strange answer must not end the asking, or the house
                traceback.print_exc()
                self._ill(f"asking it failed: {bug!r}", refused=False)
            await asyncio.sleep(self._interval_seconds)

    async def round(self) -> None:
        """Ask once, and tell the listener."""
        asked = self._clock.now()
        try:
            answer = await self._http.get(self._replica.url + self._dialect.health_path)
        except httpx.ConnectError as fault:
            self._ill(f"no connection: {fault}", refused=True)
            return
        except httpx.HTTPError as fault:
            self._ill(f"{type(fault).__name__} {fault}".strip(), refused=False)
            return
        if answer.status_code != 200:
            self._ill(f"{self._dialect.health_path} answered {answer.status_code}", refused=False)
            return
        self._listener.well(self._seat, self._clock.now() - asked)
        if self._rounds_to_learning <= 0:
            facts, remarks = await self._learn()
            if facts.models:  # else it answered health alone: ask again next time
                self._rounds_to_learning = LEARN_EVERY_ROUNDS
            self._listener.learned(self._seat, facts, remarks)
        self._rounds_to_learning -= 1

    def _ill(self, why: str, *, refused: bool) -> None:
        self._rounds_to_learning = 0  # whoever comes back may be another process
        self._listener.ill(self._seat, why, refused=refused)

    async def _learn(self) -> tuple[Facts, tuple[str, ...]]:
        paths = self._dialect.paths
        bodies = await asyncio.gather(*(self._get(path) for path in paths))
        answers = {path: body for path, body in zip(paths, bodies, strict=True) if body is not None}
        return self._dialect.learned(self._replica.url, answers)

    async def _get(self, path: str) -> bytes | None:
        try:
            answer = await self._http.get(self._replica.url + path)
        except httpx.HTTPError:
            return None
        return answer.content if answer.status_code == 200 else None
