"""One simulated replica: an engine driven by the wall clock, its event sockets, and its failures. Edge.

`run` owns everything that lives as long as the replica. Dying and restarting are part of that life: a new process has
an empty cache, a new root for its names, a new start time, and events numbered from 0.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from router.clock import Clock
from router.sim.engine import Engine, EngineLimits, Job, Output
from router.sim.failures import Failures, Order
from router.sim.publish import EventSettings, Publisher
from router.sim.timing import Timing


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What one replica is, whichever process plays it."""

    host: str
    port: int
    events_port: int
    replay_port: int  # 0: no replay
    limits: EngineLimits
    timing: Timing
    events: EventSettings
    seed: int | None = None  # None: another root for every process; a number makes runs repeatable
    role: str = "both"  # prefill or decode, which only SGLang's handshake needs to know


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A finished prompt whose blocks wait to be fetched. `gone` is set when they were, or their lease is over."""

    job_id: str
    tokens: int
    cached_tokens: int
    blocks: tuple[int, ...]
    gone: asyncio.Event


class Listener(Protocol):
    """What takes HTTP connections for a replica."""

    async def start(self) -> None: ...

    def stop(self) -> None:
        """Close the port and drop every connection."""


class Replica:
    """Requests in, tokens out. `submit` and `cancel` may be called from the event loop at any time."""

    def __init__(self, settings: ReplicaSettings, clock: Clock) -> None:
        self.settings = settings
        self.failures = Failures(settings.seed or 0)
        self.alive = False
        self.process_start_time = clock.wall()
        self._clock = clock
        self.kept: dict[str, Kept] = {}
        self.expired_transfers = 0
        self.fetched_bytes = 0
        self.fetched_seconds = 0.0
        self._incarnation = 0
        self._publisher = Publisher(
            settings.host, settings.events_port, settings.replay_port, settings.events, self.failures
        )
        self._sinks: dict[str, asyncio.Queue[Output | None]] = {}
        self._wake = asyncio.Event()
        self._orders: asyncio.Queue[Order] = asyncio.Queue()
        self.engine = self._new_engine()

    async def run(self, listener: Listener, ready: asyncio.Event) -> None:
        """Live until cancelled. `ready` is set once the ports are open."""
        try:
            await self._publisher.open()
            await listener.start()
            self.alive = True
            ready.set()
            async with asyncio.TaskGroup() as tasks:
                replays = tasks.create_task(self._publisher.serve_replays())
                tasks.create_task(self._drive())
                while True:
                    order = await self._orders.get()
                    if order.restart or order.die is not None:
                        replays.cancel()
                        await self._fall(listener, order)
                        replays = tasks.create_task(self._publisher.serve_replays())
        finally:
            listener.stop()
            self._publisher.destroy()

    def obey(self, order: Order) -> None:
        """Take over failure switches; a death takes effect at once, whatever undoes it comes later."""
        self.failures.obey(order)
        self.engine.timing = self.settings.timing.faster(1 / self.failures.slow)
        if order.restart_silent:
            self._begin_process()
        if order.other_engine:
            counters = self.engine.counters
            self._swap_engine()
            self.engine.counters = counters  # nothing that is told betrays it
        self._orders.put_nowait(order)

    def submit(self, job: Job, sink: asyncio.Queue[Output | None]) -> None:
        """Queue a job; its outputs come through the sink, None when its process has died. ValueError as the engine."""
        self.engine.submit(job)
        self._sinks[job.request_id] = sink
        self._wake.set()

    def cancel(self, request_id: str) -> None:
        if self._sinks.pop(request_id, None) is not None:
            self.engine.cancel(request_id)

    @property
    def engine_id(self) -> str:
        """Another one for every process."""
        seed = f"{self.settings.seed}/{self.settings.port}/{self._incarnation}/{self.process_start_time}"
        return sha256(seed.encode()).hexdigest()[:32]

    def keep(self, job_id: str, tokens: int, cached_tokens: int) -> Kept:
        """A finished job's blocks stay, for who fetches them."""
        kept = Kept(job_id, tokens, cached_tokens, self.engine.kept_blocks(job_id), asyncio.Event())
        self.kept[job_id] = kept
        return kept

    def release(self, kept: Kept, *, expired: bool = False) -> None:
        """They were fetched, or nobody came. Again: nothing."""
        if self.kept.get(kept.job_id) is not kept:
            return
        del self.kept[kept.job_id]
        self.expired_transfers += expired
        self.engine.release(kept.job_id)
        self._wake.set()  # somebody may have waited for these blocks
        kept.gone.set()

    def transferred(self, count_bytes: int, seconds: float) -> None:
        self.fetched_bytes += count_bytes
        self.fetched_seconds += seconds

    async def _drive(self) -> None:
        while True:
            self._wake.clear()
            due = self.engine.next_step_at() if self.alive else None
            if due is None:
                await self._wake.wait()
                continue
            await asyncio.sleep(max(0.0, due - self._clock.now()))
            engine = self.engine
            result = engine.step(self._clock.now())
            self._publisher.publish(self._clock.wall(), result.events)
            for output in result.outputs:
                sink = self._sinks.pop(output.request_id, None) if output.finished else self._sinks[output.request_id]
                if sink is not None:
                    sink.put_nowait(output)

    async def _fall(self, listener: Listener, order: Order) -> None:
        """The process dies; unless it is to stay dead, the next one begins."""
        if order.die is not False and self.alive:
            self.alive = False
            listener.stop()
            self._publisher.close()
            self._begin_process()
        if order.die and order.for_seconds is None:
            while not (order := await self._orders.get()).restart and order.die is not False:
                pass
        elif order.for_seconds:
            await asyncio.sleep(order.for_seconds)
        if not self.alive:
            self._begin_process()
            await self._publisher.open()
            await listener.start()
            self.alive = True
            self._wake.set()

    def _begin_process(self) -> None:
        """Everything a process holds in memory is lost, its open requests too."""
        self.process_start_time = self._clock.wall()
        self._publisher.forget()
        self._swap_engine()

    def _swap_engine(self) -> None:
        """Another engine, with an empty cache, its own names for blocks, and none of the open requests."""
        self._incarnation += 1
        self.engine = self._new_engine()
        for sink in self._sinks.values():
            sink.put_nowait(None)
        self._sinks.clear()
        for kept in self.kept.values():
            kept.gone.set()
        self.kept.clear()
        self._wake.set()

    def _new_engine(self) -> Engine:
        settings = self.settings
        root = os.urandom(32)
        if settings.seed is not None:
            root = sha256(f"{settings.seed}/{settings.port}/{self._incarnation}".encode()).digest()
        timing = settings.timing.faster(1 / self.failures.slow)
        return Engine(settings.limits, timing, root, names_as_bytes=settings.events.names_as_bytes)
