"""Keeps the house in step with the fleet: what follows when a replica joins, answers, falls silent, restarts or leaves.

Probes and event streams tell; the keeper passes each piece of news to the rooms it concerns. It decides nothing about
requests.

A *server* is one address that is asked; its replicas are its data-parallel ranks, mostly one. How many there are it
tells itself, so a server begins as one replica of its own name, and its seats follow what it tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import zmq

from router.clock import Clock
from router.config import Config
from router.discovery import ranks
from router.discovery.probe import Probe, Told
from router.engines.base import Dialect, EngineLoad
from router.events.silence import ENOUGH
from router.events.streams import Streams
from router.fleet.replica import EventAddress, Facts, Replica, ReplicaId, Seat, ServedModel
from router.gateway.readiness import CaughtUp
from router.index.base import Trust
from router.seating import Kept, Rooms, Seating

Say = Callable[[str], None]


class Prover(Protocol):
    """Who finds each model's token source, and proves it at each replica."""

    def joined(self, seat: Seat) -> None: ...

    def found(self, model: ServedModel, seat: Seat, dialect: Dialect) -> None:
        """The replica tells that it serves this base model."""

    def restarted(self, seat: Seat) -> None: ...

    def left(self, seat: Seat) -> None: ...


@dataclass(slots=True)
class _Server:
    replica: Replica  # as configured or discovered
    task: asyncio.Task[None] | None = None
    probe: Probe | None = None
    dialect: Dialect | None = None
    draining: bool = False
    seats: list[Seat] = field(default_factory=list)  # by rank


class Keeper:
    """Listens to probes and streams, one server's and one replica's at a time."""

    def __init__(
        self,
        config: Config,
        rooms: Rooms,
        seating: Seating,
        *,
        clock: Clock,
        http: httpx.AsyncClient,
        dialects: Sequence[Dialect],
        context: zmq.Context[zmq.Socket[bytes]],
        tasks: asyncio.TaskGroup,
        prover: Prover,
        say: Say,
    ) -> None:
        self._config = config
        self._rooms = rooms
        self._clock = clock
        self._http = http
        self._dialects = tuple(dialects)
        self._tasks = tasks
        self._prover = prover
        self._say = say
        self._servers: dict[ReplicaId, _Server] = {}
        self._seating = seating
        self.kept = seating.kept
        self.streams = Streams(context, rooms.ingest, self, tasks)

    def join(self, replica: Replica) -> None:
        """A server is there: give it a seat everywhere, and begin to ask it."""
        self.leave(replica.id)
        server = _Server(replica)
        server.seats.append(self._sit(server, replica))
        self._servers[replica.id] = server
        probe = server.probe = Probe(
            replica,
            http=self._http,
            dialects=[one for one in self._dialects if replica.engine in (None, one.name)],
            listener=self,
            clock=self._clock,
            interval_seconds=self._config.probe.interval_seconds,
        )
        server.task = self._tasks.create_task(probe.run(), name=f"probe {replica.id}")

    def leave(self, name: ReplicaId) -> None:
        """A server is gone, and all its replicas: no new requests; those under way may end. Unknown names: nothing."""
        server = self._servers.pop(name, None)
        if server is None:
            return
        if server.task is not None:
            server.task.cancel()
        for seat in server.seats:
            self._rise(seat)

    def drain(self, name: ReplicaId, draining: bool) -> None:
        """A server is sent nothing new, or again. It is asked and heard all the while. Unknown names: nothing."""
        server = self._servers.get(name)
        if server is None:
            return
        server.draining = draining
        for seat in server.seats:
            self._rooms.health.drain(seat, draining)
        self._rooms.admission.nudge()  # who waits for it alone is to hear that there is nobody; or that it is back

    def heed(self, config: Config) -> None:
        """The same servers under other settings."""
        self._config = config
        self._http.timeout = config.probe.timeout_seconds
        for server in self._servers.values():
            if server.probe is not None:
                server.probe.interval_seconds = config.probe.interval_seconds
        self._seating.heed(config)

    def caught_up(self, seat: Seat) -> CaughtUp:
        """It told what it is, and where it publishes events we hear them; or it is ill, and not worth waiting for."""
        known, ingest = self.kept[seat], self._rooms.ingest
        is_heard = self.streams.address(seat) is not None and known.mute is None and known.deaf is None
        if known.silence is not None or (known.told and not is_heard):
            return CaughtUp(settled=True, coverage_ratio=1.0)
        settled = known.told and ingest.trust(seat) >= Trust.CATCHING_UP
        return CaughtUp(settled, ingest.coverage(seat))

    def close(self) -> None:
        """Stop asking and listening, and close what is open to replicas."""
        for server in self._servers.values():
            if server.task is not None:
                server.task.cancel()
        self.streams.close()
        self._seating.close()

    # What probes tell

    def well(self, server: ReplicaId, round_trip_seconds: float) -> None:
        rooms = self._rooms
        for seat in self._servers[server].seats:
            kept = self.kept[seat]
            if kept.silence is not None:
                self._say(f"{kept.replica.id} answers again")
                kept.restarts.answers_again(self._clock.now())
            kept.silence = None
            rooms.latency.observe(seat, round_trip_seconds)
            rooms.health.probe_succeeded(seat, self._clock.now())
            self._listen_for_silence(seat, kept)
        rooms.admission.nudge()

    def ill(self, server: ReplicaId, why: str, *, refused: bool) -> None:
        for seat in self._servers[server].seats:
            kept = self.kept[seat]
            if kept.silence is None:
                self._say(f"{kept.replica.id} does not answer: {why}")
            kept.silence = why
            kept.foreign.silent()
            self._rooms.health.probe_failed(seat)
            if refused:
                # Nobody listens: whoever listens next is a new process, with an empty cache (R 4.3).
                self._rooms.guessed.clear(seat)

    def learned(self, server: ReplicaId, told: Told) -> None:
        known = self._servers[server]
        count = len(told.ranks) if told.ranks[0][0].ranks or known.replica.ranks else len(known.seats)
        self._reseat(known, count, told.dialect)
        for seat, (facts, remarks) in zip(tuple(known.seats), told.ranks, strict=False):
            self._learned(seat, facts, remarks, told.dialect)

    def loaded(self, server: ReplicaId, loads: Mapping[int, EngineLoad]) -> bool:
        rooms = self._rooms
        for rank, seat in enumerate(self._servers[server].seats):
            kept, load = self.kept[seat], loads.get(rank)
            if load is None or load.running_requests is None:
                kept.foreign.silent()
                continue
            kept.load, kept.loaded_at_seconds = load, self._clock.now()
            queries, hits = load.prefix_queries_tokens, load.prefix_hits_tokens
            if queries is not None and hits is not None and rooms.counters.read(seat, queries, hits):
                kept.fallen = True  # in one process they only grow
            kept.foreign.told(load.running_requests + (load.waiting_requests or 0))
        return any(self.kept[seat].fallen for seat in self._servers[server].seats)

    # What streams tell

    def counted(self, seat: Seat, what: str, count: int) -> None:
        kept = self.kept.get(seat)
        if kept is None:  # the last word of a stream that was just left
            return
        self._rooms.metrics.events.add(kept.replica.id, what, count=count)
        if what in ("batch", "malformed_frame"):
            self._rooms.silence.heard(seat)
            if kept.mute is not None:
                self._speaks(seat, kept)

    def forgotten(self, seat: Seat, cause: str) -> None:
        rooms, kept = self._rooms, self.kept.get(seat)
        if kept is None:
            return
        if kept.mute is not None and cause == "restart":
            self._speaks(seat, kept)  # the next process may
        elif kept.mute is None and rooms.guessed.guesses(seat):
            rooms.guessed.guess(seat, None)  # from here on the events tell
        rooms.silence.heard(seat)
        if cause == "restart":
            self._restarted(seat, "stream")
        elif cause != "join":
            self.counted(seat, f"forgotten_{cause}", 1)
            self._say(f"{kept.replica.id}: its cache is forgotten ({cause})")
        rooms.trust.refresh(seat)

    def stream(self, seat: Seat, *, up: bool) -> None:
        if seat in self.kept:
            self.counted(seat, "stream_up" if up else "stream_down", 1)
            self._rooms.trust.refresh(seat)

    def deaf(self, seat: Seat, why: str, *, for_good: bool) -> None:
        kept = self.kept.get(seat)
        if kept is not None:
            kept.deaf = why if for_good else kept.deaf
            self._say(f"{kept.replica.id}: {why}")

    # Seats

    def _sit(self, server: _Server, replica: Replica) -> Seat:
        dialect = server.dialect
        pinned = () if dialect is None or replica.rank is None else dialect.rank_headers(replica.rank)
        seat = self._seating.sit(replica, pinned)
        if server.draining:
            self._rooms.health.drain(seat)
        self._prover.joined(seat)
        return seat

    def _rise(self, seat: Seat) -> None:
        self.streams.leave(seat)
        self._prover.left(seat)
        self._seating.rise(seat)

    def _reseat(self, server: _Server, count: int, dialect: Dialect) -> None:
        """Seats for as many ranks as the server has now, pinned in its own language."""
        wanted = ranks.replicas(server.replica, count)
        now = {self.kept[seat].replica.id: seat for seat in server.seats}
        # One replica alone is not addressed by a header, so another language changes nothing about its seat.
        speaks_otherwise = server.dialect is not dialect and (len(wanted) > 1 or len(now) > 1)
        server.dialect = dialect
        stay = {} if speaks_otherwise else {one.id: now[one.id] for one in wanted if one.id in now}
        if len(stay) == len(wanted) == len(now):
            return
        if len(wanted) > 1 or len(now) > 1:
            self._say(f"{server.replica.id}: {len(wanted)} data-parallel rank{'s' if len(wanted) > 1 else ''}")
        silence = self.kept[server.seats[0]].silence
        server.seats = []
        for name, seat in now.items():
            if name not in stay:
                self._rise(seat)
        for one in wanted:
            if one.id in stay:
                server.seats.append(stay[one.id])
                continue
            seat = self._sit(server, one)
            server.seats.append(seat)
            self.kept[seat].silence = silence
            self._rooms.health.probe_succeeded(seat, self._clock.now())

    # Parts

    def _learned(self, seat: Seat, facts: Facts, remarks: tuple[str, ...], dialect: Dialect) -> None:
        rooms, kept = self._rooms, self.kept[seat]
        changes = rooms.roster.update(seat, facts)
        known = rooms.roster.facts(seat)
        kept.remarks = remarks
        fallen, kept.fallen = kept.fallen, False
        if changes.restarted or fallen:
            self._restarted(seat, "probe")
        if facts.process_start_time is not None and (changes.restarted or not fallen):
            self.streams.process_started(seat, facts.process_start_time)
        elif changes.restarted or fallen:
            self.streams.replaced(seat)
        if changes.models or not kept.told:
            for model in known.models:
                if model.adapter is None:
                    self._prover.found(model, seat, dialect)
        if changes.cache_blocks and known.cache_blocks is not None and rooms.guessed.guesses(seat):
            rooms.guessed.guess(seat, known.cache_blocks)
        address = kept.replica.events or known.events
        if (
            address is not None
            and known.models
            and self.streams.hear(seat, address, dialect.wire, rooms.roster.served(known.models[0].name).base)
        ):
            kept.deaf = kept.mute = None
        if not kept.told and known.models:
            kept.told = True
            rooms.newcomers.came(seat, self._clock.now())
            self._say(self._introduction(kept, known, address))

    def _restarted(self, seat: Seat, teller: str) -> None:
        rooms, kept = self._rooms, self.kept[seat]
        if not kept.restarts.news(teller, self._clock.now()):
            return
        self.counted(seat, "forgotten_restart", 1)
        self._say(f"{kept.replica.id}: its cache is forgotten (restart)")
        rooms.accuracy.restarted(seat)
        rooms.rates.forget(seat)
        rooms.sessions.forget(seat)
        rooms.pairs.forget(seat)
        rooms.guessed.clear(seat)
        rooms.newcomers.came(seat, self._clock.now())
        self._prover.restarted(seat)
        rooms.trust.refresh(seat)

    def _listen_for_silence(self, seat: Seat, kept: Kept) -> None:
        """A publisher whose story looks whole and which never speaks is not heard at all: guess instead."""
        rooms = self._rooms
        if kept.mute is not None or rooms.ingest.trust(seat) < Trust.CATCHING_UP:
            return
        facts = rooms.roster.facts(seat)
        if facts.prefix_caching is False or not rooms.silence.look(seat):
            return
        kept.mute = (
            f"silent publisher: {ENOUGH} requests in a row computed blocks and no KV event came; "
            "guessing from what was sent"
        )
        self.counted(seat, "silent_publisher", 1)
        self._say(f"{kept.replica.id}: {kept.mute}")
        rooms.ingest.leave(seat)
        rooms.guessed.guess(seat, facts.cache_blocks or self._config.index.guessed_cache_blocks)
        rooms.trust.refresh(seat)

    def _speaks(self, seat: Seat, kept: Kept) -> None:
        """A silent publisher has been heard."""
        kept.mute = None
        self._say(f"{kept.replica.id}: its publisher is heard; its events are read from the replay on")
        self._rooms.guessed.leave(seat)
        self.streams.again(seat)
        self._rooms.trust.refresh(seat)

    def _introduction(self, kept: Kept, facts: Facts, address: EventAddress | None) -> str:
        names = ", ".join(model.name for model in facts.models)
        block = f"blocks of {facts.block_size_tokens} tokens" if facts.block_size_tokens else "block size unknown"
        heard = f"events from {address.endpoint}" if address is not None else "no KV events: routing by what was sent"
        if address is not None and address.replay is None:
            heard += ", no replay"
        off = ("prefix caching is off: nothing can be warm there",) if facts.prefix_caching is False else ()
        return "; ".join((f"{kept.replica.id}: {names}", block, heard, *off, *kept.remarks))
