"""One run of the lab: a policy on a virtual fleet under a workload, and how to play it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random

from router.fleet.replica import Role
from router.index.open_blocks import OpenBlocks
from router.lab.brain import Brain, Setup
from router.lab.channel import Channel
from router.lab.outcome import Outcome, outcome
from router.lab.workloads import Load, WorkloadAt
from router.policy import load
from router.policy.decider import open_blocks_for
from router.policy.pipeline import IndexSource, Policy
from router.sim.engine import EngineLimits
from router.sim.rough import rough
from router.sim.timing import TIMINGS, Timing
from router.sim.troubles import News, Trouble
from router.sim.virtual import Story, VirtualFleet


@dataclass(frozen=True, slots=True)
class Fleet:
    """The virtual machines a policy is tried on."""

    replicas: int
    cache_tokens: int  # per replica
    block_size_tokens: int
    timing: str
    speedup: float = 1.0  # engines are so many times as fast as that
    routers: int = 1
    shared: bool = False  # routers tell each other what they have open, as they do through Redis; False: none knows
    share_delay_seconds: float = 0.002  # from a message's writer to its readers
    events: bool = True
    index_by_design: bool = True  # who is made for an approximate index has one; False: events, as a gateway gives all
    event_delay_seconds: float = 0.002
    lost_events_ratio: float = 0.0
    roles: tuple[Role, ...] = ()  # by replica, where KV can be handed over
    slow: float = 1.0  # replica 0 takes so many times as long for its steps
    join_seconds: float | None = None  # the last replica comes then, cold; None: it is there from the start
    noise_ratio: float = 0.15  # standard deviation of a step's length over its mean; 0: exactly the fit, no effects
    prior_ratio: float = 0.5  # the prefill rate that routers begin with, over what the engines' timing comes to


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
    shared_bytes: int = 0  # that routers told each other, all together

    @property
    def ttft_seconds(self) -> dict[str, float]:
        """Of the requests that were answered, by id, in the order of arrival."""
        return {
            name: story.first_token_seconds - story.arrival_seconds
            for name, story in self.stories.items()
            if story.finished and story.first_token_seconds is not None
        }


def play(
    run: Run,
    at: WorkloadAt,
    policy: Policy | None = None,
    open_blocks: Callable[[Iterable[Policy]], OpenBlocks | None] = open_blocks_for,
) -> Played:
    """Play one run to its end. Raises ConfigError for a policy that cannot be used.

    `policy`: played in place of the one that the run names, for what no file can tell. `open_blocks`: what each router
    keeps of open requests for it.
    """
    fleet = run.fleet
    blocks = fleet.cache_tokens // fleet.block_size_tokens
    limits = EngineLimits(block_count=blocks + 1, block_size_tokens=fleet.block_size_tokens)
    policy = policy or load.load(run.policy)
    timing = TIMINGS[fleet.timing].faster(fleet.speedup)
    setup = Setup(
        policy,
        fleet.replicas,
        fleet.block_size_tokens,
        blocks,
        hears_events=fleet.events and not (fleet.index_by_design and policy.index is IndexSource.APPROXIMATE),
        prior_tokens_per_second=fleet.prior_ratio * timing.prefill_tokens_per_second(),
        roles=fleet.roles,
        open_blocks=open_blocks,
    )
    brains = [Brain(setup, run.load.seed + number) for number in range(fleet.routers)]
    began_seconds = time.process_time()
    channel = Channel(brains, fleet.share_delay_seconds) if fleet.shared and fleet.routers > 1 else None
    virtual = VirtualFleet(
        replicas=fleet.replicas,
        limits=limits,
        timing=lambda number: _timing(timing, fleet.noise_ratio, run.load.seed, number),
        routers=brains,
        workload=at(run.load),
        seed=run.load.seed,
        news=News(fleet.event_delay_seconds, lost_ratio=fleet.lost_events_ratio),
        troubles=[] if fleet.slow == 1.0 else [Trouble(0.0, 0, slow=fleet.slow)],
        pulse=None if channel is None else channel.advance,
        joins=[] if fleet.join_seconds is None else [(fleet.join_seconds, fleet.replicas - 1)],
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
    return Played(figures, virtual.stories, 0 if channel is None else channel.bytes_told)


def _timing(timing: Timing, noise_ratio: float, seed: int, replica: int) -> Timing:
    """An engine's own: chances of engines and of everything else are apart, so noise changes nothing but times."""
    return rough(timing, noise_ratio, Random(seed * 10_007 + replica)) if noise_ratio else timing
