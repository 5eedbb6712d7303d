"""Keeps the house in step with the fleet: what follows when a replica joins, answers, falls silent, restarts or leaves.

Probes and event streams tell; the keeper passes each piece of news to the rooms it concerns. It decides nothing about
requests.
"""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import zmq

from router.clock import Clock
from router.config import Config
from router.discovery.probe import Dialect, Probe
from router.events.ingest import Ingest
from router.events.kinds import Wire
from router.events.pace import Pace
from router.events.zmq import Subscription
from router.fleet.health import Health
from router.fleet.latency import Latency
from router.fleet.ledger import Ledger
from router.fleet.rates import Rates
from router.fleet.replica import EventAddress, Facts, Replica, Seat, ServedModel
from router.fleet.roster import Roster
from router.fleet.sessions import Sessions
from router.gateway.admission import Admission
from router.gateway.http1 import Timeouts
from router.gateway.trust import EffectiveTrust
from router.gateway.upstream import Upstream
from router.index.accuracy import Accuracy
from router.index.guessed import Guessed
from router.metrics import Metrics

Say = Callable[[str], None]

HEAR_AGAIN_SECONDS = 5.0


@dataclass(slots=True)
class Kept:
    """The running parts of one replica. Changed by the keeper only."""

    replica: Replica
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    subscription: Subscription | None = None
    remarks: tuple[str, ...] = ()
    deaf: str | None = None  # why its events cannot be heard
    silence: str | None = None  # why the last probe failed
    told: bool = False  # its start-up line has been printed


@dataclass(frozen=True, slots=True)
class Rooms:
    """Whom the keeper tells."""

    roster: Roster
    health: Health
    ledger: Ledger
    latency: Latency
    rates: Rates
    sessions: Sessions
    accuracy: Accuracy
    trust: EffectiveTrust
    ingest: Ingest
    guessed: Guessed
    admission: Admission
    metrics: Metrics
    upstreams: dict[Seat, Upstream]


class Keeper:
    """Listens to probes and streams. `model_found` is called for every base model that a replica tells of."""

    def __init__(
        self,
        config: Config,
        rooms: Rooms,
        *,
        clock: Clock,
        http: httpx.AsyncClient,
        dialect: Dialect,
        wire: Wire,
        context: zmq.Context[zmq.Socket[bytes]],
        tasks: asyncio.TaskGroup,
        model_found: Callable[[ServedModel, Seat], None],
        say: Say,
    ) -> None:
        self._config = config
        self._rooms = rooms
        self._clock = clock
        self._http = http
        self._dialect = dialect
        self._wire = wire
        self._context = context
        self._tasks = tasks
        self._model_found = model_found
        self._say = say
        self._pace = Pace()
        self.kept: dict[Seat, Kept] = {}

    def join(self, replica: Replica) -> Seat:
        """A replica is there: give it its seat everywhere, and begin to ask it."""
        rooms = self._rooms
        seat = rooms.roster.join(replica)
        for room in (rooms.health, rooms.ledger, rooms.accuracy, rooms.latency, rooms.trust):
            room.join(seat)
        rooms.guessed.guess(seat, self._config.index.guessed_cache_blocks)
        timeouts = self._config.timeouts
        rooms.upstreams[seat] = Upstream(
            replica.url,
            timeouts=Timeouts(timeouts.connect_seconds, timeouts.first_byte_seconds, timeouts.idle_seconds),
            tls=ssl.create_default_context() if replica.url.startswith("https:") else None,
        )
        probe = Probe(
            seat,
            replica,
            http=self._http,
            dialect=self._dialect,
            listener=self,
            clock=self._clock,
            interval_seconds=self._config.probe.interval_seconds,
        )
        kept = self.kept[seat] = Kept(replica)
        kept.tasks.append(self._tasks.create_task(probe.run(), name=f"probe {replica.id}"))
        return seat

    def close(self) -> None:
        """Stop asking and listening, and close what is open to replicas."""
        for kept in self.kept.values():
            for task in kept.tasks:
                task.cancel()
        for upstream in self._rooms.upstreams.values():
            upstream.close()

    # What probes tell

    def well(self, seat: Seat, round_trip_seconds: float) -> None:
        rooms, kept = self._rooms, self.kept[seat]
        if kept.silence is not None:
            self._say(f"{kept.replica.id} answers again")
        kept.silence = None
        rooms.latency.observe(seat, round_trip_seconds)
        rooms.health.probe_succeeded(seat, self._clock.now())
        rooms.admission.nudge()

    def ill(self, seat: Seat, why: str, *, refused: bool) -> None:
        kept = self.kept[seat]
        if kept.silence is None:
            self._say(f"{kept.replica.id} does not answer: {why}")
        kept.silence = why
        self._rooms.health.probe_failed(seat)
        if refused:
            # Nobody listens: whoever listens next is a new process, with an empty cache (R 4.3).
            self._rooms.guessed.clear(seat)

    def learned(self, seat: Seat, facts: Facts, remarks: tuple[str, ...]) -> None:
        rooms, kept = self._rooms, self.kept[seat]
        changes = rooms.roster.update(seat, facts)
        known = rooms.roster.facts(seat)
        kept.remarks = remarks
        if changes.restarted:
            self._restarted(seat)
        if facts.process_start_time is not None and kept.subscription is not None:
            kept.subscription.process_started(facts.process_start_time)
        if changes.models:
            for model in known.models:
                if model.adapter is None:
                    self._model_found(model, seat)
        if changes.cache_blocks and known.cache_blocks is not None and rooms.guessed.guesses(seat):
            rooms.guessed.guess(seat, known.cache_blocks)
        address = kept.replica.events or known.events
        if address is not None and known.models and (kept.subscription is None or kept.subscription.address != address):
            self._hear(seat, kept, address, rooms.roster.served(known.models[0].name).base)
        if not kept.told and known.models:
            kept.told = True
            self._say(self._introduction(kept, known, address))

    # What streams tell

    def counted(self, seat: Seat, what: str, count: int) -> None:
        self._rooms.metrics.events.add(self.kept[seat].replica.id, what, count=count)

    def forgotten(self, seat: Seat, cause: str) -> None:
        rooms = self._rooms
        if rooms.guessed.guesses(seat):
            rooms.guessed.guess(seat, None)  # from here on the events tell
        if cause != "join":
            self.counted(seat, f"forgotten_{cause}", 1)
            self._say(f"{self.kept[seat].replica.id}: its cache is forgotten ({cause})")
        if cause == "restart":
            self._restarted(seat)
        rooms.trust.refresh(seat)

    def stream(self, seat: Seat, *, up: bool) -> None:
        self.counted(seat, "stream_up" if up else "stream_down", 1)
        self._rooms.trust.refresh(seat)

    # Parts

    def _restarted(self, seat: Seat) -> None:
        rooms = self._rooms
        rooms.accuracy.restarted(seat)
        rooms.rates.forget(seat)
        rooms.sessions.forget(seat)
        rooms.guessed.clear(seat)
        rooms.trust.refresh(seat)

    def _hear(self, seat: Seat, kept: Kept, address: EventAddress, model: str) -> None:
        if kept.subscription is not None:
            kept.tasks.pop().cancel()
        self._rooms.ingest.join(seat, model)
        kept.subscription = self._subscription(seat, address)
        kept.tasks.append(self._tasks.create_task(self._listen(kept, kept.subscription)))

    async def _listen(self, kept: Kept, subscription: Subscription) -> None:
        endpoint = subscription.address.endpoint
        while True:
            try:
                await subscription.run()
            except zmq.ZMQError as fault:
                kept.deaf = f"KV events at {endpoint} cannot be heard: {fault}"
                self._say(f"{kept.replica.id}: {kept.deaf}")
                return
            except Exception:  # a fault of ours: told, and the story begun anew from the replay
                traceback.print_exc()
                self._say(f"{kept.replica.id}: hearing {endpoint} failed; again in {HEAR_AGAIN_SECONDS:.0f} s")
                self._rooms.ingest.begin(subscription.seat, whole=False)
                await asyncio.sleep(HEAR_AGAIN_SECONDS)
                subscription = kept.subscription = self._subscription(subscription.seat, subscription.address)

    def _subscription(self, seat: Seat, address: EventAddress) -> Subscription:
        return Subscription(self._context, seat, address, self._wire, self._rooms.ingest, self, self._pace)

    def _introduction(self, kept: Kept, facts: Facts, address: EventAddress | None) -> str:
        names = ", ".join(model.name for model in facts.models)
        block = f"blocks of {facts.block_size_tokens} tokens" if facts.block_size_tokens else "block size unknown"
        heard = f"events from {address.endpoint}" if address is not None else "no KV events: routing by what was sent"
        if address is not None and address.replay is None:
            heard += ", no replay"
        off = ("prefix caching is off: nothing can be warm there",) if facts.prefix_caching is False else ()
        return "; ".join((f"{kept.replica.id}: {names}", block, heard, *off, *kept.remarks))
