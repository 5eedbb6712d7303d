"""A seat in every room: what joins when a replica is there, and what goes when it is gone (R 6.3).

A replica that goes is sent nothing new, at once. Requests under way there may end; when the last has, its connections
are closed and its series go from the metrics. Its seat stays its own for a while, for its return and until nothing of
it can arrive any more; then another replica may have it, so that a fleet whose replicas come and go for a year grows no
larger than it ever was at one time.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

from router.clock import Clock
from router.config import Config
from router.engines.base import EngineLoad
from router.events.ingest import Ingest
from router.events.silence import Silence
from router.fleet.foreign import Foreign
from router.fleet.health import Health
from router.fleet.latency import Latency
from router.fleet.ledger import Ledger
from router.fleet.newcomers import Newcomers
from router.fleet.pairs import Pairs
from router.fleet.rates import Rates
from router.fleet.replica import Replica, ReplicaId, Seat
from router.fleet.restarts import Restarts
from router.fleet.roster import Roster
from router.fleet.sessions import Sessions
from router.gateway.admission import Admission
from router.gateway.http1 import Timeouts
from router.gateway.misses import Misses
from router.gateway.trust import EffectiveTrust
from router.gateway.upstream import Upstream
from router.index.accuracy import Accuracy
from router.index.counters import Counters
from router.index.guessed import Guessed
from router.metrics import Metrics

# Longer than anything that was said of a replica takes to arrive: a miss to be settled, a log line to be told, the last
# answer of a request that was sent elsewhere in the end.
KEPT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rooms:
    """Where a replica has its place."""

    roster: Roster
    health: Health
    ledger: Ledger
    latency: Latency
    newcomers: Newcomers
    rates: Rates
    sessions: Sessions
    accuracy: Accuracy
    counters: Counters
    trust: EffectiveTrust
    ingest: Ingest
    guessed: Guessed
    silence: Silence
    admission: Admission
    metrics: Metrics
    misses: Misses
    pairs: Pairs
    upstreams: dict[Seat, Upstream]


@dataclass(slots=True)
class Kept:
    """What is kept of one replica beside its rooms. Changed by the keeper only."""

    replica: Replica
    foreign: Foreign
    restarts: Restarts = field(default_factory=Restarts)
    remarks: tuple[str, ...] = ()
    deaf: str | None = None  # why its events cannot be heard
    mute: str | None = None  # why its publisher is not believed to speak
    silence: str | None = None  # why the last probe failed
    told: bool = False  # its start-up line has been printed
    fallen: bool = False  # its counters have fallen since it told what it is
    load: EngineLoad | None = None  # as it told last
    loaded_at_seconds: float = 0.0

    @property
    def all_remarks(self) -> list[str]:
        return [*self.remarks, *filter(None, (self.deaf, self.mute))]


@dataclass(frozen=True, slots=True)
class _Gone:
    seat: Seat
    name: ReplicaId
    upstream: Upstream


class Seating:
    """Changed by the keeper only. `kept` has the replicas that are here."""

    def __init__(self, config: Config, rooms: Rooms, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._empty: dict[Seat, float] = {}  # seats whose replica is gone for good, and since when
        self._rooms = rooms
        self._gone: list[_Gone] = []
        self.kept: dict[Seat, Kept] = {}

    def sit(self, replica: Replica, pinned: Sequence[tuple[bytes, bytes]]) -> Seat:
        """A replica is there; `pinned` are the headers that address it behind its url."""
        rooms = self._rooms
        upstream = Upstream(  # first, for nobody has heard of the replica yet if its address cannot be called
            replica.url,
            timeouts=_timeouts(self._config),
            tls=ssl.create_default_context() if replica.url.startswith("https:") else None,
            pinned=pinned,
        )
        seat = rooms.roster.join(replica)
        self._empty.pop(seat, None)
        for room in (rooms.health, rooms.ledger, rooms.accuracy, rooms.latency, rooms.trust):
            room.join(seat)
        rooms.guessed.guess(seat, self._config.index.guessed_cache_blocks)
        rooms.upstreams[seat] = upstream
        places = self._config.limits.max_in_flight_per_replica
        self.kept[seat] = Kept(replica, Foreign(seat, rooms.ledger, places))
        return seat

    def heed(self, config: Config) -> None:
        """The same seats under other settings."""
        self._config = config
        for seat, kept in self.kept.items():
            self._rooms.upstreams[seat].heed(_timeouts(config))
            kept.foreign.heed(config.limits.max_in_flight_per_replica)

    def rise(self, seat: Seat) -> None:
        """The replica is gone."""
        rooms, kept = self._rooms, self.kept.pop(seat)
        rooms.roster.leave(kept.replica.id)
        rooms.health.leave(seat)
        rooms.ingest.leave(seat)
        rooms.guessed.leave(seat)
        rooms.silence.heard(seat)
        rooms.accuracy.restarted(seat)
        rooms.counters.leave(seat)
        rooms.rates.forget(seat)
        rooms.sessions.forget(seat)
        rooms.pairs.forget(seat)
        rooms.trust.leave(seat)
        rooms.ledger.foreign(seat, 0)
        rooms.ledger.peers(seat, 0, 0, 0)
        upstream = rooms.upstreams.pop(seat)
        upstream.retire()
        self._gone.append(_Gone(seat, kept.replica.id, upstream))
        rooms.admission.nudge()  # who waits for it alone is to hear that there is nobody
        self.sweep()

    def sweep(self) -> None:
        """Drop what is left of replicas that are gone and whose last request has ended. Ask now and then."""
        rooms = self._rooms
        gone, self._gone = self._gone, []
        for one in gone:
            is_back = one.seat in self.kept
            if one.upstream.open_connections if is_back else rooms.ledger.own_requests(one.seat):
                self._gone.append(one)
                continue
            one.upstream.close()
            if not is_back:
                rooms.metrics.forget_replica(one.name)
                self._empty[one.seat] = self._clock.now()
        for seat, since in tuple(self._empty.items()):
            if self._clock.now() - since >= KEPT_SECONDS:
                self._release(seat)

    def _release(self, seat: Seat) -> None:
        rooms = self._rooms
        del self._empty[seat]
        rooms.latency.forget(seat)
        rooms.accuracy.forget(seat)
        rooms.misses.leave(seat)
        rooms.counters.leave(seat)
        rooms.silence.heard(seat)
        rooms.rates.forget(seat)
        rooms.sessions.forget(seat)  # the last answers there bound theirs after it had left
        rooms.roster.release(seat)

    def open_requests(self, server: ReplicaId) -> int:
        """Our requests under way at a server, whether it is here or has left: of all its ranks."""
        seats = {seat: kept.replica.id for seat, kept in self.kept.items()} | {one.seat: one.name for one in self._gone}
        return sum(
            self._rooms.ledger.own_requests(seat)
            for seat, name in seats.items()
            if name == server or name.startswith(f"{server}#")
        )

    @property
    def leaving(self) -> int:
        """Replicas that are gone but for requests under way."""
        return len(self._gone)

    def close(self) -> None:
        for upstream in (*self._rooms.upstreams.values(), *(one.upstream for one in self._gone)):
            upstream.close()


def _timeouts(config: Config) -> Timeouts:
    told = config.timeouts
    return Timeouts(told.connect_seconds, told.first_byte_seconds, told.idle_seconds)
