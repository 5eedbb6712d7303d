"""A running Homing as others see it: its rooms, the gauges read from them at a scrape, and one entry per replica."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from prometheus_client.metrics_core import Metric

from router.clock import Clock
from router.discovery.membership import Membership
from router.discovery.source import Source
from router.events.ingest import Ingest
from router.fleet.health import Health
from router.fleet.latency import Latency
from router.fleet.ledger import Ledger
from router.fleet.pairs import Pairs
from router.fleet.replica import Seat
from router.fleet.roster import Roster
from router.gateway.admission import Admission
from router.gateway.holding import Holding
from router.gateway.in_force import InForce
from router.gateway.journal import Journal
from router.gateway.lag import LoopLag
from router.gateway.misses import Misses
from router.gateway.readers import Readers
from router.gateway.readiness import Readiness
from router.gateway.receipts import Receipt, Receipts
from router.gateway.recorder import Recorder
from router.gateway.trust import EffectiveTrust
from router.gateway.trust_news import TrustNews
from router.gateway.truth import truth_entry, truth_families
from router.index.accuracy import Accuracy
from router.index.base import Trust
from router.index.memory import MemoryIndex
from router.keeper import Keeper
from router.metrics import gauge_family
from router.policy.pools import handshake_of
from router.proving import Proving
from router.seating import Seating
from router.sharing.redis import Line


@dataclass(frozen=True, slots=True)
class House:
    """The rooms of one process."""

    url: str
    admin_url: str
    roster: Roster
    ledger: Ledger
    pairs: Pairs
    latency: Latency
    journal: Journal[Receipt]
    admission: Admission
    index: MemoryIndex
    ingest: Ingest
    accuracy: Accuracy
    readiness: Readiness
    readers: Readers
    receipts: Receipts
    health: Health
    trust: EffectiveTrust
    keeper: Keeper
    proving: Proving
    seating: Seating
    misses: Misses
    news: TrustNews
    recorder: Recorder
    holding: Holding
    membership: Membership
    sources: tuple[Source, ...]
    in_force: InForce
    line: Line | None  # to other routers; None: this one works alone


def gauges(house: House, lag: LoopLag) -> Callable[[], Iterable[Metric]]:
    def read() -> Iterable[Metric]:
        leases = gauge_family("homing_leases_open", "Requests in flight, by replica.", ("replica",))
        foreign = gauge_family(
            "homing_foreign_requests",
            "Requests open on a replica that no known router sent, as it tells.",
            ("replica",),
        )
        peers = gauge_family("homing_peer_requests", "Requests other routers have open on a replica.", ("replica",))
        trusts = gauge_family("homing_replica_trust", "1 for the trust each replica has now.", ("replica", "state"))
        coverage = gauge_family(
            "homing_event_coverage_ratio", "Share of the last stored runs whose place was known.", ("replica",)
        )
        for seat in house.roster.present():
            name = house.roster.replica(seat).id
            leases.add_metric([name], house.ledger.own_requests(seat))
            foreign.add_metric([name], house.ledger.foreign_requests(seat))
            peers.add_metric([name], house.ledger.peer_requests(seat))
            coverage.add_metric([name], house.ingest.coverage(seat))
            now = house.trust.of(seat)
            for state in Trust:
                trusts.add_metric([name, state.name.lower()], float(state is now))
        yield from discovery_families(house)
        plain = (
            ("homing_index_blocks", "Distinct blocks in the index.", house.index.block_count),
            ("homing_index_bytes", "Bytes the index is charged with.", house.index.used_bytes),
            ("homing_index_refused_blocks", "Blocks not indexed for want of budget.", house.index.refused_blocks),
            ("homing_loop_lag_seconds", "The event loop's longest delay in the last 15 s.", lag.worst_seconds()),
            ("homing_in_flight_requests", "Requests let in and not yet ended.", house.admission.in_flight),
            ("homing_waiting_requests", "Requests waiting for a place.", house.admission.waiting),
            (
                "homing_held_requests",
                "Requests let in and waiting for their turn at a replica.",
                house.holding.waiting,
            ),
            ("homing_loans_open", "Requests whose own blocks count as cached where they run.", len(house.index.recent)),
            ("homing_receipts_bytes", "Bytes that the kept receipts are charged with.", house.receipts.used_bytes),
            ("homing_log_lines_dropped", "Log lines nobody could be given in time.", house.journal.dropped),
            (
                "homing_recording",
                "1 while someone records what requests look like.",
                float(house.recorder.recording is not None),
            ),
            ("homing_ready", "1 when traffic may come.", float(not house.readiness.waiting_for())),
        )
        for metric, documentation, value in plain:
            family = gauge_family(metric, documentation, ())
            family.add_metric([], value)
            yield family
        yield from truth_families(house.roster, house.accuracy, house.misses)
        yield from _moved(house)
        yield from house.in_force.families()
        yield leases
        yield foreign
        yield peers
        if house.line is not None:
            up = gauge_family("homing_shared_up", "1 while routers hear each other; 0: this one works alone.", ())
            up.add_metric([], float(house.line.up))
            routers = gauge_family("homing_shared_routers", "Other routers that share their load with this one.", ())
            routers.add_metric([], len(house.line.peers))
            yield up
            yield routers
        yield trusts
        yield coverage

    return read


def _moved(house: House) -> Iterable[Metric]:
    """KV fetched from other replicas, as far as engines tell."""
    counted = gauge_family(
        "homing_engine_transfer_bytes", "KV fetched from other replicas, as the replica tells.", ("replica",)
    )
    timed = gauge_family("homing_engine_transfer_seconds", "Time it took, as the replica tells.", ("replica",))
    for seat in house.roster.present():
        load = house.keeper.kept[seat].load
        if load is None or load.transfer_bytes is None:
            continue
        name = house.roster.replica(seat).id
        counted.add_metric([name], load.transfer_bytes)
        timed.add_metric([name], load.transfer_seconds or 0.0)
    yield counted
    yield timed


def recorded_fleet(house: House, model: str | None) -> Mapping[str, object]:
    """What a recording says of the fleet it was made before. Raises UnknownModel."""
    seats = house.roster.present() if model is None else house.roster.serving(model).tolist()
    facts = [house.roster.facts(seat) for seat in seats]
    sizes = sorted(told.block_size_tokens for told in facts if told.block_size_tokens)
    caches = sorted((told.cache_blocks or 0) * (told.block_size_tokens or 0) for told in facts)
    return {
        "policy": house.in_force.config.policy,
        "replicas": len(facts),
        "events": any(house.keeper.streams.address(seat) is not None for seat in seats),
        # Of the median replica; null where it did not tell.
        "block_size_tokens": sizes[len(sizes) // 2] if sizes else None,
        "cache_tokens": caches[len(caches) // 2] or None if caches else None,
    }


def discovery_families(house: House) -> Iterable[Metric]:
    """What each source of replicas tells, and whether it sees."""
    told = gauge_family("homing_discovered_servers", "Servers each source tells of.", ("source",))
    for source, count in house.membership.counts().items():
        told.add_metric([source], count)
    up = gauge_family(
        "homing_discovery_up", "1 while a source of replicas sees; 0: the fleet stays as last seen.", ("source",)
    )
    for one in house.sources:
        up.add_metric([one.name], float(one.lost_since() is None))
    draining = gauge_family("homing_replica_draining", "1 for a replica that is sent nothing new.", ("replica",))
    for seat in house.roster.present():
        draining.add_metric([house.roster.replica(seat).id], float(house.health.is_draining(seat)))
    yield told
    yield up
    yield draining


def replica_entry(house: House, seat: Seat, clock: Clock) -> Mapping[str, object]:
    """One replica for GET /homing/replicas."""
    replica, facts, kept = house.roster.replica(seat), house.roster.facts(seat), house.keeper.kept[seat]
    address, load = house.keeper.streams.address(seat), kept.load
    drift = house.proving.divergences.get(seat)
    return {
        "replica": replica.id,
        "url": replica.url,
        "models": [model.name for model in facts.models],
        "engine": facts.engine,
        "role": replica.role.value,
        "handshake": handshake_of(replica, facts),
        "labels": dict(replica.labels),
        "takes_over_from": _pairs(house, seat),
        "version": facts.version,
        "rank": replica.rank,
        "prefix_caching": facts.prefix_caching,
        "round_trip_seconds": float(house.latency.seconds(np.array([seat]))[0]),
        "health": house.health.state(seat, clock.now()).value,
        "draining": house.health.is_draining(seat),
        "silence": kept.silence,
        "trust": house.trust.of(seat).name,
        "trust_causes": list(house.trust.causes(seat)),
        "coverage": house.ingest.coverage(seat),
        "token_source": {model.base: house.readers.source(model.base) for model in facts.models},
        "block_size_tokens": facts.block_size_tokens,
        "cache_blocks": facts.cache_blocks,
        "held_blocks": house.index.held_blocks(seat),
        "events": address.endpoint if address is not None else None,
        "remarks": [*kept.all_remarks, *([f"template_drift: {drift}"] if drift is not None else [])],
        **truth_entry(house.accuracy, house.misses, seat),
        "open_requests": house.ledger.own_requests(seat),
        "foreign_requests": house.ledger.foreign_requests(seat),
        "peer_requests": house.ledger.peer_requests(seat),
        "engine_running_requests": None if load is None else load.running_requests,
        "engine_waiting_requests": None if load is None else load.waiting_requests,
        "engine_transfer_bytes": None if load is None else load.transfer_bytes,
        "engine_transfer_seconds": None if load is None else load.transfer_seconds,
        "engine_load_age_seconds": None if load is None else clock.now() - kept.loaded_at_seconds,
        "queued_tokens": int(house.ledger.queued_tokens[seat]),
    }


def routers_entry(line: Line | None, clock: Clock) -> Mapping[str, object]:
    """Who else there is, for GET /homing/routers."""
    if line is None:
        return {"shared": None, "routers": []}
    now = clock.now()
    return {
        "shared": {
            "redis_url": line.where,
            "channel": line.channel,
            "router": line.router,
            "boot": line.boot,
            "up": line.up,
            "for_seconds": now - line.changed_at_seconds,
            "why": line.why,
        },
        "routers": [
            {
                "router": peer.router,
                "boot": peer.boot,
                "heard_seconds_ago": now - peer.heard_at_seconds,
                "torn": peer.torn,
                "gaps": peer.gaps,
                **asdict(peer.total),
            }
            for peer in line.peers.all()
        ],
    }


def _pairs(house: House, taker: Seat) -> Mapping[str, object]:
    """By donor: what the pair is expected to take, of the pairs that carry requests to this replica."""
    found: dict[str, object] = {}
    for donor in house.roster.present():
        if house.pairs.is_open(donor, taker):
            fixed, per_token = house.pairs.figures(donor, taker)
            figures = {"fixed_seconds": fixed, "seconds_per_1000_tokens": 1000 * per_token}
            found[house.roster.replica(donor).id] = figures
    return found
