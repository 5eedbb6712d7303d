"""Builds the house, once, and runs it: the only place where rooms meet."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import httpx
import zmq

from router.clock import SystemClock
from router.config import Config
from router.control import Operator
from router.discovery.membership import Membership
from router.discovery.source import follow
from router.engines import sglang
from router.engines.base import Dialect
from router.engines.handshakes import ANSWERING_WHOLE, HANDSHAKES
from router.engines.vllm import Vllm
from router.events.ingest import Ingest
from router.events.silence import Silence
from router.events.stories import Stories
from router.fleet.health import Health
from router.fleet.latency import Latency
from router.fleet.ledger import Ledger
from router.fleet.newcomers import Newcomers
from router.fleet.pairs import Pairs
from router.fleet.rates import Rates
from router.fleet.replica import Seat
from router.fleet.roster import Roster
from router.fleet.sessions import Sessions
from router.gateway.account import Account, Books
from router.gateway.admin import admin
from router.gateway.admission import Admission
from router.gateway.dispatch import Dispatch
from router.gateway.handoff import Handoff
from router.gateway.headers import Credentials
from router.gateway.holding import Holding
from router.gateway.in_force import InForce
from router.gateway.journal import Journal
from router.gateway.lag import LoopLag
from router.gateway.listen import bind, listening, shown
from router.gateway.misses import Misses
from router.gateway.readers import Readers
from router.gateway.readiness import Readiness
from router.gateway.receipts import Receipts
from router.gateway.recorder import Recorder
from router.gateway.room import Room
from router.gateway.routes import Routes, control
from router.gateway.serve import Serve
from router.gateway.told import log_line
from router.gateway.trust import EffectiveTrust
from router.gateway.trust_news import TrustNews
from router.gateway.upstream import Upstream
from router.gateway.warming import Warming
from router.house import House, gauges, recorded_fleet, replica_entry, routers_entry
from router.housekeeping import keep_house
from router.index.accuracy import Accuracy
from router.index.budget import Budget
from router.index.counters import Counters
from router.index.guessed import Guessed
from router.index.in_flight import InFlight
from router.index.memory import MemoryIndex
from router.keeper import Keeper, Say
from router.metrics import Metrics
from router.policy.decider import Decider, open_blocks_for
from router.prompt.blocks import BlockHasher
from router.prompt.read import PromptReader
from router.proving import Proving
from router.reload.reload import Reload
from router.reload.source import ConfigSource, given
from router.reload.swap import CONFIGURED, Swap, admission_limits, shadowing
from router.reload.swap import configured as replicas_of
from router.seating import Rooms, Seating
from router.sharing.redis import Line
from router.sources import sources_of

# The engines whose language Homing speaks, in the order in which an unknown replica is held against them.
DIALECTS: tuple[Dialect, ...] = (Vllm(), *sglang.RELEASES)
READING_THREADS = 2  # tokenizing releases the GIL; more threads than that only contend


def _silent(_line: str) -> None:
    pass


@contextlib.asynccontextmanager
async def running(
    configured: Config | ConfigSource, *, log: IO[bytes] | None = None, say: Say = _silent
) -> AsyncIterator[House]:
    """Homing on both ports while the block runs. Raises ConfigError for what cannot be used.

    From a source the configuration is read, now and at each reload. `log` gets one JSON line per finished request,
    `say` a sentence whenever something of note happens.
    """
    try:
        async with _running(configured, log=log, say=say) as house:
            yield house
    except BaseExceptionGroup as faults:  # of the task groups inside: what went wrong in the block comes out
        raise _only(faults) from None


@contextlib.asynccontextmanager
async def _running(configured: Config | ConfigSource, *, log: IO[bytes] | None, say: Say) -> AsyncIterator[House]:
    source = given(configured) if isinstance(configured, Config) else configured
    whole = source.read()
    config, policy, clock = whole.config, whole.policy, SystemClock()
    in_force = InForce(whole, clock)
    metrics = Metrics()
    roster, health, ledger, latency = Roster(), Health(), Ledger(), Latency()
    rates, sessions = Rates(), Sessions(config.sessions.max_sessions, config.sessions.idle_seconds)
    newcomers = Newcomers(config.limits.slow_start_seconds)
    pairs = Pairs()
    index = MemoryIndex(Budget(config.index.budget_megabytes * 2**20))
    guessed, accuracy = Guessed(index), Accuracy()
    ingest = Ingest(index, hash_seed=config.tokens.hash_seed)
    receipts, journal, lag, recorder = Receipts(), Journal(log, log_line), LoopLag(), Recorder(say)
    credentials = Credentials(whole.client_keys, config.auth.replica_api_key())
    upstreams: dict[Seat, Upstream] = {}
    silence = Silence()
    counters = Counters(accuracy)
    misses = Misses(index, ingest, accuracy, counters, silence)
    news = TrustNews(lambda seat: roster.replica(seat).id, misses.suspicion, say)
    trust = EffectiveTrust(ingest, accuracy, lambda seat, before, now: news.changed(seat, before, now, clock.now()))
    per_replica = config.limits.max_in_flight_per_replica
    open_blocks = open_blocks_for(whole.policies)
    decider = Decider(
        policy=policy,
        roster=roster,
        health=health,
        ledger=ledger,
        rates=rates,
        index=index,
        trusts=trust,
        sessions=sessions,
        rng=random.Random(config.seed),  # None: seeded by the system, so that no two routers draw alike
        max_in_flight=per_replica,
        open_blocks=open_blocks,
        pairs=pairs,
        answering_whole=ANSWERING_WHOLE,
        newcomers=newcomers,
    )
    room = Room(roster, health, ledger, clock, per_replica)
    admission = Admission(admission_limits(config), clock, room, lambda: ledger.all_peer_requests)
    holding = Holding(policy.hold, clock)
    account = Account(
        Books(
            ledger=ledger,
            recent=index.recent,
            guessed=guessed,
            ingest=ingest,
            in_flight=InFlight(),
            accuracy=accuracy,
            trust=trust,
            rates=rates,
            sessions=sessions,
            receipts=receipts,
            metrics=metrics,
            journal=journal,
            silence=silence,
            misses=misses,
            counters=counters,
            open_blocks=open_blocks,
            pairs=pairs,
            recorder=recorder,
            holding=holding,
        ),
        clock,
    )
    replica_headers = credentials.to_replica

    readiness = Readiness(
        clock,
        lambda: health.any_healthy(clock.now()),
        lambda: [keeper.caught_up(seat) for seat in roster.present()],
        coverage_ratio=config.readiness.coverage,
        wait_seconds=config.readiness.wait_seconds,
    )
    with (
        ThreadPoolExecutor(READING_THREADS, thread_name_prefix="reading") as executor,
        contextlib.closing(journal),
        zmq.Context() as context,
        contextlib.closing(bind(config.listen.host, config.listen.port, "listen.port")) as public,
        contextlib.closing(bind(config.listen.admin_host, config.listen.admin_port, "listen.admin_port")) as private,
    ):
        fallback = PromptReader(
            local=None, engine=None, hasher=BlockHasher(1), hash_seed=config.tokens.hash_seed, executor=executor
        )
        readers = Readers(roster, fallback)
        async with (
            httpx.AsyncClient(timeout=config.probe.timeout_seconds, headers=replica_headers) as http,
            asyncio.TaskGroup() as tasks,
        ):
            proving = Proving(
                config,
                roster=roster,
                health=health,
                trust=trust,
                upstreams=upstreams,
                readers=readers,
                executor=executor,
                clock=clock,
                tasks=tasks,
                credentials=replica_headers,
                say=say,
            )
            rooms = Rooms(
                roster=roster,
                health=health,
                ledger=ledger,
                latency=latency,
                newcomers=newcomers,
                rates=rates,
                sessions=sessions,
                accuracy=accuracy,
                counters=counters,
                trust=trust,
                ingest=ingest,
                guessed=guessed,
                silence=silence,
                admission=admission,
                metrics=metrics,
                misses=misses,
                pairs=pairs,
                upstreams=upstreams,
            )
            seating = Seating(config, rooms, clock)
            keeper = Keeper(
                config,
                rooms,
                seating,
                clock=clock,
                http=http,
                dialects=DIALECTS,
                context=context,
                tasks=tasks,
                prover=proving,
                say=say,
            )
            line = None
            if config.shared.redis_url is not None:
                line = Line(
                    config.shared,
                    f"{socket.gethostname()}:{public.getsockname()[1]}",
                    roster=roster,
                    ledger=ledger,
                    rates=rates,
                    index=index,
                    open_blocks=open_blocks,
                    freed=(admission.nudge, *(() if holding is None else (holding.nudge,))),
                    clock=clock,
                    counts=metrics.shared,
                    say=say,
                    rng=random.Random(),
                    stories=Stories(roster, ingest, index, keeper.streams.subscription),
                    warm_counts=metrics.warm_index,
                )
            membership, sources = Membership(keeper, say), tuple(sources_of(config, clock, say))
            house = House(
                f"http://{shown(config.listen.host)}:{public.getsockname()[1]}",
                f"http://{shown(config.listen.admin_host)}:{private.getsockname()[1]}",
                roster=roster,
                ledger=ledger,
                pairs=pairs,
                latency=latency,
                journal=journal,
                admission=admission,
                index=index,
                ingest=ingest,
                accuracy=accuracy,
                readiness=readiness,
                readers=readers,
                receipts=receipts,
                health=health,
                trust=trust,
                keeper=keeper,
                proving=proving,
                seating=seating,
                misses=misses,
                news=news,
                recorder=recorder,
                holding=holding,
                membership=membership,
                sources=sources,
                in_force=in_force,
                line=line,
            )
            metrics.gauges.append(gauges(house, lag))
            handoff = Handoff(
                roster=roster, upstreams=upstreams, handshakes=HANDSHAKES, http=http, rng=random.Random(config.seed)
            )
            warming = Warming(
                roster=roster,
                health=health,
                pairs=pairs,
                handoff=handoff,
                headers=replica_headers,
                rng=random.Random(),
                tasks=tasks,
                say=say,
            )
            dispatch = Dispatch(
                decider,
                health,
                account,
                admission,
                upstreams,
                metrics,
                clock,
                shadowing=shadowing(whole, metrics, say),
                holding=holding,
                handoff=handoff,
                pairs=pairs,
            )
            serve = Serve(
                roster=roster,
                readers=readers,
                admission=admission,
                dispatch=dispatch,
                account=account,
                credentials=credentials,
                metrics=metrics,
                clock=clock,
                session_headers=config.sessions.headers,
                reads_sessions=any(one.reads_sessions for one in whole.policies),
                usage_probe=config.usage_probe,
                body_limit_bytes=int(config.limits.body_megabytes * 2**20),
                recorder=recorder,
            )
            membership.seen(CONFIGURED, replicas_of(config))
            swap = Swap(house, decider, dispatch, serve, account, room, newcomers, sessions, metrics, say)
            reload = Reload(source, in_force, swap, metrics=metrics, clock=clock, say=say)
            beats = [
                tasks.create_task(lag.run()),
                tasks.create_task(reload.run()),
                tasks.create_task(keep_house(house, clock, warming)),
            ]
            beats += [tasks.create_task(follow(source, membership.seen, say)) for source in sources]
            if line is not None:
                beats.append(tasks.create_task(line.run()))
            routes = Routes(serve, control(roster, readiness, lambda: serve.credentials, clock.wall()))
            private_routes = admin(
                metrics,
                receipts,
                readiness,
                fleet=lambda: [replica_entry(house, seat, clock) for seat in roster.present()],
                routers=lambda: routers_entry(house.line, clock),
                record=lambda seconds, model: recorder.stream(
                    seconds=seconds,
                    model=model,
                    fleet=recorded_fleet(house, model),
                    clock=clock,
                    idle=lambda: admission.in_flight == 0,
                ),
                control=Operator(membership, seating),
                in_force=in_force,
                reload=reload.now,
                admin_token=config.auth.admin_token(),
            )
            try:
                async with (
                    listening(private_routes, private, lambda: 1.0),
                    listening(
                        routes,
                        public,
                        lambda: in_force.config.limits.drain_seconds,
                        lambda: readiness.draining,
                    ),
                ):
                    try:
                        yield house
                    finally:
                        recorder.stop()
            finally:
                for beat in beats:
                    beat.cancel()
                warming.close()
                proving.close()
                keeper.close()


def _only(faults: BaseException) -> BaseException:
    while isinstance(faults, BaseExceptionGroup) and len(faults.exceptions) == 1:
        faults = faults.exceptions[0]
    return faults
