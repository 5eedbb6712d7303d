"""One storm from its beginning to the calm after it, and what came of it. Edge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.chaos.calm import Calm, predictions, well_again
from loadtest.chaos.fleet import Fleet, Patience, running
from loadtest.chaos.judge import Finding, Seen, Shunned, Window, judge, wrongly
from loadtest.chaos.load import send_all
from loadtest.chaos.schedule import Trouble, asks, troubles
from loadtest.chaos.storm import Storm
from loadtest.chaos.vitals import Breath, Memory, left_over, memories, watch

STALL_LOOK_SECONDS = 0.1
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run is. The same terms give the same troubles and the same requests at the same moments."""

    seed: int
    seconds: float
    replicas: int = 4
    per_second: float = 12.0
    troubles_per_minute: float = 20.0
    calm_requests: int = 100  # to each router
    speedup: float = 2.0
    patience: Patience = field(default_factory=Patience)


@dataclass
class Run:
    """What came of it. `ill`: who was not found well in time afterwards."""

    terms: Terms
    with_redis: bool
    seen: list[Seen] = field(default_factory=list)
    findings: list[tuple[Seen, Finding]] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    shunned: list[Shunned] = field(default_factory=list)  # wrongly
    worst_stall_seconds: float = 0.0  # of the driver: how badly the machine itself hung
    ill: dict[str, str] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    calms: list[Calm] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """Everything that is against the rules; empty: all is well."""
        found = [
            f"at {seen.sent_seconds:.1f} s, request {seen.request_id} to router {seen.ask.router}: {finding.fault}"
            for seen, finding in self.findings
            if finding.fault is not None
        ]
        found += [
            f"at {one.at_seconds:.1f} s, router {one.router} held r{one.replica} for ill, and nothing was done to it"
            for one in self.shunned
        ]
        found += [f"{who} was not well again: {how}" for who, how in self.ill.items()]
        found += [f"left open: {name} is {count:g}" for name, count in self.left.items()]
        found += [f"predictions: {calm}" for calm in self.calms if not calm.is_right]
        found += [f"memory: {one}" for one in self.memories if not one.is_flat]
        return found + [f"a router said: {said}" for said in self.tracebacks]


def _silent(_what: object) -> None:
    pass


async def play(
    terms: Terms,
    folder: Path,
    *,
    on_trouble: Callable[[Trouble], None] = _silent,
    on_seen: Callable[[Seen], None] = _silent,
) -> Run:
    """`folder` gets what the processes say."""
    async with running(terms.replicas, terms.patience, folder, terms.speedup) as fleet:
        run = Run(terms, fleet.redis is not None)
        run.ill = await well_again(fleet)
        if run.ill:
            return run
        await _storm(run, fleet, on_trouble, on_seen)
        run.findings = [
            (seen, finding) for seen in run.seen if (finding := judge(seen, run.windows, terms.replicas)) is not None
        ]
        run.ill = await well_again(fleet)
        run.calms = await predictions(fleet, terms.calm_requests)
        run.left = await left_over(fleet)
        run.tracebacks = _tracebacks(fleet)
        return run


async def _storm(
    run: Run, fleet: Fleet, on_trouble: Callable[[Trouble], None], on_seen: Callable[[Seen], None]
) -> None:
    terms = run.terms
    loop = asyncio.get_running_loop()
    began = loop.time()

    def now() -> float:
        return loop.time() - began

    def note(seen: Seen) -> None:
        run.seen.append(seen)
        on_seen(seen)

    async def measure_stalls() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(STALL_LOOK_SECONDS)
            run.worst_stall_seconds = max(run.worst_stall_seconds, loop.time() - before - STALL_LOOK_SECONDS)

    storm, breaths, shunned = Storm(fleet, now, on_trouble), list[Breath](), list[Shunned]()
    to_come = asks(terms.seed, terms.seconds, terms.per_second)
    async with asyncio.TaskGroup() as tasks:
        watching = [tasks.create_task(watch(fleet, now, breaths, shunned)), tasks.create_task(measure_stalls())]
        raging = tasks.create_task(
            storm.rage(troubles(terms.seed, terms.seconds, terms.replicas, terms.troubles_per_minute))
        )
        await send_all(to_come, fleet, terms.patience, now, note)
        await raging
        for one in watching:
            one.cancel()
    run.windows, run.memories = storm.windows, memories(breaths)
    run.shunned = wrongly(shunned, storm.windows)


def _tracebacks(fleet: Fleet) -> list[str]:
    """What routers said when they failed in a way nobody foresaw."""
    found = []
    for router in fleet.routers:
        said = router.child.said.read_text(errors="replace")
        if TRACEBACK in said:
            found.append(said[said.index(TRACEBACK) :][:4000])
    return found
