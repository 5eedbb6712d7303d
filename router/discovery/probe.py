"""Asks one server, again and again: are you well, how busy, and what are you?

Health and load are asked every round, the rest when the server comes up and every few rounds after: models (adapters
come and go), metrics (block size, cache size, process start), event addresses. What the answers mean is the dialect's
business; what follows from them the listener's. A server is asked once, however many data-parallel ranks it has.

**Which dialect** is configured, or recognised from the answers. Until one is, only what every engine answers without
work is asked, since what is a health check to one engine makes another generate a token. Whoever answers but is
recognised by none is read as the first dialect, as far as that goes, and its health path is left alone: it is well
while it answers at all. After it was gone, and when its answers look like another's, it is recognised anew: the address
may have passed to another engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx

from router.clock import Clock
from router.engines.base import Dialect, EngineLoad
from router.events.kinds import WireFault
from router.fleet.replica import Facts, Replica, ReplicaId

LEARN_EVERY_ROUNDS = 5
MOST_RANKS = 256  # of one server; more is no number of engines but a strange answer


@dataclass(frozen=True, slots=True)
class Told:
    """What a server's answers came to: for each of its ranks, in order, the facts, and remarks for people."""

    dialect: Dialect
    ranks: tuple[tuple[Facts, tuple[str, ...]], ...]


class Listener(Protocol):
    """Who is told of a server, by the name it was configured or discovered under."""

    def well(self, server: ReplicaId, round_trip_seconds: float) -> None: ...

    def ill(self, server: ReplicaId, why: str, *, refused: bool) -> None: ...

    def learned(self, server: ReplicaId, told: Told) -> None: ...

    def loaded(self, server: ReplicaId, loads: Mapping[int, EngineLoad]) -> bool:
        """The server's own figures of its load, by rank, just asked for; empty where it did not tell.

        Whether it should be asked at once what it is: its figures look like another process's.
        """


class Probe:
    """One server's questioner. `run` never ends."""

    def __init__(
        self,
        server: Replica,
        *,
        http: httpx.AsyncClient,
        dialects: Sequence[Dialect],
        listener: Listener,
        clock: Clock,
        interval_seconds: float,
    ) -> None:
        """`dialects`: those it may speak; one alone is not questioned."""
        self._server = server
        self._http = http
        self._dialects = tuple(dialects)
        self._dialect = self._dialects[0] if len(self._dialects) == 1 else None
        self._listener = listener
        self._clock = clock
        self.interval_seconds = interval_seconds  # a reload may set it
        self._rounds_to_learning = 0

    async def run(self) -> None:
        while True:
            try:
                await self.round()
            except Exception as bug:  # one server's strange answer must not end the asking, or the house
                traceback.print_exc()
                self._ill(f"asking it failed: {bug!r}")
            await asyncio.sleep(self.interval_seconds)

    async def round(self) -> None:
        """Ask once, and tell the listener."""
        answers: dict[str, bytes] = {}
        if self._dialect is None:
            known = await self._introduced(answers)
            if known is None:
                return
            self._dialect = known
        dialect = self._dialect
        asked = self._clock.now()
        answer = await self._knock(dialect.health_path)
        if answer is None:
            return
        if answer.status_code != 200:
            self._forget()
            self._ill(f"{dialect.health_path} answered {answer.status_code}")
            return
        self._listener.well(self._server.id, self._clock.now() - asked)
        if self._rounds_to_learning <= 0:
            dialect = await self._learn(dialect, answers)
        self._rounds_to_learning -= 1
        await self._ask((dialect.load_path,), answers)
        loads: Mapping[int, EngineLoad] = {}
        with contextlib.suppress(WireFault):
            loads = dialect.loads(answers)
        if self._listener.loaded(self._server.id, loads):
            await self._learn(dialect, answers)

    async def _learn(self, dialect: Dialect, answers: dict[str, bytes]) -> Dialect:
        """Ask what the server is, as far as `answers` do not tell, and tell the listener. The dialect it speaks now."""
        await self._ask(dialect.paths, answers)
        if len(self._dialects) > 1 and not dialect.recognises(answers):
            await self._ask(self._all_paths(), answers)
            dialect = self._dialect = next((one for one in self._dialects if one.recognises(answers)), dialect)
        self._tell(dialect, answers)
        return dialect

    async def _introduced(self, answers: dict[str, bytes]) -> Dialect | None:
        """Whoever is recognised; None: nobody, and the listener was told what there is to tell."""
        paths = self._all_paths()
        asked = self._clock.now()
        if await self._knock(paths[0]) is None:
            return None
        round_trip_seconds = self._clock.now() - asked
        await self._ask(paths, answers)
        found = next((dialect for dialect in self._dialects if dialect.recognises(answers)), None)
        if found is not None:
            return found
        names = " or ".join(dict.fromkeys(dialect.name for dialect in self._dialects))
        if not answers:
            self._ill(f"{', '.join(paths)} are not answered with 200; is it {names}?")
            return None
        self._listener.well(self._server.id, round_trip_seconds)
        if self._rounds_to_learning <= 0:
            self._tell(self._dialects[0], answers, f"not recognised as {names}; name it with replicas[].engine")
        self._rounds_to_learning -= 1
        return None

    def _tell(self, dialect: Dialect, answers: Mapping[str, bytes], *remarks: str) -> None:
        url = self._server.url
        facts, told = dialect.learned(url, answers)
        count = facts.ranks or self._server.ranks or 1
        ranks = [(facts, (*remarks, *told))]
        ranks += [dialect.learned(url, answers, rank) for rank in range(1, min(count, MOST_RANKS))]
        if facts.models:  # else it answered health alone: ask again next time
            self._rounds_to_learning = LEARN_EVERY_ROUNDS
        self._listener.learned(self._server.id, Told(dialect, tuple(ranks)))

    def _ill(self, why: str, *, refused: bool = False) -> None:
        self._rounds_to_learning = 0  # whoever comes back may be another process
        self._listener.ill(self._server.id, why, refused=refused)

    def _forget(self) -> None:
        """Whoever answers next may be another engine. Not after a mere time-out: the busiest are slow to answer."""
        if len(self._dialects) > 1:
            self._dialect = None

    def _all_paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for dialect in self._dialects for path in dialect.paths))

    async def _knock(self, path: str) -> httpx.Response | None:
        """The answer, whatever it is; None when there was none, which the listener was told."""
        try:
            return await self._fetch(path)
        except httpx.ConnectError as fault:
            self._forget()
            self._ill(f"no connection: {fault}", refused=True)
        except httpx.HTTPError as fault:
            self._ill(f"{type(fault).__name__} {fault}".strip())
        return None

    async def _ask(self, paths: Iterable[str], answers: dict[str, bytes]) -> None:
        """Add what is answered with 200, by path; what is there already is not asked again."""
        missing = [path for path in paths if path not in answers]
        bodies = await asyncio.gather(*(self._get(path) for path in missing))
        answers.update((path, body) for path, body in zip(missing, bodies, strict=True) if body is not None)

    async def _get(self, path: str) -> bytes | None:
        try:
            answer = await self._fetch(path)
        except httpx.HTTPError:
            return None
        return answer.content if answer.status_code == 200 else None

    async def _fetch(self, path: str) -> httpx.Response:
        """Raises httpx.HTTPError."""
        try:
            return await self._http.get(self._server.url + path)
        except AttributeError as fault:
            # anyio, asked about a connection that was reset as it was made: a port forwarder whose server is gone.
            raise httpx.ReadError("the connection was reset as it was made") from fault
