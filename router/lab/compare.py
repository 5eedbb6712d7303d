"""`homing compare`: what policies would do to a workload, side by side, before any of them is rolled out."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from router.errors import ConfigError
from router.lab.brain import Brain, Setup
from router.lab.outcome import Outcome, as_json, outcome, side_by_side
from router.lab.workloads import PRESETS, WorkloadAt, preset_at, trace_at, trace_rows
from router.policy import load
from router.sim.engine import EngineLimits
from router.sim.timing import TIMINGS
from router.sim.virtual import News, VirtualFleet

DEFAULT_POLICIES = ("round_robin", "least_loaded", "cache_aware")
DEFAULT_BLOCK_TOKENS = 64  # small enough for shared beginnings, large enough to be quick
TABLE_WIDTH = 112  # a run a line, whatever the terminal
TRACE_REPLICAS, TRACE_CACHE_TOKENS = 8, 1_000_000


@dataclass(frozen=True, slots=True)
class Fleet:
    """The virtual machines a policy is tried on."""

    replicas: int
    cache_tokens: int  # per replica
    block_size_tokens: int
    timing: str
    routers: int
    events: bool
    event_delay_seconds: float
    lost_events_ratio: float


@dataclass(frozen=True, slots=True)
class Run:
    """One policy, one rate, one seed. Small enough to be sent to another process."""

    policy: str
    workload: str
    requests: int
    fleet: Fleet
    rate_per_second: float
    seed: int


def play(run: Run) -> Outcome:
    """Play one run to its end. Raises ConfigError for a policy or workload that cannot be used."""
    fleet = run.fleet
    limits = EngineLimits(
        block_count=fleet.cache_tokens // fleet.block_size_tokens + 1, block_size_tokens=fleet.block_size_tokens
    )
    setup = Setup(
        load.load(run.policy),
        fleet.replicas,
        fleet.block_size_tokens,
        limits.block_count - 1,
        hears_events=fleet.events,
    )
    brains = [Brain(setup, run.seed + number) for number in range(fleet.routers)]
    began_seconds = time.process_time()
    virtual = VirtualFleet(
        replicas=fleet.replicas,
        limits=limits,
        timing=TIMINGS[fleet.timing],
        routers=brains,
        workload=workload(run.workload, run.requests)(run.rate_per_second, run.seed),
        seed=run.seed,
        news=News(fleet.event_delay_seconds, lost_ratio=fleet.lost_events_ratio),
    )
    virtual.run()
    return outcome(
        list(virtual.stories.values()),
        policy=run.policy,
        rate_per_second=run.rate_per_second,
        seed=run.seed,
        replicas=fleet.replicas,
        judged=sum(int(brain.accuracy.judged.sum()) for brain in brains),
        exact=sum(int(brain.accuracy.exact.sum()) for brain in brains),
        cpu_seconds=time.process_time() - began_seconds,
    )


def workload(name: str, requests: int) -> WorkloadAt:
    """A preset by name, else a trace file. Raises ConfigError."""
    if name in PRESETS:
        return preset_at(PRESETS[name], requests)
    path = Path(name)
    if not path.exists():
        raise ConfigError([f"{name} is neither a file nor one of: {', '.join(PRESETS)}."])
    return trace_at(trace_rows(path, requests))


@click.command()
@click.argument("policies", nargs=-1, metavar="[POLICY]...")
@click.option(
    "--workload",
    "workload_name",
    default="b2b-73",
    show_default=True,
    metavar="NAME|FILE",
    help=f"One of {', '.join(PRESETS)}, or a trace of block ids or lengths (JSON lines, .zst too).",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Requests a second. Repeat it for a ladder.  [default: 20]",
)
@click.option("--requests", default=1_500, show_default=True, type=click.IntRange(min=1), help="Requests of each run.")
@click.option("--replicas", type=click.IntRange(min=1), help="Replicas.  [default: the preset's, or 8]")
@click.option(
    "--cache-tokens",
    type=click.IntRange(min=1024),
    help="KV cache of each replica, in tokens.  [default: the preset's, or 1,000,000]",
)
@click.option(
    "--block-size",
    default=DEFAULT_BLOCK_TOKENS,
    show_default=True,
    type=click.IntRange(min=1),
    help="Tokens of a KV block.",
)
@click.option(
    "--timing",
    type=click.Choice(sorted(TIMINGS)),
    default="llama3_70b_h100",
    show_default=True,
    help="Whose published speed the engines have.",
)
@click.option(
    "--routers",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Routers that share the fleet without talking to each other.",
)
@click.option("--events/--no-events", default=True, show_default=True, help="Whether engines publish KV events.")
@click.option(
    "--event-delay",
    default=0.002,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds until an event is heard.",
)
@click.option(
    "--lost-events",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of event batches that never come.",
)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Runs of each, other seeds.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--json", "as_values", is_flag=True, help="Figures of every run as JSON instead of a table.")
def command(
    policies: tuple[str, ...],
    workload_name: str,
    rates: tuple[float, ...],
    requests: int,
    replicas: int | None,
    cache_tokens: int | None,
    block_size: int,
    timing: str,
    routers: int,
    events: bool,
    event_delay: float,
    lost_events: float,
    seeds: int,
    jobs: int | None,
    as_values: bool,
) -> None:
    """What policies would do to a workload, in virtual time: no GPU, minutes of traffic in seconds.

    \b
    POLICY is a name from `homing policies` or a YAML file of yours.
      homing compare
      homing compare cache_aware mine.yaml --workload b2b-73 --rate 20 --rate 40
      homing compare round_robin cache_aware --workload trace.jsonl.zst --replicas 16 --rate 10

    The router that decides is Homing's own, line for line; the engines are simulated: continuous batching, chunked
    prefill, a paged prefix cache with eviction, and step times from published fits. Trust the order of policies more
    than the seconds.
    """
    preset = PRESETS.get(workload_name)
    fleet = Fleet(
        replicas=replicas or (preset.replicas if preset else TRACE_REPLICAS),
        cache_tokens=cache_tokens or (preset.cache_tokens if preset else TRACE_CACHE_TOKENS),
        block_size_tokens=block_size,
        timing=timing,
        routers=routers,
        events=events,
        event_delay_seconds=event_delay,
        lost_events_ratio=lost_events,
    )
    runs = [
        Run(policy, workload_name, requests, fleet, rate, seed)
        for rate in rates or (20.0,)
        for policy in policies or DEFAULT_POLICIES
        for seed in range(1, seeds + 1)
    ]
    try:
        for policy in dict.fromkeys(run.policy for run in runs):
            load.load(policy)
        workload(workload_name, requests)
        outcomes = _all(runs, jobs or os.cpu_count() or 1)
    except ConfigError as fault:
        raise click.ClickException(fault.message) from None
    if as_values:
        click.echo(json.dumps(as_json(outcomes), indent=2))
        return
    title = (
        f"{workload_name}: {requests:,} requests, {fleet.replicas} replicas of {fleet.cache_tokens:,} KV tokens, "
        f"{timing}" + (f", {seeds} seeds" if seeds > 1 else "")
    )
    console = Console()
    if console.width < TABLE_WIDTH:
        console = Console(width=TABLE_WIDTH)
    console.print(side_by_side(outcomes, title))
    if preset is not None:
        console.print(f"Workload after {preset.source}.", style="dim")


def _all(runs: Sequence[Run], jobs: int) -> list[Outcome]:
    """The outcomes in the order of the runs, with a bar while they are played."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    outcomes = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("runs", total=len(runs))
        for one in _played(runs, min(jobs, len(runs))):
            outcomes.append(one)
            progress.advance(bar)
    return outcomes


def _played(runs: Sequence[Run], jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(play, runs)
        return
    # Spawned, not forked: a fork would copy the threads' locks of whoever calls.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(play, runs)
