"""`homing simulate`: what one policy would do to your traffic, held against the one you have now."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from rich.console import Console

from router import config
from router.errors import ConfigError
from router.lab.compare import TABLE_WIDTH
from router.lab.many import play_all
from router.lab.outcome import as_json, side_by_side
from router.lab.pairs import Difference, difference
from router.lab.run import Fleet, Played, Run
from router.lab.usual import TIMING, usual, usual_rate
from router.lab.verdict import held_against, verdict
from router.lab.workloads import Load, workload
from router.policy import load
from router.sim.timing import TIMINGS

DEFAULT_POLICY = "cache_aware"


@dataclass(frozen=True, slots=True)
class Step:
    """Both policies at one rate: one run of each a seed."""

    rate_per_second: float
    present: Sequence[Played]
    proposed: Sequence[Played]

    @property
    def difference(self) -> Difference | None:
        """In mean TTFT; None where too few requests were answered to tell."""
        try:
            return difference(*([one.ttft_seconds for one in runs] for runs in (self.proposed, self.present)))
        except ValueError:
            return None


@click.command()
@click.argument("policy", metavar="POLICY")
@click.option(
    "--workload",
    "workload_name",
    required=True,
    metavar="FILE|NAME",
    help="A file of `homing record`, or whatever `homing compare` plays.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="homing.yaml",
    help="Take the present policy and the number of replicas from here.",
)
@click.option(
    "--against", metavar="POLICY", help="The present policy.  [default: --config's, the recording's, cache_aware]"
)
@click.option(
    "--replicas", type=click.IntRange(min=1), help="[default: --config's, the recording's, the preset's, or 8]"
)
@click.option(
    "--cache-tokens",
    type=click.IntRange(min=1024),
    help="KV cache of each replica, in tokens.  [default: the recording's, the preset's, or 1,000,000]",
)
@click.option(
    "--timing",
    type=click.Choice(sorted(TIMINGS)),
    help=f"Whose published speed the engines have: the nearest to yours.  [default: the preset's, or {TIMING}]",
)
@click.option(
    "--speedup",
    type=click.FloatRange(min=0, min_open=True),
    help="Engines so many times as fast as --timing.  [default: as the recording's first tokens came, else 1]",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Requests a second, to which all times are squeezed; repeat it to see more traffic than there is.  "
    "[default: as recorded]",
)
@click.option("--requests", default=2_000, show_default=True, type=click.IntRange(min=1), help="Requests of each run.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Runs of each, other seeds.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--json", "as_values", is_flag=True, help="Figures and verdicts as JSON.")
def command(
    policy: str,
    workload_name: str,
    config_file: Path | None,
    against: str | None,
    replicas: int | None,
    cache_tokens: int | None,
    timing: str | None,
    speedup: float | None,
    rates: tuple[float, ...],
    requests: int,
    seeds: int,
    jobs: int | None,
    as_values: bool,
) -> None:
    """What POLICY would do to your traffic, before you roll it out.

    \b
    1. Record what your requests look like (no text is kept):
         homing record --seconds 600 --out traffic.jsonl.zst
    2. Play them under the policy you have and the one you think of:
         homing simulate mine.yaml --workload traffic.jsonl.zst --timing qwen3_32b_h100
    3. If it is better, let it look over the shoulder of the live one, then roll it out:
         homing serve homing.yaml --shadow-policy mine.yaml

    Both policies answer the same requests on the same simulated fleet: as many replicas, with as much KV cache, as the
    recording tells, homing.yaml has or flags say. The answer is the mean difference in the time to first token,
    request by request, with its 95 % interval. An interval that holds 0 is no answer; more requests make it narrower.

    The engines are simulated: a published fit, made as fast as the recording shows yours to be. What the present policy
    really did stands beside what it does here, so that you see how far to trust it: the order of two policies more than
    the seconds. A session's next request comes as long after an answer as it really did, all others at their recorded
    times.
    """
    try:
        known = usual(workload_name, timing)
        own = config.read(config_file, {}) if config_file else None
        told = own or known.recorded
        present = against or (told.policy if told else DEFAULT_POLICY)
        fleet = replace(
            known.fleet,
            replicas=replicas or (len(own.replicas) if own else known.fleet.replicas),
            cache_tokens=cache_tokens or known.fleet.cache_tokens,
            speedup=speedup or known.fleet.speedup,
            index_by_design=False,  # a gateway gives every policy the best it has
        )
        for one in (policy, present):
            load.load(one)
        workload(workload_name)
        steps = _played(
            (present, policy), workload_name, fleet, rates or (usual_rate(workload_name),), requests, seeds, jobs
        )
    except ConfigError as fault:
        raise click.ClickException(fault.message) from None
    outcomes = [one.outcome for step in steps for one in (*step.present, *step.proposed)]
    if as_values:
        click.echo(
            json.dumps({"outcomes": as_json(outcomes), "verdicts": [_as_json(step) for step in steps]}, indent=2)
        )
        return
    title = (
        f"{Path(workload_name).name}: {outcomes[0].requests:,} requests, {fleet.replicas} replicas of "
        f"{fleet.cache_tokens:,} KV tokens, {fleet.timing} x {fleet.speedup:g}, {seeds} seeds"
    )
    console = Console()
    if console.width < TABLE_WIDTH:
        console = Console(width=TABLE_WIDTH)
    console.print(side_by_side(outcomes, title))
    recorded, truth = known.recorded, known.truth
    if recorded and truth and not rates and (recorded.policy, recorded.replicas) == (present, fleet.replicas):
        click.echo(held_against(truth, [one.outcome for one in steps[0].present]))
    for step in steps:
        ours, theirs = ([one.outcome for one in runs] for runs in (step.proposed, step.present))
        click.echo(verdict(policy, present, step.rate_per_second, step.difference, ours, theirs))


def _played(
    policies: tuple[str, str],
    workload_name: str,
    fleet: Fleet,
    ladder: Sequence[float],
    requests: int,
    seeds: int,
    jobs: int | None,
) -> list[Step]:
    """Both policies, the present one first, at every rate of the ladder."""
    runs = [
        Run(policy, workload_name, fleet, Load(requests, rate, None, seed))
        for rate in ladder
        for policy in policies
        for seed in range(1, seeds + 1)
    ]
    played = play_all(runs, jobs or os.cpu_count() or 1)
    groups = [played[at : at + seeds] for at in range(0, len(played), seeds)]
    return [Step(rate, *groups[2 * at : 2 * at + 2]) for at, rate in enumerate(ladder)]


def _as_json(step: Step) -> dict[str, object]:
    found = step.difference
    return {
        "rate_per_second": step.rate_per_second,
        "verdict": found and found.verdict,
        "ttft_difference_seconds": found and asdict(found),
    }
