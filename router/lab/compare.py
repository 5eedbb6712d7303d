"""`homing compare`: what policies would do to a workload, side by side, before any of them is rolled out."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from router.errors import ConfigError
from router.lab.outcome import Outcome, as_json, side_by_side
from router.lab.run import Fleet, Run, play
from router.lab.workloads import PRESETS, Load, workload
from router.policy import load
from router.sim.timing import TIMINGS

DEFAULT_POLICIES = ("round_robin", "least_loaded", "cache_aware")
DEFAULT_BLOCK_TOKENS = 64  # small enough for shared beginnings, large enough to be quick
TABLE_WIDTH = 112  # a run a line, whatever the terminal
TRACE_REPLICAS, TRACE_CACHE_TOKENS, TRACE_TIMING = 8, 1_000_000, "llama3_70b_h100"


@click.command()
@click.argument("policies", nargs=-1, metavar="[POLICY]...")
@click.option(
    "--workload",
    "workload_name",
    default="b2b-73",
    show_default=True,
    metavar="NAME|FILE",
    help=f"One of {', '.join(PRESETS)}, or a file (JSON lines, .zst too): a trace of block ids or "
    "lengths, or an agents' log.",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Requests a second. Repeat it for a ladder.  [default: 20]",
)
@click.option(
    "--sessions",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Sessions at a time, instead of a rate, where the workload has sessions. Repeat it for a ladder.",
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
    help=f"Whose published speed the engines have.  [default: the preset's, or {TRACE_TIMING}]",
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
@click.option(
    "--noise",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="How much the length of an engine's step varies: its standard deviation over its mean.",
)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Runs of each, other seeds.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--json", "as_values", is_flag=True, help="Figures of every run as JSON instead of a table.")
def command(
    policies: tuple[str, ...],
    workload_name: str,
    rates: tuple[float, ...],
    sessions: tuple[int, ...],
    requests: int,
    replicas: int | None,
    cache_tokens: int | None,
    block_size: int,
    timing: str | None,
    routers: int,
    events: bool,
    event_delay: float,
    lost_events: float,
    noise: float,
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
      homing compare session_sticky cache_aware --workload agents --sessions 100

    The router that decides is Homing's own, line for line; the engines are simulated: continuous batching, chunked
    prefill, a paged prefix cache with eviction, and step times from published fits. Trust the order of policies more
    than the seconds.
    """
    preset = PRESETS.get(workload_name)
    fleet = Fleet(
        replicas=replicas or (preset.replicas if preset else TRACE_REPLICAS),
        cache_tokens=cache_tokens or (preset.cache_tokens if preset else TRACE_CACHE_TOKENS),
        block_size_tokens=block_size,
        timing=timing or (preset.timing if preset else TRACE_TIMING),
        routers=routers,
        events=events,
        event_delay_seconds=event_delay,
        lost_events_ratio=lost_events,
        noise_ratio=noise,
    )
    loads: list[tuple[float, int | None]] = [(0.0, number) for number in sessions]
    loads += [(rate, None) for rate in rates or (() if sessions else (20.0,))]
    runs = [
        Run(policy, workload_name, fleet, Load(requests, rate, at_a_time, seed))
        for rate, at_a_time in loads
        for policy in policies or DEFAULT_POLICIES
        for seed in range(1, seeds + 1)
    ]
    try:
        for policy in dict.fromkeys(run.policy for run in runs):
            load.load(policy)
        workload(workload_name)
        outcomes = _all(runs, jobs or os.cpu_count() or 1)
    except ConfigError as fault:
        raise click.ClickException(fault.message) from None
    if as_values:
        click.echo(json.dumps(as_json(outcomes), indent=2))
        return
    title = (
        f"{workload_name}: {requests:,} requests, {fleet.replicas} replicas of {fleet.cache_tokens:,} KV tokens, "
        f"{fleet.timing}" + (f", {seeds} seeds" if seeds > 1 else "")
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
        at = workload(runs[0].workload)
        for run in runs:
            yield play(run, at).outcome
        return
    # Spawned, not forked: a fork would copy the threads' locks of whoever calls.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_figures, runs)


def _figures(run: Run) -> Outcome:
    return play(run, workload(run.workload)).outcome
