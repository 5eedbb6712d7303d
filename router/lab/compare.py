"""`homing compare`: what policies would do to a workload, side by side, before any of them is rolled out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from router.errors import ConfigError
from router.lab.many import play_all
from router.lab.outcome import as_json, side_by_side
from router.lab.over_time import over_time
from router.lab.pictures import first_tokens, hits_over_time, load_over_time
from router.lab.run import Played, Run
from router.lab.usual import BLOCK_TOKENS, TIMING, usual, usual_rate
from router.lab.workloads import PRESETS, Load, workload
from router.policy import load
from router.sim.timing import TIMINGS

DEFAULT_POLICIES = ("round_robin", "least_loaded", "cache_aware")
TABLE_WIDTH = 112  # a run a line, whatever the terminal


@click.command()
@click.argument("policies", nargs=-1, metavar="[POLICY]...")
@click.option(
    "--workload",
    "workload_name",
    default="b2b-73",
    show_default=True,
    metavar="NAME|FILE",
    help=f"One of {', '.join(PRESETS)}, or a file (JSON lines, .zst too): a recording of "
    "`homing record`, a trace of block ids or lengths, or an agents' log.",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Requests a second. Repeat it for a ladder.  [default: a trace's own, else 20]",
)
@click.option(
    "--sessions",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Sessions at a time, instead of a rate, where the workload has sessions. Repeat it for a ladder.",
)
@click.option("--requests", default=1_500, show_default=True, type=click.IntRange(min=1), help="Requests of each run.")
@click.option(
    "--replicas", type=click.IntRange(min=1), help="Replicas.  [default: the preset's, the recording's, or 8]"
)
@click.option(
    "--cache-tokens",
    type=click.IntRange(min=1024),
    help="KV cache of each replica, in tokens.  [default: the preset's, the recording's, or 1,000,000]",
)
@click.option(
    "--block-size",
    default=BLOCK_TOKENS,
    show_default=True,
    type=click.IntRange(min=1),
    help="Tokens of a KV block.",
)
@click.option(
    "--timing",
    type=click.Choice(sorted(TIMINGS)),
    help=f"Whose published speed the engines have.  [default: the preset's, or {TIMING}]",
)
@click.option(
    "--speedup",
    type=click.FloatRange(min=0, min_open=True),
    help="Engines so many times as fast as --timing.  [default: as a recording's first tokens came, else 1]",
)
@click.option(
    "--routers",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Routers that share the fleet.",
)
@click.option(
    "--shared/--apart",
    default=False,
    show_default=True,
    help="Whether several routers tell each other what they have open, 2 ms away, as they do through Redis.",
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
    default=0.15,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="How much the length of an engine's step varies: its standard deviation over its mean. 0: steps take exactly "
    "what the published fit says, which real ones never do.",
)
@click.option(
    "--prior",
    default=0.5,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="The prefill rate that routers begin with, over the true one: they learn the rest.",
)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Runs of each, other seeds.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also draw first tokens, hits and load over time of seed 1, as SVG files in this folder.",
)
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
    speedup: float | None,
    routers: int,
    shared: bool,
    events: bool,
    event_delay: float,
    lost_events: float,
    noise: float,
    prior: float,
    seeds: int,
    jobs: int | None,
    pictures: Path | None,
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
    try:
        fleet = usual(workload_name, timing).fleet
        fleet = replace(
            fleet,
            replicas=replicas or fleet.replicas,
            cache_tokens=cache_tokens or fleet.cache_tokens,
            speedup=speedup or fleet.speedup,
            block_size_tokens=block_size,
            routers=routers,
            shared=shared,
            events=events,
            event_delay_seconds=event_delay,
            lost_events_ratio=lost_events,
            noise_ratio=noise,
            prior_ratio=prior,
        )
        loads: list[tuple[float, int | None]] = [(0.0, number) for number in sessions]
        loads += [(rate, None) for rate in rates or (() if sessions else (usual_rate(workload_name),))]
        runs = [
            Run(policy, workload_name, fleet, Load(requests, rate, at_a_time, seed))
            for rate, at_a_time in loads
            for policy in policies or DEFAULT_POLICIES
            for seed in range(1, seeds + 1)
        ]
        for policy in dict.fromkeys(run.policy for run in runs):
            load.load(policy)
        workload(workload_name)
        played = play_all(runs, jobs or os.cpu_count() or 1)
        outcomes = [one.outcome for one in played]
    except ConfigError as fault:
        raise click.ClickException(fault.message) from None
    if pictures is not None:
        _draw(pictures, [(run, one) for run, one in zip(runs, played, strict=True) if run.load.seed == 1])
    if as_values:
        click.echo(json.dumps(as_json(outcomes), indent=2))
        return
    title = (
        f"{workload_name}: {outcomes[0].requests:,} requests, {fleet.replicas} replicas of {fleet.cache_tokens:,} KV "
        f"tokens, {fleet.timing}"
        + (f" x {fleet.speedup:g}" if fleet.speedup != 1.0 else "")
        + (f", {seeds} seeds" if seeds > 1 else "")
    )
    console = Console()
    if console.width < TABLE_WIDTH:
        console = Console(width=TABLE_WIDTH)
    console.print(side_by_side(outcomes, title))
    if workload_name in PRESETS:
        console.print(f"Workload after {PRESETS[workload_name].source}.", style="dim")


def _draw(folder: Path, runs: Sequence[tuple[Run, Played]]) -> None:
    """Three pictures for each load, all its policies in each."""
    folder.mkdir(parents=True, exist_ok=True)
    for amount in dict.fromkeys(run.load for run, _ in runs):
        load_name = f"{amount.rate_per_second:g} a second" if amount.sessions is None else f"{amount.sessions} sessions"
        title = f"{Path(runs[0][0].workload).stem}, {load_name}"
        same = {Path(run.policy).stem: one for run, one in runs if run.load == amount}
        over = {name: over_time(list(one.stories.values()), runs[0][0].fleet.replicas) for name, one in same.items()}
        drawn = {
            "ttft": first_tokens(title, {name: list(one.ttft_seconds.values()) for name, one in same.items()}),
            "hits": hits_over_time(title, over),
            "load": load_over_time(title, over),
        }
        for name, svg in drawn.items():
            (folder / f"{load_name.replace(' ', '-')}-{name}.svg").write_text(svg)
