"""One run of the lab: a policy on a virtual fleet under a workload, and how to play it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from router.fleet.replica import Role
from router.lab.brain import Brain, Setup
from router.lab.outcome import Outcome, outcome
from router.lab.workloads import Load, WorkloadAt
from router.policy import load
from router.sim.engine import EngineLimits
from router.sim.timing import TIMINGS
from router.sim.virtual import News, Story, VirtualFleet


@dataclass(frozen=True, slots=True)
class Fleet:
    """The virtual machines a policy is tried on."""

    replicas: int
    cache_tokens: int  # per replica
    block_size_tokens: int
    timing: str
    routers: int = 1
    events: bool = True
    event_delay_seconds: float = 0.002
    lost_events_ratio: float = 0.0
    roles: tuple[Role, ...] = ()  # by replica, where KV can be handed over
    noise_ratio: float = 0.0  # standard deviation of a step's length over its mean


@dataclass(frozen=True, slots=True)
class Run:
    """One policy, one load, one seed. Small enough to be sent to another process."""

    policy: str
    workload: str
    fleet: Fleet
    load: Load


@dataclass(frozen=True, slots=True)
class Played:
    """A run's figures, and what became of each request by its id."""

    outcome: Outcome
    stories: Mapping[str, Story]


def play(run: Run, at: WorkloadAt) -> Played:
    """Play one run to its end. Raises ConfigError for a policy that cannot be used."""
    fleet = run.fleet
    blocks = fleet.cache_tokens // fleet.block_size_tokens
    limits = EngineLimits(block_count=blocks + 1, block_size_tokens=fleet.block_size_tokens)
    setup = Setup(
        load.load(run.policy),
        fleet.replicas,
        fleet.block_size_tokens,
        blocks,
        hears_events=fleet.events,
        roles=fleet.roles,
    )
    brains = [Brain(setup, run.load.seed + number) for number in range(fleet.routers)]
    began_seconds = time.process_time()
    virtual = VirtualFleet(
        replicas=fleet.replicas,
        limits=limits,
        timing=TIMINGS[fleet.timing],
        routers=brains,
        workload=at(run.load),
        seed=run.load.seed,
        news=News(fleet.event_delay_seconds, lost_ratio=fleet.lost_events_ratio),
        noise_ratio=fleet.noise_ratio,
    )
    virtual.run()
    figures = outcome(
        list(virtual.stories.values()),
        policy=run.policy,
        rate_per_second=run.load.rate_per_second,
        sessions=run.load.sessions,
        seed=run.load.seed,
        replicas=fleet.replicas,
        judged=sum(int(brain.accuracy.judged.sum()) for brain in brains),
        exact=sum(int(brain.accuracy.exact.sum()) for brain in brains),
        cpu_seconds=time.process_time() - began_seconds,
    )
    return Played(figures, virtual.stories)
